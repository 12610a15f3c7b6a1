"""Find images and lists of DeepFashion in the folder layouts in common use.

Images: ``img_highres/`` or ``img/`` with ``MEN/`` and ``WOMEN/``, or these two bare, also where
unpacking put them into another ``img_highres/`` or ``Img/``; flat names
(``fashionWOMEN...jpg``) in any of these, in ``train_highres/`` and ``test_highres/``, or in
``train/`` and ``test/``; PIDM's LMDB environments (``256-256/data.mdb``). Lists: in the root or
one folder below it. Folders are listed once each; no single file name is tested for.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from xmdpt_cli.datasets.listing import ImageFile, ImageRef
from xmdpt_cli.datasets.lmdb_images import (
    choose_environment,
    lmdb_folders,
    read_environment,
)
from xmdpt_cli.datasets.lmdb_scan import DATA
from xmdpt_cli.datasets.scan import Folder, Scan, images_not_read, is_readable_image
from xmdpt_cli.pose.padding import are_padded
from xmdpt_cli.utils.deepfashion_names import SUFFIXES, ImageName, match_name
from xmdpt_cli.utils.problems import Problem

GENDERS = ("MEN", "WOMEN")
_DEPTH = 2  # folders below WOMEN/: category and item
STRAY = 0.1  # a source of fewer than this share of another's images is not the dataset
# In order of preference; "" is the folder itself.
_FAMILIES = (
    ("img_highres",), ("img",), ("",), ("train_highres", "test_highres"), ("train", "test"),
)  # fmt: skip
_IMAGE_FOLDERS = {name for family in _FAMILIES for name in family} | set(GENDERS)


@dataclass
class ImageSource:
    """All images of one source, by item and view; the first of several is used."""

    label: str  # in messages: raw img_highres
    folders: tuple[str, ...]  # below the root, "" is the root
    found: dict[str, list[ImageRef]] = field(default_factory=dict)  # by ImageName.key
    # folders that are named like an image, by ImageName.key -> where
    not_files: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    padded: bool = False

    def get(self, name: ImageName) -> list[ImageRef]:
        """The images of this name: with the exact suffix first, then in order."""
        images = self.found.get(name.key, [])
        if len(images) < 2:
            return images
        return sorted(images, key=lambda image: not image.name.endswith(f".{name.suffix}"))


@dataclass(frozen=True)
class Place:
    """A folder that may hold lists: the root or one below it."""

    name: str  # below the root, "" is the root
    files: frozenset[str]
    folders: frozenset[str]

    def below(self, name: str) -> str:
        return f"{self.name}/{name}" if self.name and name else self.name or name


def read_places(root: Path) -> list[Place]:
    """The root, then the folders in it that hold neither images nor poses, by name."""
    scan = Scan(root)
    top = scan.read("")
    if top is None:
        return []
    skipped = _IMAGE_FOLDERS | {"pose"} | set(lmdb_folders(top.folders))
    folders = [scan.read(name) for name in top.folders if name not in skipped]
    found = [top, *(folder for folder in folders if folder is not None)]
    # what unpacking adds: img_highres/img_highres, In-shop Clothes Retrieval Benchmark/Img
    known = {folder.name for folder in found}
    inside = {folder.below(name) for folder in found for name in folder.folders if _wraps(name)}
    for inner in (scan.read(name) for name in sorted(inside - known)):
        names = set() if inner is None else set(inner.folders)
        if inner is not None and names & _IMAGE_FOLDERS and not names & {*GENDERS}:
            found.append(inner)
    return [
        Place(folder.name, frozenset(folder.files), frozenset(folder.folders)) for folder in found
    ]


def _wraps(name: str) -> bool:
    """Whether archives of images unpack to a folder of this name."""
    return name.lower() in {name.lower() for name in _IMAGE_FOLDERS - {*GENDERS, ""}}


def find_images(root: Path, places: Iterable[Place], sizes: tuple[int, ...]) -> ImageSource | None:
    """The source to use: high-resolution files, else LMDB, else low-resolution files.

    ``sizes``: the sides in pixels that will be prepared, to choose an LMDB environment.
    Returns None if there is no source.
    """
    places = list(places)
    read = (_read_files(root, family) for place in places for family in _families(place))
    sources = [source for source in read if source is not None]
    full = [source for source in sources if source.found]
    enough = STRAY * max((len(source.found) for source in full), default=0)
    chosen = next((source for source in sources if len(source.found) >= enough), None)
    if chosen is not None and chosen.found:
        chosen.padded = are_padded([images[0] for images in chosen.found.values()])
    if chosen is None or not chosen.found or chosen.padded:
        chosen = _lmdb_source(root, places, sizes) or chosen
    if chosen is None:
        return None
    if chosen.padded:
        chosen.label = f"padded 256x256 images in {chosen.folders[0] or 'the root'}"
    where = ", ".join(str(root / folder) for folder in chosen.folders)
    cut = ", the grey columns of each are cut off" if chosen.padded else ""
    chosen.notes.insert(0, f"images: {where}, {len(chosen.found)} of them{cut}")
    unused = [s.label for s in full if s is not chosen]
    if unused:
        chosen.notes.append(f"images not used: {', '.join(unused)}")
    return chosen


def has_images(root: Path, places: Iterable[Place]) -> bool:
    """Whether there is at least one image of DeepFashion; stops at the first."""
    places = list(places)
    folders = (f for place in places for family in _families(place) for f in family)
    return bool(_environments(root, places)) or any(
        is_readable_image(file) and match_name(folder.below(file)) is not None
        for folder, _ in _walk(Scan(root), folders)
        for file in folder.files
    )


def _families(place: Place) -> Iterator[tuple[str, ...]]:
    """The folders of each family that are in ``place``."""
    for family in _FAMILIES:
        folders = tuple(place.below(f) for f in family if f in place.folders or not f)
        # flat names in any folder below the root would be own images
        if folders and (family != ("",) or not place.name or place.folders & {*GENDERS}):
            yield folders


def _walk(scan: Scan, folders: Iterable[str]) -> Iterator[tuple[Folder, bool]]:
    """Each folder itself, then the trees MEN/ and WOMEN/ in it (True)."""
    for name in folders:
        top = scan.read(name)
        if top is None:
            continue
        yield top, False
        for gender in GENDERS:
            if gender in top.folders:
                yield from ((folder, True) for folder in scan.walk(top.below(gender), _DEPTH))


def _read_files(root: Path, folders: tuple[str, ...]) -> ImageSource | None:
    """What lies in these folders: flat names directly, and the trees; None for neither."""
    scan = Scan(root)
    source = ImageSource("", folders, problems=scan.problems)
    tree = flat = False
    for folder, in_tree in _walk(scan, folders):
        some = _take(source, root, folder)
        tree, flat = tree or in_tree, flat or (some and not in_tree)
    if not tree and not flat:
        return None
    for images in (found for found in source.found.values() if len(found) > 1):
        images.sort(key=lambda p: _order(p.name, folders))
    names = [folder or "the root" for folder in folders]
    if flat:
        source.label = f"flat names in {' and '.join(names)}"
    else:
        source.label = f"raw {names[0]}" if folders[0] else "raw MEN and WOMEN"
    return source


def _take(source: ImageSource, root: Path, folder: Folder) -> bool:
    """Add the files named like DeepFashion's images; returns whether there are any."""
    some, here = False, root / folder.name
    source.problems += images_not_read(folder)
    for file in folder.files:
        name = match_name(folder.below(file)) if is_readable_image(file) else None
        if name is not None:
            image = ImageFile(folder.below(file), here / file)
            source.found.setdefault(name.key, []).append(image)
            some = True
    for below in folder.folders:
        name = match_name(folder.below(below)) if "." in below else None
        if name is not None:
            source.not_files[name.key] = folder.below(below)
    return some


def _order(name: str, folders: tuple[str, ...]) -> tuple[int, int, str]:
    """Sort key of images of one name: folder in the order of ``folders``, suffix, path."""
    folder = next((i for i, f in enumerate(folders) if name.startswith(f"{f}/")), len(folders))
    return folder, SUFFIXES.index(name.rsplit(".", 1)[-1].lower()), name


def _environments(root: Path, places: list[Place]) -> dict[str, tuple[int, int]]:
    """LMDB environments below the root -> (height, width) by their names."""
    return {
        place.below(name): shape
        for place in places
        for name, shape in lmdb_folders(sorted(place.folders)).items()
        if os.path.isfile(root / place.name / name / DATA)
    }


def _lmdb_source(root: Path, places: list[Place], sizes: tuple[int, ...]) -> ImageSource | None:
    environments = _environments(root, places)
    if not environments:
        return None
    name = choose_environment(environments, sizes)
    found, others = read_environment(root, name, environments[name][0])
    source = ImageSource(f"PIDM LMDB {name}", (name,), {k: list(v) for k, v in found.items()})
    if environments[name][0] != max(sizes):
        source.notes.append(f"LMDB: no environment of size {max(sizes)}, {name} is used")
    unused = [other for other in sorted(environments) if other != name]
    if unused:
        source.notes.append(f"LMDB not used: {', '.join(unused)}")
    if others:
        many = f"LMDB: {len(others)} keys are no DeepFashion name, such as {others[0]!r}"
        source.notes.append(many)
    source.padded = are_padded([images[0] for images in found.values()])
    return source
