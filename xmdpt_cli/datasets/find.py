"""Find a dataset in a folder, whatever layout it has: DeepFashion's, or people's own images.

ImageSource and lists of DeepFashion: see ``layouts``; keypoints: see ``keypoint_files``. Own
images, in a folder for each person: see ``people``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from xmdpt_cli.datasets.assembly import Assembly, make_listing, refuse_unusable
from xmdpt_cli.datasets.folders import WANTED as PEOPLE_WANTED
from xmdpt_cli.datasets.folders import find_people, items_of, list_people
from xmdpt_cli.datasets.layouts import STRAY, ImageSource, Place, find_images, read_places
from xmdpt_cli.datasets.listing import ImageFile, ImageRef, Item, Listing, Pair
from xmdpt_cli.datasets.pair_lists import PairLists, read_pair_lists
from xmdpt_cli.datasets.published_keypoints import KeypointFiles, read_keypoint_files
from xmdpt_cli.datasets.stored import stored_image_size
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.pose.formats.image_size import Size
from xmdpt_cli.pose.frames import AUTO, PADDED, PIXELS, CoordinateFrame, parse_frame
from xmdpt_cli.utils.deepfashion_names import ImageName, parse_name
from xmdpt_cli.utils.problems import Problem
from xmdpt_cli.utils.splits import SPLITS

__all__ = [
    "LAYOUTS",
    "ImageFile",
    "ImageName",
    "ImageRef",
    "Item",
    "Listing",
    "Pair",
    "Problem",
    "find_dataset",
    "parse_name",
]  # fmt: skip

_ARCHIVES = ("img_highres.zip", "img.zip", "train_highres.zip", "test_highres.zip")
LAYOUTS = ("auto", "deepfashion", "people")
_LISTS_WANTED = (
    "beside the images, put either fasion-resize-pairs-train.csv, fasion-resize-pairs-test.csv "
    "and fasion-resize-annotation-train.csv, fasion-resize-annotation-test.csv, "
    "or train_pairs.txt, test_pairs.txt and the folder pose/"
)
_PICTURES_WANTED = (
    "put the raw images there as img_highres/WOMEN/Dresses/id_00000002/02_1_front.jpg "
    "(img/ or bare MEN/ and WOMEN/ do too, and train_highres/ and test_highres/ with flat names)"
)


def find_dataset(
    root: str | Path,
    *,
    layout: str = "auto",
    detect: bool = False,
    sizes: Sequence[int] = (256,),
    seed: int = 0,
    strict: bool = False,
    frame: str = AUTO,
) -> Listing:
    """Read what lies below ``root`` and keep the pairs that can be used.

    ``layout``: ``deepfashion`` (images by their published names, listed pairs), ``people`` (a
    folder for each person, pairs and test set drawn by ``seed``) or ``auto``: the first if there
    are such images or lists, else the second. ``detect``: no keypoint file is read, every view
    waits for OpenPose; so it is where there are no keypoints at all. ``sizes``: the sides in
    pixels that will be prepared, to choose among LMDB environments. ``strict``: the first thing
    that cannot be used is an error. ``frame``: what the coordinates of keypoint files are of
    (``annotation_frames.CHOICES`` or WIDTHxHEIGHT); ``auto``: decided from the values.

    What is odd or cannot be used is in the listing's ``problems``, what was found in its
    ``notes``. Raises ConfigError for an unknown layout; XmdptError if there is no such folder, no
    images, no lists, or nothing usable.
    """
    if layout not in LAYOUTS:
        raise ConfigError(f"the layout is one of {', '.join(LAYOUTS)}, not {layout!r}")
    if not sizes or min(sizes) < 1:
        raise ConfigError(f"sizes are positive numbers of pixels, not {tuple(sizes)}")
    forced = parse_frame(frame)
    root = Path(root)
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise XmdptError(f"the dataset root {root} {what}", _PICTURES_WANTED)
    listing = _find(root, layout, detect, tuple(sizes), seed, forced)
    pose = "openpose" if detect else "auto"
    listing.options = {"layout": layout, "pose": pose, "seed": seed, "frame": frame}
    refuse_unusable(listing, strict=strict)
    return listing


def _find(
    root: Path,
    layout: str,
    detect: bool,
    sizes: tuple[int, ...],
    seed: int,
    frame: CoordinateFrame | None,
) -> Listing:
    places = read_places(root)
    images = find_images(root, places, sizes)
    if layout != "people":
        lists = read_pair_lists(root, places)
        if layout == "deepfashion" or lists.label or (images is not None and images.found):
            return _find_deepfashion(root, places, images, lists, detect, frame)
    people = find_people(root)
    if layout == "auto" and not people.images:
        raise XmdptError(
            f"{root} holds neither images nor lists of DeepFashion, nor images of one's own",
            f"{_unpack(places)}{_PICTURES_WANTED}; {_LISTS_WANTED}; or {PEOPLE_WANTED}",
        )
    # A few images that happen to have such names do not make it DeepFashion.
    if images is not None and len(images.found) > STRAY * people.images:
        people = items_of(root, images)
    keypoints = None if detect else read_keypoint_files(root, places)
    return list_people(people, keypoints, seed, frame)


def _settle(
    keypoints: KeypointFiles, images: ImageSource, lists: PairLists, frame: CoordinateFrame | None
) -> None:
    """Decide the frames of the keypoint files from the images that lie there."""

    def size_of(image: str) -> Size | None:
        there = images.found.get(image)
        return stored_image_size(there[0]) if there and not images.padded else None

    if frame is PIXELS and images.padded:
        frame = PADDED  # the pixels of such images are those of that frame

    listed = {name.key: name for split in lists.pairs.values() for p in split
              for name in (p.source, p.target)}  # fmt: skip
    keypoints.settle(list(listed.values()), size_of, frame)


def _unpack(places: list[Place]) -> str:
    """What to do first where the images still lie in their archive."""
    names = (place.below(file) for place in places for file in sorted(place.files))
    archive = next((n for n in names if n.rsplit("/", 1)[-1] in _ARCHIVES), None)
    return f"unpack {archive}; " if archive else ""


def _find_deepfashion(
    root: Path,
    places: list[Place],
    images: ImageSource | None,
    lists: PairLists,
    detect: bool,
    frame: CoordinateFrame | None,
) -> Listing:
    if images is None:
        what = "lists but no images" if lists.label else "neither images nor lists"
        raise XmdptError(
            f"{root} holds {what} of DeepFashion",
            _unpack(places)
            + (_PICTURES_WANTED if lists.label else f"{_PICTURES_WANTED}; {_LISTS_WANTED}"),
        )
    if not lists.label:
        raise XmdptError(
            f"{root} holds images but no list of pairs",
            f"{_LISTS_WANTED}; or make pairs from the folders themselves: --layout people",
        )
    keypoints = KeypointFiles(root) if detect else read_keypoint_files(root, places)
    if keypoints.label:
        _settle(keypoints, images, lists, frame)
    problems = images.problems + lists.problems + keypoints.problems
    assembly = Assembly(images, keypoints if keypoints.label else None, problems=problems)
    # Test first: an item that is in both lists belongs to the test set, lest it leak.
    for split in reversed(SPLITS):
        for pair in lists.pairs.get(split, []):
            assembly.add(split, pair)
    no_keypoints = "OpenPose will find them" if detect else "none there, OpenPose will find them"
    label = keypoints.label or "keypoints from OpenPose"
    notes = [
        f"{images.label}, {lists.label}, {label}",
        *images.notes,
        *lists.notes,
        *(keypoints.notes or [f"keypoints: {no_keypoints}"]),
    ]
    if assembly.same.stopped:
        notes.append("identical views: looked for among the first 256 MiB of equal size only")
    return make_listing(root, list(assembly.items.values()), problems, notes, "deepfashion")
