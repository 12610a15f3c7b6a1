"""Own data: a folder of pictures for each person, no lists.

A group is a folder that directly holds pictures, at any depth, or one garment where the pictures
have DeepFashion's names. Pairs are drawn within a group, the test set by person.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path, PurePosixPath

from xmdpt_cli.data.listing import Garment, Listing, Pair, PictureFile
from xmdpt_cli.data.lists import Problem
from xmdpt_cli.data.names import SUFFIXES, match_name
from xmdpt_cli.data.sources.assembly import make_listing
from xmdpt_cli.data.sources.keypoint_files import KeypointFiles
from xmdpt_cli.data.sources.own_keypoints import OwnKeypoints
from xmdpt_cli.data.sources.padding import are_padded
from xmdpt_cli.data.sources.scan import Folder, Scan, is_picture_name
from xmdpt_cli.data.sources.slugs import key_slug, view_slug
from xmdpt_cli.errors import XmdptError

MOST_SOURCES = 8  # per target; DeepFashion has about 3
TEST_SHARE = 0.1  # of the people
WANTED = "make one folder per person, each with two pictures or more: alice/front.jpg"


@dataclass
class Group:
    """The pictures of one garment on one person."""

    name: str  # the folder below the root, or DeepFashion's garment
    person: str  # who is in the training or in the test set as a whole
    views: dict[str, PictureFile] = field(default_factory=dict)


@dataclass
class People:
    """What a folder holds: groups of two pictures and more, sorted by name."""

    root: Path
    groups: list[Group]
    problems: list[Problem]
    pictures: int = 0  # all of them, usable or not
    published_names: bool = False  # DeepFashion's pictures, grouped by garment
    loose: bool = False  # there are pictures directly in the root

    @property
    def empty(self) -> bool:
        return not self.pictures


def find_people(root: Path) -> People:
    """Look for groups in ``root``; nothing is decoded."""
    scan = Scan(root)
    people = People(root, [], scan.problems)
    groups: dict[str, Group] = {}
    named: list[bool] = []
    for folder in scan.walk(""):
        files = [file for file in folder.files if is_picture_name(file)]
        people.problems += _odd_entries(folder, files)
        people.pictures += len(files)
        published = bool(files) and all(match_name(folder.below(file)) for file in files)
        if files and not published and not folder.name:
            people.loose = True
            what = "a picture in no person's folder"
            people.problems += [Problem(folder.below(file), what) for file in files]
            continue
        named += [published] if files else []
        for group, view, picture in (_published if published else _own)(root, folder, files):
            there = groups.setdefault(group.name, group).views.setdefault(view, picture)
            if there is not picture:
                what = f"duplicate picture: {there.name} is used, this one is not"
                people.problems.append(Problem(picture.name, what, kept=True))
    people.published_names = bool(named) and all(named)
    for name in sorted(groups):
        views = groups[name].views
        if len(views) > 1:
            people.groups.append(groups[name])
        else:
            only = next(iter(views.values()))
            people.problems.append(Problem(only.name, "the only picture of this person"))
    return people


def _odd_entries(folder: Folder, files: list[str]) -> list[Problem]:
    links = [name for name in folder.broken if is_picture_name(name)]
    problems = [Problem(folder.below(name), "a link to nothing") for name in links]
    if is_picture_name(folder.name) and not files:
        problems.append(Problem(folder.name, "a folder that is named like a picture"))
    return problems


Found = list[tuple[Group, str, PictureFile]]


def _own(root: Path, folder: Folder, files: list[str]) -> Found:
    """The folder is a group; a view is called like its file, with the suffix where it must."""
    stems = Counter(PurePosixPath(file).stem for file in files)
    group = Group(folder.name, folder.name)
    found = []
    for file in files:
        stem = PurePosixPath(file).stem
        picture = PictureFile(folder.below(file), root / folder.name / file)
        found.append((group, view_slug(stem if stems[stem] == 1 else file), picture))
    return found


def _published(root: Path, folder: Folder, files: list[str]) -> Found:
    """Groups are garments; a person is the item, whose colours are mostly worn by one model."""
    found = []
    for file in sorted(files, key=lambda f: SUFFIXES.index(f.rsplit(".", 1)[-1].lower())):
        name = match_name(folder.below(file))
        assert name is not None
        group = Group(name.garment, f"{name.gender}/{name.category}/id_{name.item}")
        picture = PictureFile(folder.below(file), root / folder.name / file)
        found.append((group, view_slug(name.view), picture))
    return found


def list_people(people: People, published: KeypointFiles | None, seed: int) -> Listing:
    """Draw pairs and the test set. ``published``: DeepFashion's keypoint files, which serve
    pictures of those names; None: all views wait for OpenPose.

    Raises XmdptError if there is no group.
    """
    if not people.groups:
        raise XmdptError(_why_none(people), WANTED)
    test = _test_people({group.person for group in people.groups}, seed)
    keypoints = None if published is None else OwnKeypoints.read(people.root, published)
    if people.published_names:
        pictures = list(chain.from_iterable(g.views.values() for g in people.groups))
        if are_padded(pictures):
            for group in people.groups:
                group.views = {v: replace(p, padded=True) for v, p in group.views.items()}
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
    what = "garments of DeepFashion" if people.published_names else "own pictures, a folder each"
    persons = len({group.person for group in people.groups})
    images = sum(len(group.views) for group in people.groups)
    count = "1 person" if persons == 1 else f"{persons} people"
    files = [] if keypoints is None else keypoints.labels
    label = " and ".join(files) if files else "keypoints from OpenPose"
    notes = [
        f"{what}: {count}, {label}",
        f"pictures: {people.root}, {images} in {len(people.groups)} groups",
        f"pairs: made here, all ordered ones of a group, at most {MOST_SOURCES} sources to a "
        f"target (seed {seed})",
        f"test set: {test} of {count}, by their names and the seed",
    ]
    if persons < 2:
        notes[-1] = "test set: none, there is one person only"
    if waiting:
        where = f"{waiting} pictures without, " if files else "none there, "
        notes.append(f"keypoints: {where if keypoints else ''}OpenPose will find them")
    return notes
