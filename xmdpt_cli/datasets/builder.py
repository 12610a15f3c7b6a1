"""Build a listing from pairs, one after the other; pairs that cannot be used become problems."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from xmdpt_cli.datasets.listing import ImageRef, Item, Listing, Pair
from xmdpt_cli.datasets.slugs import key_slug, view_slug
from xmdpt_cli.pose.keypoints import Keypoints
from xmdpt_cli.utils.problems import Problem
from xmdpt_cli.utils.splits import SPLITS


class View(NamedTuple):
    """One image of an item."""

    name: str  # unique within the item
    image: ImageRef
    keypoints: Keypoints | None  # (18, 2) fractions of width and height; None: OpenPose finds them


@dataclass
class ListingBuilder:
    """Collects items by key; names of any kind become names that fit into shards."""

    items: dict[str, Item] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def problem(self, file: str, reason: str, *, kept: bool = False) -> None:
        """Name something that cannot be used, or (``kept``) that is odd but used."""
        self.problems.append(Problem(file, reason, kept))

    def accepts(self, where: str, split: str, item: str, source: str, target: str) -> bool:
        """Whether a pair of two views of an item may be added; a problem at ``where`` if not."""
        key = key_slug(item)
        if source == target:
            self.problem(where, f"identical views: {key} {source} twice")
            return False
        there = self.items.get(key)
        if there is not None and there.split != split:
            self.problem(where, f"pair across splits: {key} is in {there.split} too")
            return False
        return True

    def add(
        self, where: str, split: str, item: str, source: View, target: View, position: int
    ) -> None:
        """Add source -> target. ``position``: 0-based, in the published list of the split."""
        if not self.accepts(where, split, item, source.name, target.name):
            return
        key = key_slug(item)
        there = self.items.setdefault(key, Item(key, split))
        names = []
        for view in (source, target):
            name = view_slug(view.name)
            there.views[name] = view.image
            if view.keypoints is not None:
                there.keypoints[name] = view.keypoints
            names.append(name)
        there.pairs.append(Pair(names[0], names[1], position))

    def listing(self, root: Path, notes: Iterable[str], layout: str) -> Listing:
        """What was added."""
        return make_listing(root, list(self.items.values()), self.problems, [*notes], layout)


def make_listing(
    root: Path, items: list[Item], problems: list[Problem], notes: list[str], layout: str
) -> Listing:
    """Items in order: train first, by key, views by name, pairs by position."""
    for item in items:
        item.views = dict(sorted(item.views.items()))
        item.keypoints = dict(sorted(item.keypoints.items()))
        item.pairs.sort(key=lambda pair: pair.position)
    order = sorted(items, key=lambda item: (SPLITS.index(item.split), item.key))
    return Listing(root, order, problems, notes, layout)
