"""Own data: a folder of pictures for each person, no lists.

A group is a folder that directly holds pictures, at any depth; of DeepFashion's pictures it is a
garment. Pairs are drawn within a group, the test set by person.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from xmdpt_cli.datasets.assembly import make_listing
from xmdpt_cli.datasets.layouts import Pictures
from xmdpt_cli.datasets.listing import Garment, Listing, Pair, PictureFile
from xmdpt_cli.datasets.own_keypoints import OwnKeypoints, OwnPictures
from xmdpt_cli.datasets.published_keypoints import KeypointFiles
from xmdpt_cli.datasets.scan import Folder, Scan, images_not_read, is_picture_name
from xmdpt_cli.datasets.slugs import key_slug, view_slug
from xmdpt_cli.datasets.stored import StoredPicture, as_padded
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.pose.frames import CoordinateFrame
from xmdpt_cli.pose.padding import are_padded
from xmdpt_cli.utils.deepfashion_names import TREE, match_key
from xmdpt_cli.utils.problems import Problem

MOST_SOURCES = 8  # per target; DeepFashion has about 3
TEST_SHARE = 0.1  # of the people
WANTED = "make one folder per person, each with two pictures or more: alice/front.jpg"


@dataclass
class Group:
    """The pictures of one garment on one person."""

    name: str  # the folder below the root, or DeepFashion's garment
    person: str  # who is in the training or in the test set as a whole
    views: dict[str, StoredPicture] = field(default_factory=dict)


@dataclass
class People:
    """What a folder holds: groups of two pictures and more, sorted by name."""

    root: Path
    groups: list[Group]
    problems: list[Problem]
    pictures: int = 0  # all of them, usable or not
    garments: bool = False  # of DeepFashion
    loose: bool = False  # there are pictures directly in the root


Found = list[tuple[Group, str, StoredPicture]]


def find_people(root: Path) -> People:
    """Look for groups in ``root``; nothing is decoded."""
    scan = Scan(root)
    people = People(root, [], scan.problems)
    found: Found = []
    trees: list[bool] = []
    for folder in scan.walk(""):
        files = [file for file in folder.files if is_picture_name(file)]
        people.problems += _odd_entries(folder, files) + images_not_read(folder)
        people.pictures += len(files)
        if not files:
            continue
        if not folder.name:
            people.loose = True
            what = "a picture in no person's folder"
            people.problems += [Problem(file, what) for file in files]
            continue
        # a raw tree deeper than layouts looks: one folder holds several colours
        tree = all(TREE.match(folder.below(file)) for file in files)
        trees.append(tree)
        refs = [PictureFile(folder.below(f), root / folder.name / f) for f in files]
        found += [_garment_of(ref) for ref in refs] if tree else _own(folder.name, refs)
    people.garments = bool(trees) and all(trees)
    return _grouped(people, found)


def garments_of(root: Path, pictures: Pictures) -> People:
    """DeepFashion's pictures by garment, without their lists."""
    everything = [ref for refs in pictures.found.values() for ref in refs]
    people = People(root, [], pictures.problems, len(everything), garments=True)
    return _grouped(people, [_garment_of(ref) for ref in everything])


def _grouped(people: People, found: Found) -> People:
    """Put the groups of two and more into ``people``, sorted; say what is left."""
    groups: dict[str, Group] = {}
    for group, view, picture in found:
        there = groups.setdefault(group.name, group).views.setdefault(view, picture)
        if there is not picture:
            what = f"duplicate picture: {there.name} is used, {picture.name} is not"
            people.problems.append(Problem(there.name, what, kept=True))
    for _, group in sorted(groups.items()):
        if len(group.views) > 1:
            people.groups.append(group)
        else:
            only = next(iter(group.views.values()))
            people.problems.append(Problem(only.name, "the only picture of this person"))
    return people


def _odd_entries(folder: Folder, files: list[str]) -> list[Problem]:
    links = [name for name in folder.broken if is_picture_name(name)]
    problems = [Problem(folder.below(name), "a link to nothing") for name in links]
    if is_picture_name(folder.name) and not files:
        problems.append(Problem(folder.name, "a folder that is named like a picture"))
    return problems


def _own(folder: str, pictures: list[PictureFile]) -> Found:
    """The folder is a group; a view is called like its file, with the suffix where it must."""
    files = [PurePosixPath(picture.name) for picture in pictures]
    stems = Counter(file.stem for file in files)
    names = [file.stem if stems[file.stem] == 1 else file.name for file in files]
    group = Group(folder, folder)
    return [(group, view_slug(n), ref) for n, ref in zip(names, pictures, strict=True)]


def _garment_of(picture: StoredPicture) -> tuple[Group, str, StoredPicture]:
    """A person is the item: its colours are mostly worn by one model."""
    name = match_key(picture.name)
    assert name is not None, picture
    group = Group(name.garment, f"{name.gender}/{name.category}/id_{name.item}")
    return group, view_slug(name.view), picture


def list_people(
    people: People,
    published: KeypointFiles | None,
    seed: int,
    frame: CoordinateFrame | None = None,
) -> Listing:
    """Draw pairs and the test set. ``published``: DeepFashion's keypoint files, which serve
    pictures of those names; None: all views wait for OpenPose. ``frame``: of keypoint files, None:
    decided from their values.

    Raises XmdptError if there is no group.
    """
    if not people.groups:
        raise XmdptError(_why_none(people), WANTED)
    test = _test_people({group.person for group in people.groups}, seed)
    # garments are of DeepFashion, whose keypoints have files of their own
    if people.garments:
        _cut_padding(people.groups)
    keypoints = None
    if published is not None:
        found = {p.name: p for group in people.groups for p in group.views.values()}
        keypoints = OwnKeypoints.read(
            OwnPictures(people.root, found), published, beside=not people.garments, frame=frame
        )
    garments, positions = [], Counter[str]()
    for group in people.groups:
        garment = Garment(key_slug(group.name), "test" if group.person in test else "train")
        for view, picture in group.views.items():
            garment.views[view] = picture
            points = None if keypoints is None else keypoints.find(picture.name)
            if points is not None:
                garment.keypoints[view] = points
        for source, target in _pairs(group, seed):
            garment.pairs.append(Pair(source, target, positions[garment.split]))
            positions[garment.split] += 1
        garments.append(garment)
    problems = people.problems + ([] if keypoints is None else keypoints.close())
    waiting = sum(len(g.views) - len(g.keypoints) for g in garments)
    notes = _notes(people, len(test), seed, waiting, keypoints)
    return make_listing(people.root, garments, problems, notes, "people")


def _cut_padding(groups: list[Group]) -> None:
    if are_padded([picture for group in groups for picture in group.views.values()]):
        for group in groups:
            group.views = {v: as_padded(picture) for v, picture in group.views.items()}


def _why_none(people: People) -> str:
    if people.loose:
        return f"the pictures lie directly in {people.root}: who is who cannot be told"
    if people.pictures:
        return f"no person in {people.root} has two pictures"
    return f"{people.root} holds no pictures"


def _hash(*parts: str) -> int:
    """64 bits of sha256 of the parts."""
    text = "\0".join(parts).encode("utf-8")
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big")


def _test_people(people: set[str], seed: int) -> set[str]:
    """Who is tested on: a tenth by hash, so that new people move nobody.

    Only where that would leave one of the two sets empty, the lowest or the highest hash decides.
    """
    ranked = sorted(people, key=lambda person: (_hash(str(seed), person), person))
    test = {person for person in ranked if _hash(str(seed), person) < TEST_SHARE * 2**64}
    if len(ranked) < 2:
        return set()
    return (test - {ranked[-1]}) or {ranked[0]}


def _pairs(group: Group, seed: int) -> list[tuple[str, str]]:
    """(source, target), by target: all ordered pairs, at most MOST_SOURCES to a target."""
    pairs = []
    views = sorted(group.views)
    for index, target in enumerate(views):
        others = views[:index] + views[index + 1 :] if len(views) <= MOST_SOURCES + 1 else None
        if others is None:
            draw = random.Random(_hash(str(seed), group.name, target))
            places = sorted(draw.sample(range(len(views) - 1), MOST_SOURCES))
            others = [views[place + (place >= index)] for place in places]
        pairs += [(source, target) for source in others]
    return pairs


def _notes(
    people: People, test: int, seed: int, waiting: int, keypoints: OwnKeypoints | None
) -> list[str]:
    what = "garments of DeepFashion" if people.garments else "own pictures, a folder each"
    persons = len({group.person for group in people.groups})
    images = sum(len(group.views) for group in people.groups)
    count = "1 person" if persons == 1 else f"{persons} people"
    files = "" if keypoints is None else keypoints.label()
    label = files or "keypoints from OpenPose"
    notes = [
        f"{what}: {count}, {label}",
        f"pictures: {people.root}, {images} in {len(people.groups)} groups",
        f"pairs: made here, all ordered ones of a group, at most {MOST_SOURCES} sources to a "
        f"target (seed {seed})",
        f"test set: {test} of {count}, by their names and the seed",
    ]
    if persons < 2:
        notes[-1] = "test set: none, there is one person only"
    notes += [] if keypoints is None else keypoints.notes
    if waiting:
        where = f"{waiting} pictures without, " if files else "none there, "
        notes.append(f"keypoints: {where if keypoints else ''}OpenPose will find them")
    return notes
