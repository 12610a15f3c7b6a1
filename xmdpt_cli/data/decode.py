"""Pictures of garments decoded, squashed and compressed in other processes, ahead of the encoders.

What runs there imports no torch: a decoder process starts in under a second and stays small.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xmdpt_cli.data.listing import Garment, PictureRef
from xmdpt_cli.data.pose import Keypoints, draw_pose, from_fractions
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.images import Picture, fast_png_bytes, resize_square

if TYPE_CHECKING:  # decoder processes do without it
    import torch

T = TypeVar("T")

DETECT_HEIGHT = 512  # rows of the picture that OpenPose is shown: it scales to 184 itself


def _nothing() -> None:
    """There is nothing to give back."""


@dataclass
class SizedView:
    """One view at one prepared size."""

    picture: Picture  # (size, size, 3)
    png: bytes
    pose: Picture | None = None  # (size, size, 3), black if no joint is there; None: not yet drawn
    features: dict[str, torch.Tensor] | None = None  # come last
    place: int | None = None  # on the way: where in a slot the picture and the pose lie


@dataclass
class DecodedView:
    """One view on its way into the shards."""

    file: str  # below the dataset root
    sized: dict[int, SizedView]
    fractions: Keypoints | None  # of width and height, NaN missing; None: OpenPose has to look
    whole: Picture | None = None  # (H, W, 3), H at most DETECT_HEIGHT: what OpenPose looks at


@dataclass
class DecodedGarment:
    """The views that could be decoded, and what could not."""

    garment: Garment
    views: dict[str, DecodedView] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)  # (file, reason)
    # called when the pictures are not looked at any more: their memory serves others
    release: Callable[[], None] = field(default=_nothing, compare=False)

    def drop(self, view: str, reason: str) -> None:
        """Leave one view out."""
        self.skipped.append((self.garment.views[view].name, reason))
        self.views.pop(view, None)

    def settle(self) -> list[tuple[str, str, int]]:
        """The pairs that are left; drops the views that none of them uses."""
        pairs = [
            (pair.source, pair.target, pair.position)
            for pair in self.garment.pairs
            if pair.source in self.views and pair.target in self.views
        ]
        used = {view for source, target, _ in pairs for view in (source, target)}
        for name in [name for name in self.views if name not in used]:
            self.drop(name, "no usable pair is left for this picture")
        return pairs


def decode_garment(garment: Garment, sizes: Sequence[int]) -> DecodedGarment:
    """Decode every view once and squash it to every size; what fails is named, not raised."""
    item = DecodedGarment(garment)
    for name, ref in garment.views.items():
        decoded = _decode_view(ref, garment.keypoints.get(name), sizes)
        if isinstance(decoded, str):
            item.drop(name, decoded)
        else:
            item.views[name] = decoded
    return item


def _decode_view(
    ref: PictureRef, fractions: Keypoints | None, sizes: Sequence[int]
) -> DecodedView | str:
    """One view, or the reason why it cannot be used."""
    try:
        image = ref.load()
        sized = {}
        for size in sizes:
            picture = resize_square(image, size)
            sized[size] = SizedView(picture, fast_png_bytes(picture))
    except XmdptError as err:
        # without the folder, so that the same data give the same manifest anywhere
        return err.message.replace(ref.where, ref.name.rsplit("/", 1)[-1])
    except MemoryError:
        return "not enough memory to decode it"
    view = DecodedView(ref.name, sized, fractions)
    if fractions is None:
        view.whole = _reduced(image, DETECT_HEIGHT)
    else:
        draw_poses(view)
    return view


def _reduced(image: Image.Image, height: int) -> Picture:
    """The picture in its own shape, at most ``height`` rows."""
    if image.height > height:
        width = max(1, round(image.width * height / image.height))
        image = image.resize((width, height), Image.Resampling.BOX)
    return np.ascontiguousarray(np.asarray(image, dtype=np.uint8))


def draw_poses(view: DecodedView) -> None:
    """Draw a view's pose picture at each of its sizes; its keypoints are known."""
    assert view.fractions is not None
    for size, sized in view.sized.items():
        sized.pose = draw_pose(from_fractions(view.fractions, size), size)


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
