"""Processes that decode items ahead of the networks, and the memory shared with them."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.datasets.listing import Item
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.images import ImageArray
from xmdpt_cli.prepare.decode import DecodedItem, DecodedView, SizedView, decode_item
from xmdpt_cli.utils.devices import cores

T = TypeVar("T")

FEW = 500  # images: fewer are decoded in threads, as processes take a second to start


def decode_processes(images: int, workers: int | None) -> int:
    """Number of processes that decode the images; 0: threads. ``workers``: None for all cores."""
    if images < FEW:
        return 0
    return cores() if workers is None else workers


class Decoders:
    """Processes or threads that decode items ahead of their use, in order.

    Processes write images and rendered poses into memory shared with this one, in slots of one item
    each; sending them through a pipe would cost as much as rendering the poses. An item that finds
    no free slot, or does not fit, goes through the pipe.
    """

    def __init__(self, workers: int, sizes: Sequence[int], ahead: int) -> None:
        self.ahead = ahead  # about this many images are decoded ahead
        self._slots: Slots | None = None
        self._pool: Executor
        if workers:
            context = get_context("spawn")  # fork would copy torch's and CUDA's threads half
            view = sum(2 * 3 * size * size for size in sizes)
            count = max(4, ahead // 2)  # items: DeepFashion has three to five views of each
            memory = min(5 * view, 2**28 // count)
            self._slots = Slots(context.RawArray("B", count * memory), count)
            self._pool = ProcessPoolExecutor(
                workers,
                mp_context=context,
                initializer=_start_decoder,
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
                "run the same command again, it resumes; with fewer --workers it needs less memory",
            ) from None

    def map(self, work: Callable[..., T], *arguments: Iterable[Any]) -> Iterator[T]:
        """``Executor.map``."""
        return self._pool.map(work, *arguments)

    def decode(self, items: Iterable[tuple[Item, Sequence[int]]]) -> Iterator[DecodedItem]:
        """Yield (item, sizes) decoded, in order."""
        pending: deque[tuple[int, Callable[[], DecodedItem]]] = deque()
        images = 0  # of the pending items
        for item, sizes in items:
            pending.append((len(item.views), self._submit(item, sizes)))
            images += len(item.views)
            while images >= self.ahead:
                count, finish = pending.popleft()
                images -= count
                yield finish()
        while pending:
            yield pending.popleft()[1]()

    def _submit(self, item: Item, sizes: Sequence[int]) -> Callable[[], DecodedItem]:
        """Start decoding an item; the function that waits for it."""
        if self._slots is None:
            return self._pool.submit(decode_item, item, sizes).result
        slots, slot = self._slots, self._slots.take()
        future = self._pool.submit(_decode_packed, item, sizes, slot)
        return lambda: future.result().unpack(item, slots, slot)


class Slots:
    """Shared memory in equal parts; each end has its own object over the same bytes."""

    def __init__(self, memory: Any, count: int) -> None:
        self.memory = memory
        self._bytes: NDArray[np.uint8] = np.frombuffer(memory, dtype=np.uint8).reshape(count, -1)
        self._free = deque(range(count))

    def take(self) -> int | None:
        """A free slot, if there is one."""
        return self._free.popleft() if self._free else None

    def put(self, item: DecodedItem, slot: int) -> dict[tuple[str, int], int]:
        """In the decoder: copy images into a slot as far as they fit; (view, size) -> offset."""
        places: dict[tuple[str, int], int] = {}
        used, room = 0, self._bytes.shape[1]
        for name, view in item.views.items():
            for size, sized in view.sized.items():
                both = [sized.image] if sized.pose is None else [sized.image, sized.pose]
                if used + sum(array.nbytes for array in both) > room:
                    return places
                places[name, size] = used
                for array in both:
                    self._bytes[slot, used : used + array.nbytes] = array.reshape(-1)
                    used += array.nbytes
        return places

    def get(self, slot: int, place: int, size: int) -> ImageArray:
        """In the main process: the (size, size, 3) array at ``place``, valid until ``give``."""
        return self._bytes[slot, place : place + 3 * size * size].reshape(size, size, 3)

    def give(self, slot: int) -> None:
        """Free the slot."""
        self._free.append(slot)


@dataclass
class Packed:
    """What is sent through the pipe of a decoded item: not what lies in its slot."""

    skipped: list[tuple[str, str]]
    # view -> size -> (PNG, offset in the slot), or the view itself if it found no room there
    views: dict[str, dict[int, tuple[bytes, int] | SizedView]]
    images: dict[str, ImageArray | None]  # for OpenPose

    @staticmethod
    def of(decoded: DecodedItem, places: dict[tuple[str, int], int]) -> Packed:
        """In the decoder."""
        views: dict[str, dict[int, tuple[bytes, int] | SizedView]] = {}
        for name, view in decoded.views.items():
            views[name] = {
                size: (sized.png, places[name, size]) if (name, size) in places else sized
                for size, sized in view.sized.items()
            }
        images = {name: view.image for name, view in decoded.views.items()}
        return Packed(decoded.skipped, views, images)

    def unpack(self, item: Item, slots: Slots, slot: int | None) -> DecodedItem:
        """In the main process."""
        decoded = DecodedItem(item, skipped=self.skipped)
        for name, packed in self.views.items():
            points, sized = item.keypoints.get(name), {}
            for size, view in packed.items():
                if isinstance(view, tuple):
                    assert slot is not None
                    png, place = view
                    view = SizedView(slots.get(slot, place, size), png)
                    if points is not None:  # the pose lies behind its image
                        view.pose = slots.get(slot, place + view.image.nbytes, size)
                sized[size] = view
            file = item.views[name].name
            decoded.views[name] = DecodedView(file, sized, points, self.images[name])
        if slot is not None:
            decoded.release = partial(slots.give, slot)
        return decoded


_shared: Slots | None = None  # in a decoder process


def _start_decoder(memory: Any, count: int) -> None:
    """In a new decoder process: one thread, ignores Ctrl-C, ends when its parent ends."""
    global _shared
    _shared = Slots(memory, count)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)  # the parent was killed

    threading.Thread(target=watch, daemon=True).start()


def _decode_packed(item: Item, sizes: Sequence[int], slot: int | None) -> Packed:
    """``decode_item`` in a decoder process."""
    decoded = decode_item(item, sizes)
    places = {} if slot is None or _shared is None else _shared.put(decoded, slot)
    return Packed.of(decoded, places)
