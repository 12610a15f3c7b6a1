"""Find DeepFashion in a folder, whichever of the usual lists lie beside the raw pictures.

Pictures: ``img_highres/``, ``img/`` or bare ``MEN/`` and ``WOMEN/``. Pairs: the CSV files, else
PIDM's text files. Keypoints: the annotation CSV files, else PIDM's ``pose/`` tree.
"""

from __future__ import annotations

import filecmp
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from xmdpt_cli.data.listing import Garment, Listing, Pair, PictureFile
from xmdpt_cli.data.lists import (
    SPLITS,
    ListedPair,
    Problem,
    is_padded,
    read_annotation_csv,
    read_pairs_csv,
    read_pairs_pidm,
    read_pose_txt,
    to_fractions,
)
from xmdpt_cli.data.names import ImageName, parse_name
from xmdpt_cli.data.pose import Keypoints
from xmdpt_cli.errors import XmdptError

__all__ = ["Garment", "ImageName", "Listing", "Pair", "Problem", "find_dataset", "parse_name"]

_PICTURE_FOLDERS = ("img_highres", "img", "")
# The published files say "fasion"; corrected copies exist.
_STEMS = ("fasion-resize", "fashion-resize", "fasion", "fashion")
_SUFFIXES = ("jpg", "png", "jpeg")  # lists say .jpg for pictures that were saved as .png
_LISTS_WANTED = (
    "beside the pictures, put either fasion-resize-pairs-train.csv, fasion-resize-pairs-test.csv "
    "and fasion-resize-annotation-train.csv, fasion-resize-annotation-test.csv, "
    "or train_pairs.txt, test_pairs.txt and the folder pose/"
)
_PICTURES_WANTED = (
    "put the raw pictures there as img_highres/WOMEN/Dresses/id_00000002/02_1_front.jpg "
    "(img/ or bare MEN/ and WOMEN/ do too)"
)


def find_dataset(root: str | Path) -> Listing:
    """Read the lists below ``root`` and keep the pairs whose pictures and keypoints are there.

    Raises XmdptError if there is no such folder, no pictures, no lists, or nothing usable.
    """
    root = Path(root)
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise XmdptError(f"the dataset root {root} {what}", _PICTURES_WANTED)
    pictures = _find_pictures(root)
    search = _Search(root, pictures or root)
    listed = [(split, pair) for split in SPLITS for pair in search.read_pairs(split)]
    if pictures is None:
        what = "lists but no pictures" if listed else "neither pictures nor lists"
        raise XmdptError(
            f"{root} holds {what} of DeepFashion",
            _PICTURES_WANTED if listed else f"{_PICTURES_WANTED}; {_LISTS_WANTED}",
        )
    if not search.lists_read:
        raise XmdptError(f"{root} holds pictures but no list of pairs", _LISTS_WANTED)
    search.read_keypoints()
    _refuse_padded(pictures, [pair for _, pair in listed])
    # Test first: a garment that is in both lists belongs to the test set, lest it leak.
    for split, pair in sorted(listed, key=lambda item: SPLITS.index(item[0]), reverse=True):
        search.add(split, pair)
    return search.listing()


def _find_pictures(root: Path) -> Path | None:
    for folder in _PICTURE_FOLDERS:
        if any((root / folder / gender).is_dir() for gender in ("MEN", "WOMEN")):
            return root / folder
    return None


def _refuse_padded(pictures: Path, pairs: list[ListedPair]) -> None:
    """The benchmark's low-resolution pictures have grey borders and would come out squeezed."""
    if pictures.name == "img_highres":
        return
    for pair in pairs:
        path = pictures / pair.source.path
        if path.exists():
            try:
                with Image.open(path) as image:
                    size = image.size
            except OSError:
                continue
            if size == (256, 256):
                raise XmdptError(
                    f"{pictures} holds the padded 256x256 pictures (img.zip), "
                    "whose grey borders are not cut off yet",
                    "put the high-resolution pictures there as img_highres/",
                )
            return


@dataclass
class _Search:
    """The state of one search: what was read, what was found, what was wrong."""

    root: Path
    pictures: Path
    garments: dict[str, Garment] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    lists_read: int = 0
    annotations: dict[str, Keypoints] = field(default_factory=dict)  # fractions
    views: dict[ImageName, tuple[PictureFile, Keypoints] | None] = field(default_factory=dict)
    same: dict[tuple[Path, Path], bool] = field(default_factory=dict)

    def read_pairs(self, split: str) -> list[ListedPair]:
        """The first of the usual lists that is there."""
        readers: list[tuple[str, Callable[[Path], tuple[list[ListedPair], list[Problem]]]]] = [
            (f"{stem}-pairs-{split}.csv", read_pairs_csv) for stem in _STEMS
        ]
        readers.append((f"{split}_pairs.txt", read_pairs_pidm))
        there = [(name, reader) for name, reader in readers if (self.root / name).is_file()]
        if not there:
            self.notes.append(f"pairs of {split}: no list")
            return []
        name, reader = there[0]
        pairs, problems = reader(self.root / name)
        self.lists_read += 1
        self.problems += problems
        others = ", ".join(other for other, _ in there[1:])
        unused = f" (not used: {others})" if others else ""
        self.notes.append(f"pairs of {split}: {name}, {len(pairs)} pairs{unused}")
        return pairs

    def read_keypoints(self) -> None:
        """All annotation files of the first family that is there; ``pose/`` fills the gaps."""
        families = [(s, [self.root / f"{s}-annotation-{x}.csv" for x in SPLITS]) for s in _STEMS]
        there = [(stem, [p for p in paths if p.is_file()]) for stem, paths in families]
        there = [(stem, paths) for stem, paths in there if paths]
        poses = (self.root / "pose").is_dir()
        if not there and not poses:
            raise XmdptError(f"{self.root} holds pairs but no keypoints", _LISTS_WANTED)
        if there:
            self._read_annotations(*there[0])
        if poses:
            gaps = " where an annotation row is missing" if there else ""
            self.notes.append(f"keypoints: pose/, padded 256x256 frame{gaps}")

    def _read_annotations(self, stem: str, paths: list[Path]) -> None:
        files = [(path, *read_annotation_csv(path)) for path in paths]
        # "-resize-" is the 256x176 frame; without it either frame exists, and a family of files
        # is in one frame.
        padded = "resize" not in stem and any(is_padded(rows) for _, rows, _ in files)
        frame = "padded 256x256 frame" if padded else "256x176 frame"
        for path, rows, problems in files:
            self.problems += problems
            for view, (_, points) in rows.items():
                self.annotations[view] = to_fractions(points, padded)
            self.notes.append(f"keypoints: {path.name}, {len(rows)} rows, {frame}")

    def add(self, split: str, pair: ListedPair) -> None:
        """Take one listed pair in, or say why not."""
        source, target = pair.source, pair.target
        key = source.garment
        if key != target.garment:
            self._problem(pair.where, f"pair across garments: {key} and {target.garment}")
            return
        if source.view == target.view:
            self._problem(pair.where, f"identical views: {key} {source.view} twice")
            return
        garment = self.garments.get(key)
        if garment is not None and garment.split != split:
            self._problem(pair.where, f"pair across splits: {key} is in {garment.split} too")
            return
        found = [(name, self._view(name)) for name in (source, target)]
        usable = [(name.view, *view) for name, view in found if view is not None]
        if len(usable) < 2:
            return
        if garment is None:
            garment = self.garments[key] = Garment(key, split)
        for view, path, points in usable:
            garment.views[view] = path
            garment.keypoints[view] = points
        garment.pairs.append(Pair(source.view, target.view, pair.position))
        self._note_same(pair.where, usable[0][1].path, usable[1][1].path)

    def _view(self, name: ImageName) -> tuple[PictureFile, Keypoints] | None:
        """The picture and keypoints of one listed name; what is missing is said once."""
        if name not in self.views:
            self.views[name] = self._find_view(name)
        return self.views[name]

    def _find_view(self, name: ImageName) -> tuple[PictureFile, Keypoints] | None:
        names = (name.path, *(name._replace(suffix=suffix).path for suffix in _SUFFIXES))
        paths = (self.pictures / text for text in names)
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            self._problem(name.path, "listed picture is not there")
            return None
        picture = PictureFile(path.relative_to(self.root).as_posix(), path)
        points = self.annotations.get(f"{name.garment}/{name.view}")
        if points is not None:
            return picture, points
        pose = (self.root / "pose" / name.path).with_suffix(".txt")
        try:
            return picture, read_pose_txt(pose)
        except FileNotFoundError:
            self._problem(name.path, "no keypoints for this picture")
        except (OSError, ValueError) as err:
            self._problem(pose.relative_to(self.root).as_posix(), f"pose file: {err}")
        return None

    def _note_same(self, where: str, one: Path, other: Path) -> None:
        """Published lists hold a few pairs of one picture saved twice: said, and kept."""
        both = (one, other) if one.name < other.name else (other, one)
        if both not in self.same:
            sizes = one.stat().st_size, other.stat().st_size
            self.same[both] = sizes[0] == sizes[1] and filecmp.cmp(one, other, shallow=False)
        if self.same[both]:
            what = f"identical views: {one.name} and {other.name} are the same picture"
            self.problems.append(Problem(where, what, kept=True))

    def _problem(self, file: str, reason: str) -> None:
        self.problems.append(Problem(file, reason))

    def listing(self) -> Listing:
        """The garments that are left, or an error that shows the first problems."""
        folder = self.pictures.relative_to(self.root).as_posix()
        self.notes.insert(0, f"pictures: {self.root if folder == '.' else self.root / folder}")
        if not self.garments:
            first = "; ".join(f"{p.file}: {p.reason}" for p in self.problems[:3])
            raise XmdptError(
                f"no usable pair in {self.root}: {len(self.problems)} problems ({first})"
                if self.problems
                else f"no usable pair in {self.root}: the lists are empty",
                "check that the lists belong to these pictures",
            )
        for garment in self.garments.values():
            garment.views = dict(sorted(garment.views.items()))
            garment.keypoints = dict(sorted(garment.keypoints.items()))
            garment.pairs.sort(key=lambda pair: pair.position)
        order = sorted(self.garments.values(), key=lambda g: (SPLITS.index(g.split), g.key))
        return Listing(self.root, order, self.problems, self.notes)
