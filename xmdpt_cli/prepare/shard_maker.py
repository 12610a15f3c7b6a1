"""One shard: decoded garments in; keypoints where they are missing, features, files out.

Networks run in the calling thread, hashing and writing in another one, decoding elsewhere
(``decode.py``). Batches never cross a shard's border, so a shard depends on nothing before it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from xmdpt_cli.data.fp8 import SCALE, quantise_tokens
from xmdpt_cli.data.index import FLIP, ShardIndex
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import writing
from xmdpt_cli.images import Picture
from xmdpt_cli.pose.keypoints import Keypoints, from_fractions
from xmdpt_cli.prepare.decode import DecodedGarment, DecodedView, SizedView, draw_poses
from xmdpt_cli.prepare.plan import ShardPlan
from xmdpt_cli.prepare.shard_writer import ShardWriter, ViewData
from xmdpt_cli.storage.stores import Store

TOKEN_TYPES = ("bf16", "fp8")
NO_PERSON = "OpenPose finds no person"
_UNWRITTEN = 64  # garments that may wait for the writing thread


class FeatureEncoder(Protocol):
    """The frozen networks, behind one call."""

    def encode(
        self, pictures: NDArray[np.uint8], poses: NDArray[np.uint8]
    ) -> dict[str, torch.Tensor]:
        """Pictures and pose pictures, each uint8 (N, size, size, 3) -> tensors (N, ...).

        ``moments`` (N, 2C, h, w) fp16/fp32: the VAE's posterior mean and log variance;
        ``source_tokens`` and ``pose_tokens`` (N, L, W) bf16. All finite, whatever the input.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """What identifies the weights, fit for JSON, with ``"toy": bool``."""
        ...


class PoseDetector(Protocol):
    """OpenPose, behind one call."""

    def keypoints_batch(self, pictures: Sequence[Picture]) -> list[Keypoints | None]:
        """uint8 (H, W, 3) each -> (18, 2) x, y in its pixels, NaN missing; None for no person."""
        ...

    def describe(self) -> dict[str, Any]:
        """What identifies the weights, fit for JSON."""
        ...


@dataclass(frozen=True)
class Target:
    """One dataset to be written: its pictures' side in pixels, its place, its networks."""

    size: int
    store: Store
    encoder: FeatureEncoder


@dataclass(frozen=True)
class Settings:
    """What all shards are made with."""

    detector: PoseDetector | None
    tokens: str  # one of TOKEN_TYPES
    batch_size: int
    strict: bool
    done: Callable[[int, str], None] = lambda count, shard: None  # pictures more, of this shard
    # To replace shards that are there: each is read back first, and only these pictures may be
    # left out of them (None: any).
    replace: bool = False
    left_out: Collection[str] | None = None


def make_shard(
    plan: ShardPlan,
    targets: Sequence[Target],
    decoded: Iterator[DecodedGarment],
    settings: Settings,
) -> list[ShardIndex]:
    """Take the plan's garments from ``decoded`` and write them for each target.

    A garment is written as soon as all its views are encoded. Raises XmdptError where a shard
    cannot be written, features are not finite, or (``strict``) a picture cannot be used.
    """
    skipped: list[tuple[str, str]] = []
    waiting: deque[tuple[DecodedGarment, list[tuple[str, str, int]]]] = deque()
    batch: list[DecodedView] = []
    encoders = {target.size: target.encoder for target in targets}
    with ExitStack() as stack:
        writers = [
            stack.enter_context(
                ShardWriter(target.store, plan.name, plan.split, verify=settings.replace)
            )
            for target in targets
        ]
        thread = _WriterThread(targets, writers)
        stack.callback(thread.stop)  # before the writers close their files
        taken = (item for _, item in zip(plan.garments, decoded, strict=False))
        for item in _with_poses(taken, settings):
            pictures = len(item.garment.views)
            pairs = item.settle()
            skipped += item.skipped
            _refuse(item.skipped, settings)
            waiting.append((item, pairs))
            for view in item.views.values():
                batch.append(view)
                if len(batch) == settings.batch_size:
                    encode_views(batch, encoders, settings.tokens)
                    batch = []
            while waiting and _encoded(waiting[0][0]):
                thread.write(*waiting.popleft())
            settings.done(pictures, plan.name)
        if batch:
            encode_views(batch, encoders, settings.tokens)
        while waiting:
            thread.write(*waiting.popleft())
        return thread.finish(skipped)


def _refuse(skipped: Sequence[tuple[str, str]], settings: Settings) -> None:
    """XmdptError for a picture that must not be left out."""
    if settings.strict and skipped:
        raise XmdptError(": ".join(skipped[0]), "mend it, or go on without --strict")
    known = settings.left_out
    lost = [entry for entry in skipped if known is not None and entry[0] not in known]
    if lost:
        raise XmdptError(
            f"{lost[0][0]}: {lost[0][1]}; it was usable when the dataset was prepared",
            "restore that picture; nothing of the dataset was changed",
        )


class _WriterThread:
    """One thread that hashes and writes, in order, what it is given."""

    def __init__(self, targets: Sequence[Target], writers: Sequence[ShardWriter]) -> None:
        self.targets, self.writers = targets, writers
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._given: deque[Future[None]] = deque()

    def write(self, item: DecodedGarment, pairs: list[tuple[str, str, int]]) -> None:
        """Take one garment; waits if too many are not written yet, raises what went wrong."""
        item.release()  # what is written is compressed already
        if pairs:
            self._given.append(self._thread.submit(self._write, item, pairs))
        while len(self._given) > _UNWRITTEN or (self._given and self._given[0].done()):
            self._given.popleft().result()

    def _write(self, item: DecodedGarment, pairs: list[tuple[str, str, int]]) -> None:
        for target, writer in zip(self.targets, self.writers, strict=True):
            views = {
                name: _view_data(view, view.sized.pop(target.size), target.size)
                for name, view in item.views.items()
            }
            with writing(f"{writer.store.url}/{writer.name}"):
                writer.add(item.garment.key, views, pairs)

    def finish(self, skipped: list[tuple[str, str]]) -> list[ShardIndex]:
        """Wait for the rest and end the shards."""
        while self._given:
            self._given.popleft().result()
        indexes = []
        for writer in self.writers:
            with writing(f"{writer.store.url}/{writer.name}"):
                indexes.append(writer.finish(skipped))
        return indexes

    def stop(self) -> None:
        """Forget what is not begun."""
        self._thread.shutdown(wait=True, cancel_futures=True)


def _view_data(view: DecodedView, sized: SizedView, size: int) -> ViewData:
    assert view.fractions is not None
    keypoints = from_fractions(view.fractions, size)
    return ViewData(view.file, sized.png, keypoints, sized.features or {})


def _with_poses(garments: Iterable[DecodedGarment], settings: Settings) -> Iterator[DecodedGarment]:
    """The garments in order, all their views with keypoints, or dropped where no person is."""
    if settings.detector is None:
        yield from garments
        return
    group: list[DecodedGarment] = []
    pictures = 0
    for item in garments:
        group.append(item)
        pictures += sum(view.fractions is None for view in item.views.values())
        if pictures >= settings.batch_size:
            _detect(group, settings.detector)
            yield from group
            group, pictures = [], 0
    _detect(group, settings.detector)
    yield from group


def _detect(group: list[DecodedGarment], detector: PoseDetector) -> None:
    """Look for the persons of all views that have no keypoints."""
    looking = [
        (item, name, view)
        for item in group
        for name, view in item.views.items()
        if view.fractions is None
    ]
    pictures = [view.whole for _, _, view in looking if view.whole is not None]
    assert len(pictures) == len(looking)
    found = detector.keypoints_batch(pictures) if pictures else []
    for (item, name, view), picture, points in zip(looking, pictures, found, strict=True):
        view.whole = None
        if points is None:
            item.drop(name, NO_PERSON)
        else:
            view.fractions = points / np.array((picture.shape[1], picture.shape[0]))
            draw_poses(view)


def _encoded(item: DecodedGarment) -> bool:
    return all(s.features is not None for view in item.views.values() for s in view.sized.values())


def encode_views(
    batch: Sequence[DecodedView], encoders: Mapping[int, FeatureEncoder], tokens: str
) -> None:
    """Give every view of the batch its features, at every size and in both orientations."""
    for size, encoder in encoders.items():
        sized = [view.sized[size] for view in batch]
        features: list[dict[str, torch.Tensor]] = [{} for _ in batch]
        for suffix in ("", FLIP):
            pictures = _stacked([one.picture for one in sized], bool(suffix))
            poses = _stacked([one.pose for one in sized if one.pose is not None], bool(suffix))
            with torch.no_grad():
                encoded = encoder.encode(pictures, poses)
            for name, tensor in encoded.items():
                assert tensor.shape[0] == len(batch), (name, tensor.shape)
                for view, into, row in zip(batch, features, tensor.detach().cpu(), strict=True):
                    if not bool(torch.isfinite(row).all()):
                        raise XmdptError(
                            f"the encoder gave {name} that are not finite for {view.file}",
                            "run the encoders in float32 or bfloat16",
                        )
                    into.update(_stored(name + suffix, row, tokens))
        for one, found in zip(sized, features, strict=True):
            one.features = found


def _stacked(pictures: list[Picture], mirror: bool) -> Picture:
    """(N, H, W, 3). Pictures are mirrored, joints are not relabelled (published)."""
    stacked = np.empty((len(pictures), *pictures[0].shape), dtype=np.uint8)
    for picture, into in zip(pictures, stacked, strict=True):
        if mirror:
            cv2.flip(picture, 1, dst=into)  # ten times faster than numpy
        else:
            into[...] = picture
    return stacked


def _stored(name: str, row: torch.Tensor, tokens: str) -> dict[str, torch.Tensor]:
    """One tensor as the shard holds it."""
    if tokens == "fp8" and "_tokens" in name:
        values, scale = quantise_tokens(row)
        return {name: values, name + SCALE: scale}
    return {name: row.clone()}
