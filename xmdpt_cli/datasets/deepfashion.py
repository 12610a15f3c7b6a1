"""DeepFashion In-shop: images by their published names, listed pairs, published keypoints.

The supported folders: ``layouts``. Keypoints: ``published_keypoints``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from xmdpt_cli.datasets.builder import ListingBuilder, View
from xmdpt_cli.datasets.keypoint_sources import UnusableKeypointsError, find_keypoints
from xmdpt_cli.datasets.layouts import ImageSource, Place, find_images, has_images, read_places
from xmdpt_cli.datasets.listing import Listing
from xmdpt_cli.datasets.pair_lists import ListedPair, PairLists, find_pair_lists, read_pair_lists
from xmdpt_cli.datasets.published_keypoints import (
    PublishedFiles,
    PublishedKeypoints,
    find_published_files,
    published_keypoints,
)
from xmdpt_cli.datasets.readers import SURE, ReadOptions
from xmdpt_cli.datasets.stored import FileComparison, as_padded, stored_image_size
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.pose.frames import PADDED, PIXELS, CoordinateFrame
from xmdpt_cli.pose.keypoints import Size
from xmdpt_cli.utils.deepfashion_names import ImageName
from xmdpt_cli.utils.splits import SPLITS

_ARCHIVES = ("img_highres.zip", "img.zip", "train_highres.zip", "test_highres.zip")
_LISTS_WANTED = (
    "beside the images, put either fasion-resize-pairs-train.csv, fasion-resize-pairs-test.csv "
    "and fasion-resize-annotation-train.csv, fasion-resize-annotation-test.csv, "
    "or train_pairs.txt, test_pairs.txt and the folder pose/"
)
IMAGES_WANTED = (
    "put the raw images there as img_highres/WOMEN/Dresses/id_00000002/02_1_front.jpg "
    "(img/ or bare MEN/ and WOMEN/ do too, and train_highres/ and test_highres/ with flat names)"
)


class DeepFashion:
    """The reader of all layouts of DeepFashion In-shop (``readers.DatasetReader``)."""

    name = "deepfashion"
    wanted = f"{IMAGES_WANTED}; {_LISTS_WANTED}"

    def detect(self, root: Path) -> float | None:
        """Images with DeepFashion's names, or its lists of pairs."""
        places = read_places(root)
        usable = any(find_pair_lists(places).values()) or has_images(root, places)
        return SURE if usable else None

    def read(self, root: Path, options: ReadOptions) -> Listing:
        """The listed pairs whose images both exist, with keypoints unless OpenPose finds them."""
        places = read_places(root)
        images = find_images(root, places, options.sizes)
        lists = read_pair_lists(root, places)
        if images is None:
            what = "lists but no images" if lists.label else "neither images nor lists"
            wanted = IMAGES_WANTED if lists.label else self.wanted
            raise XmdptError(f"{root} holds {what} of DeepFashion", unpack_hint(places) + wanted)
        if not lists.label:
            raise XmdptError(
                f"{root} holds images but no list of pairs",
                f"{_LISTS_WANTED}; or make pairs from the folders themselves: --layout people",
            )
        files = None if options.openpose else find_published_files(root, places)
        keypoints = _keypoints(files, images, lists, options.frame) if files else None
        join = _Join(images, keypoints)
        join.built.problems += images.problems + lists.problems
        join.built.problems += files.problems if files else []
        # test first: an item in both lists belongs to the test set and must not leak into training
        for split in reversed(SPLITS):
            for pair in lists.pairs.get(split, []):
                join.add(split, pair)
        label = "keypoints from OpenPose" if keypoints is None else keypoints.label
        notes = [f"{images.label}, {lists.label}, {label}", *images.notes, *lists.notes]
        if keypoints is not None:
            notes += keypoints.notes
        else:
            none = "" if options.openpose else "none there, "
            notes.append(f"keypoints: {none}OpenPose will find them")
        if join.files.stopped:
            notes.append("identical views: only the first 256 MiB of equal size were compared")
        return join.built.listing(root, notes, self.name)


def unpack_hint(places: list[Place]) -> str:
    """A hint to unpack the archive if one is found, else ""."""
    names = (place.below(file) for place in places for file in sorted(place.files))
    archive = next((n for n in names if n.rsplit("/", 1)[-1] in _ARCHIVES), None)
    return f"unpack {archive}; " if archive else ""


def _keypoints(
    files: PublishedFiles,
    images: ImageSource,
    lists: PairLists,
    frame: CoordinateFrame | None,
) -> PublishedKeypoints:
    """The keypoint files as sources, their frames decided with the sizes of the images."""

    def size_of(key: str) -> Size | None:
        images_of_key = images.found.get(key)
        return stored_image_size(images_of_key[0]) if images_of_key and not images.padded else None

    if frame is PIXELS and images.padded:
        frame = PADDED  # the pixels of such images are those of that frame
    pairs = [pair for split in lists.pairs.values() for pair in split]
    listed = {name.key: name for pair in pairs for name in (pair.source, pair.target)}
    return published_keypoints(files, list(listed.values()), size_of, frame)


@dataclass
class _Join:
    """Joins listed pairs with images and keypoints. ``keypoints`` None: OpenPose finds them."""

    images: ImageSource
    keypoints: PublishedKeypoints | None
    built: ListingBuilder = field(default_factory=ListingBuilder)
    files: FileComparison = field(default_factory=FileComparison)
    _views: dict[ImageName, View | None] = field(default_factory=dict)

    def add(self, split: str, pair: ListedPair) -> None:
        """Add one listed pair, or report why it cannot be used."""
        source_name, target_name = pair.source, pair.target
        if source_name[:4] != target_name[:4]:
            what = f"pair across items: {source_name.item_key} and {target_name.item_key}"
            self.built.problem(pair.where, what)
            return
        if not self.built.accepts(
            pair.where, split, source_name.item_key, source_name.view, target_name.view
        ):
            return
        source, target = self._view(source_name), self._view(target_name)
        if source is None or target is None:
            return
        self.built.add(pair.where, split, source_name.item_key, source, target, pair.position)
        # published lists hold a few pairs of one image saved twice: they are reported and kept
        if self.files.equal(source.image, target.image):
            names = (view.image.name.rsplit("/", 1)[-1] for view in (source, target))
            what = f"identical views: {' and '.join(sorted(names))} are the same image"
            self.built.problem(pair.where, what, kept=True)

    def _view(self, name: ImageName) -> View | None:
        """The image and keypoints of a listed name; what is missing is reported once."""
        if name not in self._views:
            self._views[name] = self._find_view(name)
        return self._views[name]

    def _find_view(self, name: ImageName) -> View | None:
        views = self.images.get(name)
        if not views:
            folder = self.images.not_files.get(name.key)
            if folder is not None:
                self.built.problem(folder, "a folder that is named like an image")
            else:
                self.built.problem(name.path, "listed image not found")
            return None
        first, *others = views
        if others:
            what = f"duplicate image: {first.name} is used, {others[0].name} is not"
            self.built.problem(first.name, what, kept=True)
        image = as_padded(first) if self.images.padded else first
        if self.keypoints is None:
            return View(name.view, image, None)
        try:
            points = find_keypoints(self.keypoints.sources, name.path)
        except UnusableKeypointsError as err:
            self.built.problem(err.where, f"keypoints: {err}")
            return None
        if points is None:
            self.built.problem(name.path, "no keypoints for this image")
            return None
        return View(name.view, image, points)
