"""Find a dataset in a folder of any registered layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from xmdpt_cli.datasets.deepfashion import DeepFashion, unpack_hint
from xmdpt_cli.datasets.folders import PersonFolders
from xmdpt_cli.datasets.layouts import read_places
from xmdpt_cli.datasets.listing import Listing
from xmdpt_cli.datasets.readers import DatasetReader, ReadOptions
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.pose.frames import AUTO, parse_frame

#: the reader of each layout, by the value of ``--layout``
READERS: dict[str, DatasetReader] = {
    reader.name: reader for reader in (DeepFashion(), PersonFolders())
}


def register(reader: DatasetReader) -> None:
    """Add a reader, or replace the one of its name."""
    READERS[reader.name] = reader


def find_dataset(
    root: str | Path,
    *,
    layout: str = AUTO,
    detect: bool = False,
    sizes: Sequence[int] = (256,),
    seed: int = 0,
    strict: bool = False,
    frame: str = AUTO,
) -> Listing:
    """Read the dataset below ``root`` and keep the pairs that can be used.

    ``layout``: the name of a reader, ``deepfashion`` (images by their published names, listed
    pairs) or ``people`` (a folder for each person, pairs and test set chosen by ``seed``) among
    them, or ``auto``: the most confident reader. ``detect``: no keypoint file is read, and OpenPose
    finds the keypoints of every view, as it does where there are no keypoint files. ``sizes``: the
    sides in pixels that will be prepared, to choose among LMDB environments. ``strict``: the first
    thing that cannot be used is an error. ``frame``: the frame of the coordinates in keypoint files
    (``frames.CHOICES`` or WIDTHxHEIGHT); ``auto``: decided from the values.

    Everything odd or unusable is in the listing's ``problems``, what was found in its
    ``notes``. Raises ConfigError for an unknown layout; XmdptError if there is no such folder, no
    images, no lists, or nothing usable.
    """
    if layout not in (AUTO, *READERS):
        raise ConfigError(f"the layout is one of {', '.join((AUTO, *READERS))}, not {layout!r}")
    if not sizes or min(sizes) < 1:
        raise ConfigError(f"sizes are positive numbers of pixels, not {tuple(sizes)}")
    options = ReadOptions(tuple(sizes), seed, openpose=detect, frame=parse_frame(frame))
    root = Path(root)
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise XmdptError(
            f"the dataset root {root} {what}",
            "--root is a folder: that of DeepFashion (it has img_highres/ and the lists), or of "
            "your own images, one folder per person: anna/front.jpg",
        )
    reader = _surest(root) if layout == AUTO else READERS[layout]
    listing = reader.read(root, options)
    pose = "openpose" if detect else AUTO
    listing.options = {"layout": layout, "pose": pose, "seed": seed, "frame": frame}
    _refuse_unusable(listing, strict=strict)
    return listing


def _surest(root: Path) -> DatasetReader:
    """The most confident reader; XmdptError if none recognises ``root``, or several equally."""
    sure = {name: reader.detect(root) for name, reader in READERS.items()}
    most = max((value for value in sure.values() if value is not None), default=None)
    if most is None:
        hints = "; or ".join(reader.wanted for reader in READERS.values())
        raise XmdptError(
            f"{root} holds neither images nor lists of DeepFashion, nor folders of other images",
            unpack_hint(read_places(root)) + hints,
        )
    first, *others = [name for name, value in sure.items() if value == most]
    if others:
        raise XmdptError(
            f"{root} may be of several layouts: {', '.join((first, *others))}",
            f"name the one it is: --layout {first}",
        )
    return READERS[first]


def _refuse_unusable(listing: Listing, *, strict: bool) -> None:
    """XmdptError if nothing is usable or, with ``strict``, if anything is not."""
    unusable = [problem for problem in listing.problems if not problem.kept]
    if strict and unusable:
        first, more = unusable[0], len(unusable) - 1
        others = f" (and {more} more)" if more else ""
        raise XmdptError(
            f"{first.file}: {first.reason}{others}", "correct it, or leave out --strict"
        )
    if not listing.items:
        shown = "; ".join(f"{p.file}: {p.reason}" for p in unusable[:3])
        raise XmdptError(
            f"no usable pair in {listing.root}: {len(unusable)} problems ({shown})"
            if unusable
            else f"no usable pair in {listing.root}: the lists are empty",
            "check that the lists belong to these images",
        )
