"""Own data: a folder of images for each person, no lists.

A group is a folder that directly holds images, at any depth; for DeepFashion's images it is an
item. Pairs are made within a group, the test set by person.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from xmdpt_cli.datasets.builder import item_key, make_listing, view_name
from xmdpt_cli.datasets.layouts import STRAY, ImageSource, find_images, read_places
from xmdpt_cli.datasets.listing import ImageFile, ImageRef, Item, Listing, Pair
from xmdpt_cli.datasets.own_keypoints import OwnImages, OwnKeypoints
from xmdpt_cli.datasets.published_keypoints import PublishedFiles, find_published_files
from xmdpt_cli.datasets.readers import POSSIBLE, ReadOptions
from xmdpt_cli.datasets.scan import Folder, Scan, images_not_read, is_readable_image
from xmdpt_cli.datasets.stored import as_padded
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.pose.frames import CoordinateFrame
from xmdpt_cli.pose.padding import are_padded
from xmdpt_cli.utils.counts import counted
from xmdpt_cli.utils.deepfashion_names import TREE, match_key
from xmdpt_cli.utils.problems import Problem

MOST_SOURCES = 8  # per target; DeepFashion has about 3
TEST_SHARE = 0.1  # of the people
WANTED = "make one folder per person, each with two images or more: alice/front.jpg"


@dataclass
class Group:
    """The images of one item on one person."""

    name: str  # the folder below the root, or DeepFashion's item
    person: str  # the unit of the split into training and test set
    views: dict[str, ImageRef] = field(default_factory=dict)


@dataclass
class People:
    """The groups of two images and more in a folder, sorted by name."""

    root: Path
    groups: list[Group]
    problems: list[Problem]
    images: int = 0  # number of all images, usable or not
    deepfashion: bool = False  # whether they have DeepFashion's names
    loose: bool = False  # whether images lie directly in the root


Found = list[tuple[Group, str, ImageRef]]


class PersonFolders:
    """The reader of own images, a folder for each person (``readers.DatasetReader``)."""

    name = "people"
    wanted = WANTED

    def detect(self, root: Path) -> float | None:
        """POSSIBLE if there is any image that can be read."""
        folders = Scan(root).walk("")
        has_images = any(is_readable_image(file) for folder in folders for file in folder.files)
        return POSSIBLE if has_images else None

    def read(self, root: Path, options: ReadOptions) -> Listing:
        """Make pairs within each folder and a test set of some people.

        DeepFashion's images without its lists are grouped by item.
        """
        places = read_places(root)
        images = find_images(root, places, options.sizes)
        people = find_people(root)
        # A few images that happen to have such names do not make it DeepFashion.
        if images is not None and len(images.found) > STRAY * people.images:
            people = items_of(root, images)
        published = None if options.openpose else find_published_files(root, places)
        return list_people(people, published, options.seed, options.frame)


def find_people(root: Path) -> People:
    """Find the groups below ``root``; nothing is decoded."""
    scan = Scan(root)
    people = People(root, [], scan.problems)
    found: Found = []
    trees: list[bool] = []
    for folder in scan.walk(""):
        files = [file for file in folder.files if is_readable_image(file)]
        people.problems += _odd_entries(folder, files) + images_not_read(folder)
        people.images += len(files)
        if not files:
            continue
        if not folder.name:
            people.loose = True
            what = "an image in no person's folder"
            people.problems += [Problem(file, what) for file in files]
            continue
        # a raw tree deeper than ``layouts`` searches: one folder holds several colours
        tree = all(TREE.match(folder.below(file)) for file in files)
        trees.append(tree)
        refs = [ImageFile(folder.below(f), root / folder.name / f) for f in files]
        found += [_item_of(ref) for ref in refs] if tree else _own(folder.name, refs)
    people.deepfashion = bool(trees) and all(trees)
    return _grouped(people, found)


def items_of(root: Path, images: ImageSource) -> People:
    """DeepFashion's images by item, without their lists."""
    everything = [ref for refs in images.found.values() for ref in refs]
    people = People(root, [], images.problems, len(everything), deepfashion=True)
    return _grouped(people, [_item_of(ref) for ref in everything])


def _grouped(people: People, found: Found) -> People:
    """Put the groups of two and more into ``people``, sorted; single images become problems."""
    groups: dict[str, Group] = {}
    for group, view, image in found:
        first = groups.setdefault(group.name, group).views.setdefault(view, image)
        if first is not image:
            what = f"duplicate image: {first.name} is used, {image.name} is not"
            people.problems.append(Problem(first.name, what, kept=True))
    for _, group in sorted(groups.items()):
        if len(group.views) > 1:
            people.groups.append(group)
        else:
            only = next(iter(group.views.values()))
            people.problems.append(Problem(only.name, "the only image of this person"))
    return people


def _odd_entries(folder: Folder, files: list[str]) -> list[Problem]:
    links = [name for name in folder.broken if is_readable_image(name)]
    problems = [Problem(folder.below(name), "a link to nothing") for name in links]
    if is_readable_image(folder.name) and not files:
        problems.append(Problem(folder.name, "a folder that is named like an image"))
    return problems


def _own(folder: str, images: list[ImageFile]) -> Found:
    """The folder is a group; a view is named after its file, with the suffix if names collide."""
    files = [PurePosixPath(image.name) for image in images]
    stems = Counter(file.stem for file in files)
    names = [file.stem if stems[file.stem] == 1 else file.name for file in files]
    group = Group(folder, folder)
    return [(group, view_name(n), ref) for n, ref in zip(names, images, strict=True)]


def _item_of(image: ImageRef) -> tuple[Group, str, ImageRef]:
    """DeepFashion: the item is the person, as its colours are mostly worn by one model."""
    name = match_key(image.name)
    assert name is not None, image
    group = Group(name.item_key, f"{name.gender}/{name.category}/id_{name.item}")
    return group, view_name(name.view), image


def list_people(
    people: People,
    published: PublishedFiles | None,
    seed: int,
    frame: CoordinateFrame | None = None,
) -> Listing:
    """Choose the pairs and the test set. ``published``: DeepFashion's keypoint files, used for
    images of those names; None: all views wait for OpenPose. ``frame``: of keypoint files, None:
    decided from their values.

    Raises XmdptError if there is no group.
    """
    if not people.groups:
        raise XmdptError(_why_none(people), WANTED)
    test = _test_people({group.person for group in people.groups}, seed)
    # DeepFashion keeps its keypoints in separate files
    if people.deepfashion:
        _cut_padding(people.groups)
    keypoints = None
    if published is not None:
        found = {p.name: p for group in people.groups for p in group.views.values()}
        keypoints = OwnKeypoints.read(
            OwnImages(people.root, found), published, beside=not people.deepfashion, frame=frame
        )
    items, positions = [], Counter[str]()
    for group in people.groups:
        item = Item(item_key(group.name), "test" if group.person in test else "train")
        for view, image in group.views.items():
            item.views[view] = image
            points = None if keypoints is None else keypoints.find(image.name)
            if points is not None:
                item.keypoints[view] = points
        for source, target in _pairs(group, seed):
            item.pairs.append(Pair(source, target, positions[item.split]))
            positions[item.split] += 1
        items.append(item)
    problems = people.problems + ([] if keypoints is None else keypoints.close())
    waiting = sum(len(g.views) - len(g.keypoints) for g in items)
    notes = _notes(people, len(test), seed, waiting, keypoints)
    return make_listing(people.root, items, problems, notes, "people")


def _cut_padding(groups: list[Group]) -> None:
    if are_padded([image for group in groups for image in group.views.values()]):
        for group in groups:
            group.views = {v: as_padded(image) for v, image in group.views.items()}


def _why_none(people: People) -> str:
    if people.loose:
        return f"the images lie directly in {people.root}: there is no folder for each person"
    if people.images:
        return f"no person in {people.root} has two images"
    return f"{people.root} holds no images"


def _hash(*parts: str) -> int:
    """64 bits of sha256 of the parts."""
    text = "\0".join(parts).encode("utf-8")
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big")


def _test_people(people: set[str], seed: int) -> set[str]:
    """The people of the test set: a tenth by hash, so that new people do not move others.

    If one of the two sets would be empty, the person of lowest or highest hash moves to it.
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
            rng = random.Random(_hash(str(seed), group.name, target))
            places = sorted(rng.sample(range(len(views) - 1), MOST_SOURCES))
            others = [views[place + (place >= index)] for place in places]
        pairs += [(source, target) for source in others]
    return pairs


def _notes(
    people: People, test: int, seed: int, waiting: int, keypoints: OwnKeypoints | None
) -> list[str]:
    what = "items of DeepFashion" if people.deepfashion else "own images, a folder each"
    persons = len({group.person for group in people.groups})
    images = sum(len(group.views) for group in people.groups)
    count = counted(persons, "person", "people")
    files = "" if keypoints is None else keypoints.label()
    label = files or "keypoints from OpenPose"
    notes = [
        f"{what}: {count}, {label}",
        f"images: {people.root}, {images} in {counted(len(people.groups), 'group')}",
        f"pairs: made here, all ordered ones of a group, at most {MOST_SOURCES} sources to a "
        f"target (seed {seed})",
        f"test set: {test} of {count}, by their names and the seed",
    ]
    if persons < 2:
        notes[-1] = "test set: none, there is one person only"
    notes += [] if keypoints is None else keypoints.notes
    if waiting:
        where = f"{counted(waiting, 'image')} without, " if files else "none there, "
        notes.append(f"keypoints: {where if keypoints else ''}OpenPose will find them")
    return notes
