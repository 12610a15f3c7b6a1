"""Makes one shard from decoded items, for every size at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, closing
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
from xmdpt_cli.utils.prefetch import prefetch

_UNWRITTEN = 16  # items that may wait for the writing thread


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
    # To replace existing shards: each is read back first, and only these images may be left out
    # (None: any).
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
            item.find_pairs()
            if item.skipped:
                _refuse(item.skipped, settings)
                skipped.extend(item.skipped)
            yield item
            report(len(item.item.views), plan.name)

    def write(item: DecodedItem) -> None:
        item.release()  # what is written is compressed already
        if not item.pairs:
            return
        for target, writer in zip(targets, writers, strict=True):
            views = {}
            for name, view in item.views.items():
                assert view.fractions is not None
                sized = view.sized.pop(target.size)
                points = from_fractions(view.fractions, target.size)
                views[name] = ViewData(view.file, sized.png, points, sized.features or {})
            with writing(writer.place):
                writer.add(item.item.key, views, item.pairs)

    with ExitStack() as stack:
        writers = [
            stack.enter_context(
                ShardWriter(target.store, plan.name, plan.split, verify=settings.replace)
            )
            for target in targets
        ]
        items: Iterator[DecodedItem]
        items = (item for _, item in zip(plan.items, decoded, strict=False))
        if settings.detector is not None:
            items = add_keypoints(items, settings.detector, settings.batch_size)
        encoded = add_features(usable(items), encoders, settings.tokens, settings.batch_size)
        # closed before the writers close their files
        written = stack.enter_context(closing(prefetch(write, encoded, depth=_UNWRITTEN)))
        for _ in written:
            pass
        indexes = []
        for writer in writers:
            with writing(writer.place):
                indexes.append(writer.finish(skipped))
        return indexes


def _refuse(skipped: Sequence[tuple[str, str]], settings: Settings) -> None:
    """XmdptError for an image that must not be left out."""
    if settings.strict:
        raise XmdptError(": ".join(skipped[0]), "correct it, or leave out --strict")
    known = settings.left_out
    lost = [entry for entry in skipped if known is not None and entry[0] not in known]
    if lost:
        raise XmdptError(
            f"{lost[0][0]}: {lost[0][1]}; it was usable when the dataset was prepared",
            "restore that image; nothing of the dataset was changed",
        )
