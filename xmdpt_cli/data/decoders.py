"""Processes that decode garments ahead of the networks, and the memory they share with us."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.data.decode import DecodedGarment, decode_garment
from xmdpt_cli.data.listing import Garment
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.images import Picture

T = TypeVar("T")


def cores() -> int:
    """Processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


class Decoders:
    """Processes or threads that decode garments ahead of whoever asks for them, in order.

    Processes write pictures and pose pictures into memory shared with this one, in slots of a
    garment each; through a pipe they would cost as much as drawing the poses. What finds no slot
    free, or does not fit, goes through the pipe.
    """

    def __init__(self, workers: int, sizes: Sequence[int], ahead: int) -> None:
        self.ahead = ahead  # about so many pictures are on the way
        self._slots: Slots | None = None
        self._pool: Executor
        if workers:
            context = get_context("spawn")  # fork would copy torch's and CUDA's threads half
            view = sum(2 * 3 * size * size for size in sizes)
            count = max(4, ahead // 2)  # garments: DeepFashion has three to five views of each
            memory = min(5 * view, 2**28 // count)
            self._slots = Slots(context.RawArray("B", count * memory), count)
            self._pool = ProcessPoolExecutor(
                workers,
                mp_context=context,
                initializer=_begin_decoder,
                initargs=(self._slots.memory, count),
            )
        else:
            self._pool = ThreadPoolExecutor(min(8, cores()))

    def __enter__(self) -> Decoders:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        if isinstance(error, BrokenProcessPool):
            raise XmdptError(
                "a decoder process died (killed from outside, or out of memory)",
                "run the same command again, it goes on; with fewer --workers it needs less memory",
            ) from None

    def map(self, work: Callable[..., T], *arguments: Iterable[Any]) -> Iterator[T]:
        """``Executor.map``."""
        return self._pool.map(work, *arguments)

    def decode(self, garments: Iterable[tuple[Garment, Sequence[int]]]) -> Iterator[DecodedGarment]:
        """Yield (garment, sizes) decoded, in order."""
        pending: deque[tuple[int, int | None, Future[DecodedGarment]]] = deque()
        coming = iter(garments)
        on_the_way = 0
        while True:
            while on_the_way < self.ahead or not pending:
                following = next(coming, None)
                if following is None:
                    break
                garment, sizes = following
                slot = self._slots.take() if self._slots else None
                future = self._pool.submit(_decode_into, garment, sizes, slot)
                pending.append((len(garment.views), slot, future))
                on_the_way += len(garment.views)
            if not pending:
                return
            count, slot, future = pending.popleft()
            on_the_way -= count
            item = future.result()
            if slot is not None:
                assert self._slots is not None
                self._slots.attach(item, slot)
            yield item


class Slots:
    """Shared memory in equal parts; each end has its own object over the same bytes."""

    def __init__(self, memory: Any, count: int) -> None:
        self.memory = memory
        self._bytes: NDArray[np.uint8] = np.frombuffer(memory, dtype=np.uint8).reshape(count, -1)
        self._free = deque(range(count))

    def take(self) -> int | None:
        """A slot nobody uses, if there is one."""
        return self._free.popleft() if self._free else None

    def move(self, item: DecodedGarment, slot: int) -> None:
        """In the decoder: copy pictures into the slot as far as they fit, and drop them."""
        begun, room = 0, self._bytes.shape[1]
        for view in item.views.values():
            for sized in view.sized.values():
                both = [sized.picture] if sized.pose is None else [sized.picture, sized.pose]
                if begun + sum(array.nbytes for array in both) > room:
                    return
                sized.place = begun
                for array in both:
                    self._bytes[slot, begun : begun + array.nbytes] = array.reshape(-1)
                    begun += array.nbytes
                sized.picture = _EMPTY
                sized.pose = None if sized.pose is None else _EMPTY

    def attach(self, item: DecodedGarment, slot: int) -> None:
        """In the main process: let the pictures be views of the slot until ``release``."""
        for view in item.views.values():
            for size, sized in view.sized.items():
                if sized.place is not None:
                    count, shape = 3 * size * size, (size, size, 3)
                    rest = self._bytes[slot, sized.place :]
                    sized.picture = rest[:count].reshape(shape)
                    if sized.pose is not None:
                        sized.pose = rest[count : 2 * count].reshape(shape)
        item.release = lambda: self._free.append(slot)


_EMPTY: Picture = np.empty((0, 0, 3), dtype=np.uint8)
_shared: Slots | None = None  # of a decoder process


def _begin_decoder(memory: Any, count: int) -> None:
    """In a new decoder process: one thread, no say in Ctrl-C, gone when its parent is gone."""
    global _shared
    _shared = Slots(memory, count)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)  # the parent was killed: nobody reads the queue any more

    threading.Thread(target=watch, daemon=True).start()


def _decode_into(garment: Garment, sizes: Sequence[int], slot: int | None) -> DecodedGarment:
    """``decode_garment``, with the pictures left in a slot."""
    item = decode_garment(garment, sizes)
    if slot is not None and _shared is not None:
        _shared.move(item, slot)
    return item
