"""Join listed pairs, pictures and keypoints into garments; say what could not be joined."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from xmdpt_cli.datasets.layouts import Pictures
from xmdpt_cli.datasets.listing import Garment, Listing, Pair
from xmdpt_cli.datasets.pair_lists import ListedPair
from xmdpt_cli.datasets.published_keypoints import KeypointFiles
from xmdpt_cli.datasets.slugs import key_slug, view_slug
from xmdpt_cli.datasets.stored import Sameness, StoredPicture, as_padded
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.pose.keypoints import Keypoints
from xmdpt_cli.utils.deepfashion_names import ImageName
from xmdpt_cli.utils.problems import Problem
from xmdpt_cli.utils.splits import SPLITS

View = tuple[StoredPicture, "Keypoints | None"]


@dataclass
class Assembly:
    """The state of one joining. ``keypoints`` None: every picture waits for OpenPose."""

    pictures: Pictures
    keypoints: KeypointFiles | None
    garments: dict[str, Garment] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    views: dict[ImageName, View | None] = field(default_factory=dict)
    same: Sameness = field(default_factory=Sameness)

    def add(self, split: str, pair: ListedPair) -> None:
        """Take one listed pair in, or say why not."""
        source, target = pair.source, pair.target
        key = key_slug(source.garment)
        if source[:4] != target[:4]:
            what = f"pair across garments: {source.garment} and {target.garment}"
            self._problem(pair.where, what)
            return
        if source.view == target.view:
            self._problem(pair.where, f"identical views: {key} {source.view} twice")
            return
        garment = self.garments.get(key)
        if garment is not None and garment.split != split:
            self._problem(pair.where, f"pair across splits: {key} is in {garment.split} too")
            return
        found = [(view_slug(name.view), self._view(name)) for name in (source, target)]
        usable = [(view, *there) for view, there in found if there is not None]
        if len(usable) < 2:
            return
        if garment is None:
            garment = self.garments[key] = Garment(key, split)
        for view, picture, points in usable:
            garment.views[view] = picture
            if points is not None:
                garment.keypoints[view] = points
        garment.pairs.append(Pair(usable[0][0], usable[1][0], pair.position))
        self._note_same(pair.where, usable[0][1], usable[1][1])

    def _view(self, name: ImageName) -> View | None:
        """The picture and keypoints of one listed name; what is missing is said once."""
        if name not in self.views:
            self.views[name] = self._find_view(name)
        return self.views[name]

    def _find_view(self, name: ImageName) -> View | None:
        there = self.pictures.get(name)
        if not there:
            folder = self.pictures.not_files.get(name.picture)
            if folder is not None:
                self._problem(folder, "a folder that is named like a picture")
            else:
                self._problem(name.path, "listed picture is not there")
            return None
        first, *others = there
        if others:
            what = f"duplicate picture: {first.name} is used, {others[0].name} is not"
            self.problems.append(Problem(first.name, what, kept=True))
        picture = as_padded(first) if self.pictures.padded else first
        if self.keypoints is None:
            return picture, None
        try:
            points = self.keypoints.find(name)
        except (OSError, ValueError) as err:
            self._problem(self.keypoints.source(name), f"keypoints: {err}")
            return None
        if points is None:
            self._problem(name.path, "no keypoints for this picture")
            return None
        return picture, points

    def _note_same(self, where: str, one: StoredPicture, other: StoredPicture) -> None:
        """Published lists hold a few pairs of one picture saved twice: said, and kept."""
        if self.same.same(one, other):
            first, second = sorted(p.name.rsplit("/", 1)[-1] for p in (one, other))
            what = f"identical views: {first} and {second} are the same picture"
            self.problems.append(Problem(where, what, kept=True))

    def _problem(self, file: str, reason: str) -> None:
        self.problems.append(Problem(file, reason))


def make_listing(
    root: Path, garments: list[Garment], problems: list[Problem], notes: list[str], layout: str
) -> Listing:
    """Garments in order: train first, by key, views by name, pairs by position."""
    for garment in garments:
        garment.views = dict(sorted(garment.views.items()))
        garment.keypoints = dict(sorted(garment.keypoints.items()))
        garment.pairs.sort(key=lambda pair: pair.position)
    order = sorted(garments, key=lambda g: (SPLITS.index(g.split), g.key))
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
    if not listing.garments:
        shown = "; ".join(f"{p.file}: {p.reason}" for p in unusable[:3])
        raise XmdptError(
            f"no usable pair in {listing.root}: {len(unusable)} problems ({shown})"
            if unusable
            else f"no usable pair in {listing.root}: the lists are empty",
            "check that the lists belong to these pictures",
        )
