"""One shard: decoded items in, files out, for every size at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

from xmdpt_cli.data.index import ShardIndex
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import writing
from xmdpt_cli.pose.keypoints import from_fractions
from xmdpt_cli.prepare.decode import DecodedItem
from xmdpt_cli.prepare.features import FeatureEncoder, PoseDetector, add_features, add_keypoints
from xmdpt_cli.prepare.plan import ShardPlan
from xmdpt_cli.prepare.shard_writer import ShardWriter, ViewData
from xmdpt_cli.storage.stores import Store

_UNWRITTEN = 64  # items that may wait for the writing thread


@dataclass(frozen=True)
class Target:
    """One dataset to be written: its images' side in pixels, its place, its encoders."""

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
    # To replace shards that are there: each is read back first, and only these images may be left
    # out of them (None: any).
    replace: bool = False
    left_out: Collection[str] | None = None


def make_shard(
    plan: ShardPlan,
    targets: Sequence[Target],
    decoded: Iterator[DecodedItem],
    settings: Settings,
    report: Callable[[int, str], None],
) -> list[ShardIndex]:
    """Take the plan's items from ``decoded`` and write them for each target.

    Encoders run in the calling thread, hashing and writing in another one, decoding elsewhere.
    Batches never cross a shard's border, so a shard depends on nothing before it. ``report(images,
    shard)`` is called for each item. Raises XmdptError where a shard cannot be written, features
    are not finite, or (``strict``) an image cannot be used.
    """
    skipped: list[tuple[str, str]] = []
    encoders = {target.size: target.encoder for target in targets}

    def usable(items: Iterator[DecodedItem]) -> Iterator[DecodedItem]:
        for item in items:
            item.settle()
            if item.skipped:
                _refuse(item.skipped, settings)
                skipped.extend(item.skipped)
            yield item
            report(len(item.item.views), plan.name)

    with ExitStack() as stack:
        writers = [
            stack.enter_context(
                ShardWriter(target.store, plan.name, plan.split, verify=settings.replace)
            )
            for target in targets
        ]
        thread = _WriterThread([target.size for target in targets], writers)
        stack.callback(thread.stop)  # before the writers close their files
        items: Iterator[DecodedItem]
        items = (item for _, item in zip(plan.items, decoded, strict=False))
        if settings.detector is not None:
            items = add_keypoints(items, settings.detector, settings.batch_size)
        items = usable(items)
        for item in add_features(items, encoders, settings.tokens, settings.batch_size):
            thread.write(item)
        return thread.finish(skipped)


def _refuse(skipped: Sequence[tuple[str, str]], settings: Settings) -> None:
    """XmdptError for an image that must not be left out."""
    if settings.strict:
        raise XmdptError(": ".join(skipped[0]), "mend it, or go on without --strict")
    known = settings.left_out
    lost = [entry for entry in skipped if known is not None and entry[0] not in known]
    if lost:
        raise XmdptError(
            f"{lost[0][0]}: {lost[0][1]}; it was usable when the dataset was prepared",
            "restore that image; nothing of the dataset was changed",
        )


class _WriterThread:
    """One thread that hashes and writes items, in order."""

    def __init__(self, sizes: Sequence[int], writers: Sequence[ShardWriter]) -> None:
        self.sizes, self.writers = sizes, writers
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._pending: deque[Future[None]] = deque()

    def write(self, item: DecodedItem) -> None:
        """Take one item; waits if too many are not written yet, raises what went wrong."""
        item.release()  # what is written is compressed already
        if item.pairs:
            self._pending.append(self._thread.submit(self._write, item))
        while len(self._pending) > _UNWRITTEN or (self._pending and self._pending[0].done()):
            self._pending.popleft().result()

    def _write(self, item: DecodedItem) -> None:
        for size, writer in zip(self.sizes, self.writers, strict=True):
            views = {}
            for name, view in item.views.items():
                assert view.fractions is not None
                sized = view.sized.pop(size)
                points = from_fractions(view.fractions, size)
                views[name] = ViewData(view.file, sized.png, points, sized.features or {})
            with writing(f"{writer.store.url}/{writer.name}"):
                writer.add(item.item.key, views, item.pairs)

    def finish(self, skipped: list[tuple[str, str]]) -> list[ShardIndex]:
        """Wait for the rest and end the shards."""
        while self._pending:
            self._pending.popleft().result()
        indexes = []
        for writer in self.writers:
            with writing(f"{writer.store.url}/{writer.name}"):
                indexes.append(writer.finish(skipped))
        return indexes

    def stop(self) -> None:
        """Drop what is not begun."""
        self._thread.shutdown(wait=True, cancel_futures=True)
