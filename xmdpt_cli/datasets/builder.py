"""Builds a listing from pairs; pairs that cannot be used become problems."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from xmdpt_cli.datasets.listing import ImageRef, Item, Listing, Pair
from xmdpt_cli.pose.keypoints import Keypoints
from xmdpt_cli.utils.list_text import Table
from xmdpt_cli.utils.problems import Problem
from xmdpt_cli.utils.splits import SPLITS

# A member is KEY.VIEW.keypoints.npy and a tar header holds 100 bytes of it.
KEY_LENGTH, VIEW_LENGTH = 40, 30
_HASH = 8  # hexadecimal digits
_ALLOWED = re.compile(r"[A-Za-z0-9_-]+")
_HASHED = re.compile(rf"-[0-9a-f]{{{_HASH}}}$")


class View(NamedTuple):
    """One image of an item."""

    name: str  # unique within the item
    image: ImageRef
    keypoints: Keypoints | None  # (18, 2) fractions of width and height; None: OpenPose finds them


@dataclass
class ListingBuilder:
    """Collects pairs into items. Names of any kind are changed to names that fit into shards."""

    items: dict[str, Item] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def problem(self, file: str, reason: str, *, kept: bool = False) -> None:
        """Report something that cannot be used, or (``kept``) that is odd but used."""
        self.problems.append(Problem(file, reason, kept))

    def rows(self, table: Table, file: str) -> Iterator[tuple[int, str, list[str]]]:
        """The rows of a list: (position from 0, ``file:line``, cells).

        A row with another number of cells becomes a problem; it still counts in ``position``.
        """
        for position, (line, text) in enumerate(table.lines):
            where = f"{file}:{line}"
            try:
                yield position, where, table.cells(text)
            except ValueError as err:
                self.problem(where, str(err))

    def accepts(self, where: str, split: str, item: str, source: str, target: str) -> bool:
        """Whether a pair of two views of an item may be added; a problem at ``where`` if not."""
        key = item_key(item)
        if source == target:
            self.problem(where, f"identical views: {key} {source} twice")
            return False
        known = self.items.get(key)
        if known is not None and known.split != split:
            self.problem(where, f"pair across splits: {key} is in {known.split} too")
            return False
        return True

    def add(
        self, where: str, split: str, item: str, source: View, target: View, position: int
    ) -> None:
        """Add source -> target. ``position``: 0-based, in the published list of the split."""
        if not self.accepts(where, split, item, source.name, target.name):
            return
        key = item_key(item)
        added = self.items.setdefault(key, Item(key, split))
        for view in (source, target):
            name = view_name(view.name)
            added.views[name] = view.image
            if view.keypoints is not None:
                added.keypoints[name] = view.keypoints
        added.pairs.append(Pair(view_name(source.name), view_name(target.name), position))

    def listing(self, root: Path, notes: Iterable[str], layout: str) -> Listing:
        """The listing of all items that were added."""
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


@lru_cache(maxsize=2**16)  # once for every listed pair
def _short_name(name: str, length: int) -> str:
    """``name`` as at most ``length`` characters ``A-Z a-z 0-9 _ -``; distinct names stay distinct.

    A name of such characters is returned unchanged. Others are shortened and get a hash of the full
    name: ``Zoë (2)`` -> ``Zoe-2-`` and eight digits. (So does a name that ends like such a hash.)
    """
    if len(name) <= length and _ALLOWED.fullmatch(name) and not _HASHED.search(name):
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:_HASH]
    ascii_only = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    readable = re.sub(r"[^A-Za-z0-9_]+", "-", ascii_only).strip("-")
    readable = readable[: length - _HASH - 1].rstrip("-")
    return f"{readable or 'x'}-{digest}"


def item_key(name: str) -> str:
    """The key of an item of any name; see ``_short_name``."""
    return _short_name(name, KEY_LENGTH)


def view_name(name: str) -> str:
    """The name of a view of any name."""
    return _short_name(name, VIEW_LENGTH)
