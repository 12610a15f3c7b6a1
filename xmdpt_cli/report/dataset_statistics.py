"""Statistics of a prepared dataset, for its report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.pose.keypoints import JOINTS
from xmdpt_cli.progress import Progress

T = TypeVar("T")


@dataclass
class SplitStatistics:
    """One split. Counters: how many views, pairs, joints -> how many items or images."""

    name: str
    items: int
    images: int
    pairs: int
    views_per_item: Counter[int] = field(default_factory=Counter)
    pairs_per_item: Counter[int] = field(default_factory=Counter)
    joints_per_image: Counter[int] = field(default_factory=Counter)
    seen: list[int] = field(default_factory=lambda: [0] * len(JOINTS))  # images, by joint


@dataclass(frozen=True)
class SkippedFiles:
    """Files that are not in the dataset for one reason."""

    reason: str
    count: int
    examples: list[tuple[str, str]]  # (file, full reason)


def split_statistics(
    dataset: PairDataset, progress: Progress, done: int, total: int
) -> SplitStatistics:
    """Read every view's keypoints once; ``progress`` counts images from ``done``."""
    views = dataset.views()
    by_item = Counter(key for key, _ in views)
    statistics = SplitStatistics(dataset.split, len(by_item), len(views), len(dataset.pairs))
    statistics.views_per_item = Counter(by_item.values())
    statistics.pairs_per_item = Counter(Counter(pair.key for pair in dataset.pairs).values())
    seen = np.zeros(len(JOINTS), dtype=np.int64)
    for number, (key, view) in enumerate(views, start=1):
        found = np.isfinite(dataset.keypoints(key, view)).all(axis=1)  # (18,)
        seen += found
        statistics.joints_per_image[int(found.sum())] += 1
        progress("report", done + number, total)
    statistics.seen = seen.tolist()
    return statistics


def group_skipped(skipped: Iterable[Sequence[str]], examples: int = 3) -> list[SkippedFiles]:
    """Group what was skipped by reason, most frequent first.

    A reason's details come after its first colon: ``broken image: 02_1_front.jpg (...)``.
    """
    groups: dict[str, list[tuple[str, str]]] = {}
    for file, reason in skipped:
        groups.setdefault(reason.split(":")[0], []).append((file, reason))
    found = [SkippedFiles(reason, len(rows), rows[:examples]) for reason, rows in groups.items()]
    return sorted(found, key=lambda group: (-group.count, group.reason))


def evenly_spaced(items: Sequence[T], count: int) -> list[T]:
    """At most ``count`` items, evenly spaced from the first to the last."""
    if len(items) <= count:
        return list(items)
    if count == 1:
        return [items[0]]
    return [items[i * (len(items) - 1) // (count - 1)] for i in range(count)]


def flatten(content: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as rows of a table: {"a": {"b": 1}} -> [("a.b", "1")]."""
    if not isinstance(content, dict):
        return [(prefix, "" if content is None else str(content))]
    rows = []
    for name, value in content.items():
        rows += flatten(value, f"{prefix}.{name}" if prefix else str(name))
    return rows
