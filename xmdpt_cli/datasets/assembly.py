"""Join listed pairs, images and keypoints into items; say what could not be joined."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from xmdpt_cli.datasets.layouts import ImageSource
from xmdpt_cli.datasets.listing import Item, Listing, Pair
from xmdpt_cli.datasets.pair_lists import ListedPair
from xmdpt_cli.datasets.published_keypoints import KeypointFiles
from xmdpt_cli.datasets.slugs import key_slug, view_slug
from xmdpt_cli.datasets.stored import Sameness, StoredImage, as_padded
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.pose.keypoints import Keypoints
from xmdpt_cli.utils.deepfashion_names import ImageName
from xmdpt_cli.utils.problems import Problem
from xmdpt_cli.utils.splits import SPLITS

View = tuple[StoredImage, "Keypoints | None"]


@dataclass
class Assembly:
    """The state of one joining. ``keypoints`` None: every image waits for OpenPose."""

    images: ImageSource
    keypoints: KeypointFiles | None
    items: dict[str, Item] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    views: dict[ImageName, View | None] = field(default_factory=dict)
    same: Sameness = field(default_factory=Sameness)

    def add(self, split: str, pair: ListedPair) -> None:
        """Take one listed pair in, or say why not."""
        source, target = pair.source, pair.target
        key = key_slug(source.item_key)
        if source[:4] != target[:4]:
            what = f"pair across items: {source.item_key} and {target.item_key}"
            self._problem(pair.where, what)
            return
        if source.view == target.view:
            self._problem(pair.where, f"identical views: {key} {source.view} twice")
            return
        item = self.items.get(key)
        if item is not None and item.split != split:
            self._problem(pair.where, f"pair across splits: {key} is in {item.split} too")
            return
        found = [(view_slug(name.view), self._view(name)) for name in (source, target)]
        usable = [(view, *there) for view, there in found if there is not None]
        if len(usable) < 2:
            return
        if item is None:
            item = self.items[key] = Item(key, split)
        for view, image, points in usable:
            item.views[view] = image
            if points is not None:
                item.keypoints[view] = points
        item.pairs.append(Pair(usable[0][0], usable[1][0], pair.position))
        self._note_same(pair.where, usable[0][1], usable[1][1])

    def _view(self, name: ImageName) -> View | None:
        """The image and keypoints of one listed name; what is missing is said once."""
        if name not in self.views:
            self.views[name] = self._find_view(name)
        return self.views[name]

    def _find_view(self, name: ImageName) -> View | None:
        there = self.images.get(name)
        if not there:
            folder = self.images.not_files.get(name.key)
            if folder is not None:
                self._problem(folder, "a folder that is named like an image")
            else:
                self._problem(name.path, "listed image is not there")
            return None
        first, *others = there
        if others:
            what = f"duplicate image: {first.name} is used, {others[0].name} is not"
            self.problems.append(Problem(first.name, what, kept=True))
        image = as_padded(first) if self.images.padded else first
        if self.keypoints is None:
            return image, None
        try:
            points = self.keypoints.find(name)
        except (OSError, ValueError) as err:
            self._problem(self.keypoints.source(name), f"keypoints: {err}")
            return None
        if points is None:
            self._problem(name.path, "no keypoints for this image")
            return None
        return image, points

    def _note_same(self, where: str, one: StoredImage, other: StoredImage) -> None:
        """Published lists hold a few pairs of one image saved twice: said, and kept."""
        if self.same.same(one, other):
            first, second = sorted(p.name.rsplit("/", 1)[-1] for p in (one, other))
            what = f"identical views: {first} and {second} are the same image"
            self.problems.append(Problem(where, what, kept=True))

    def _problem(self, file: str, reason: str) -> None:
        self.problems.append(Problem(file, reason))


def make_listing(
    root: Path, items: list[Item], problems: list[Problem], notes: list[str], layout: str
) -> Listing:
    """Items in order: train first, by key, views by name, pairs by position."""
    for item in items:
        item.views = dict(sorted(item.views.items()))
        item.keypoints = dict(sorted(item.keypoints.items()))
        item.pairs.sort(key=lambda pair: pair.position)
    order = sorted(items, key=lambda g: (SPLITS.index(g.split), g.key))
    return Listing(root, order, problems, notes, layout)


def refuse_unusable(listing: Listing, *, strict: bool) -> None:
    """XmdptError if nothing is usable or, with ``strict``, if anything is not."""
    unusable = [problem for problem in listing.problems if not problem.kept]
    if strict and unusable:
        first, more = unusable[0], len(unusable) - 1
        others = f" (and {more} more)" if more else ""
        raise XmdptError(
            f"{first.file}: {first.reason}{others}",
            "mend it, or go without it: leave out --strict",
        )
    if not listing.items:
        shown = "; ".join(f"{p.file}: {p.reason}" for p in unusable[:3])
        raise XmdptError(
            f"no usable pair in {listing.root}: {len(unusable)} problems ({shown})"
            if unusable
            else f"no usable pair in {listing.root}: the lists are empty",
            "check that the lists belong to these images",
        )
