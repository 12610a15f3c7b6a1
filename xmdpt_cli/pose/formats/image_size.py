"""The size of the image that keypoints are of, if their file does not state it.

Keypoints in pixels need it, as in OpenPose's JSON; fractions need it for the shape of the image. It
is ``--pose-size``, else the size of the image of the same name beside the file, else that of the
source image.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import UnidentifiedImageError

from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.images import generated_metadata
from xmdpt_cli.pose.frames import FRACTIONS, CoordinateFrame
from xmdpt_cli.pose.keypoints import Size
from xmdpt_cli.utils.image_types import SUFFIXES, open_image

#: the name of an image in a file ("" if it has none) -> its size, None if unknown
SizeOf = Callable[[str], Size | None]

OPENPOSE_ENDING = "_keypoints"  # OpenPose writes person_keypoints.json for person.jpg
SIZE_HINT = (
    "give the size of the image that the keypoints are of: --pose-size WxH (pose_size=(W, H) in "
    'Python); or put that image, with the same name, beside the file; or add "canvas_width" and '
    '"canvas_height" to the file; with a source image its size is taken'
)
_LARGEST = 100_000  # pixels a side
_TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height


def parse_size(text: str) -> tuple[int, int]:
    """``750x1101`` -> (750, 1101), width and height. ConfigError for other texts."""
    match = re.fullmatch(r"\s*(\d{1,9})\s*[xX*,:]\s*(\d{1,9})\s*", text)
    if match is None:
        raise ConfigError(
            f"--pose-size is WIDTHxHEIGHT in pixels, not {text!r}", "for instance 750x1101"
        )
    return check_pose_size((int(match[1]), int(match[2])))


def check_pose_size(size: Sequence[int]) -> tuple[int, int]:
    """Returns (width, height); ConfigError unless both are whole numbers from 2 to 100,000."""
    sides = [side for side in size if isinstance(side, (int, np.integer)) and side is not True]
    if len(sides) != 2 or len(size) != 2 or min(sides) < 2 or max(sides) > _LARGEST:
        shown = "x".join(str(side) for side in size)
        raise ConfigError(
            f"the pose size is a width and a height of 2 to {_LARGEST} pixels, not {shown}",
            "for instance 750x1101 (pose_size=(750, 1101) in Python)",
        )
    return int(sides[0]), int(sides[1])


def size_of_image(path: Path | bytes, name: object = None) -> Size:
    """(height, width) of an image file, or of its bytes, upright (EXIF), without decoding it.

    Raises XmdptError with the file's name (``name`` for bytes) if it is not an image.
    """
    where = name or path
    try:
        with open_image(path) as image:
            width, height = image.size
            turned = image.getexif().get(0x0112, 1) in _TURNED
    except FileNotFoundError:
        raise XmdptError(f"image not found: {where}") from None
    except UnidentifiedImageError:
        raise XmdptError(f"not an image (or empty): {where}") from None
    except XmdptError as err:
        raise XmdptError(f"{where}: {err.message}", err.hint) from None
    except Exception as err:  # Pillow's readers raise a dozen types for damaged files
        raise XmdptError(f"broken image: {where} ({err})") from None
    return (width, height) if turned else (height, width)


def shape_of(size_of: SizeOf | None, name: str) -> Size | None:
    """The size of the image called ``name``, whose file has fractions; None if unknown."""
    if isinstance(size_of, UnstatedSize):
        return size_of(name, "fractions")
    return None if size_of is None else size_of(name)


class UnstatedSize:
    """A ``SizeOf`` for one keypoints file. ``notes``: which size was used, and where it is from.

    ``given``: (width, height), of ``--pose-size``; ``source``: (height, width) of the source image.
    """

    def __init__(
        self, file: Path, *, given: tuple[int, int] | None = None, source: Size | None = None
    ) -> None:
        self.file, self.given, self.source = file, given, source
        self.notes: list[str] = []
        self.guessed = False  # whether the source's size was used, which is a guess

    def __call__(self, name: str, unit: str = "pixels") -> Size | None:
        found = self._find(name)
        if found is not None:
            (height, width), where = found
            note = f"in {unit} of an image of {width} x {height} ({where})"
        elif unit == "fractions":
            note = (
                "fractions; the image's size is not known: taken as 176:256; --pose-size WxH "
                "(pose_size=(W, H) in Python)"
            )
        else:
            return None
        note = f"{self.file.name}: {note}"
        if note not in self.notes:
            self.notes.append(note)
        return None if found is None else found[0]

    def correct_notes(self, frame: CoordinateFrame) -> None:
        """Correct the notes once the coordinate frame of the values is known."""
        notes = self.notes if frame.of_images or frame.name == FRACTIONS.name else []
        unit = " in pixels of " if frame.of_images else " in fractions of "
        self.notes[:] = [note.replace(" in pixels of ", unit) for note in notes]

    def _find(self, name: str) -> tuple[Size, str] | None:
        if self.given is not None:
            return (self.given[1], self.given[0]), "--pose-size"
        image = image_beside(self.file, name)
        if image is not None:
            return size_of_image(image), f"the size of {image.name} beside it"
        if self.source is not None:
            self.guessed = True
            return self.source, "the size of the source image, as nothing else states it"
        return None


def image_beside(file: Path, name: str = "") -> Path | None:
    """The image beside a keypoints file: the one that the file names, else the one of the same name
    (``person.jpg`` for ``person.json`` and ``person_keypoints.json``).

    Of several images with that name and one size the first in the order of ``SUFFIXES``; XmdptError
    if their sizes differ.
    """
    if name:
        named = file.parent / Path(name.replace("\\", "/")).name
        if named.suffix[1:].lower() in SUFFIXES and _is_file(named):
            return named
    stems = [Path(name).stem, name] if name else [file.stem.removesuffix(OPENPOSE_ENDING)]
    ends = [end for suffix in SUFFIXES for end in (suffix, suffix.upper())]
    # the folder is not listed: it may have thousands of files
    places = [file.parent / f"{stem}.{end}" for stem in dict.fromkeys(stems) for end in ends]
    # an image or animation that xmdpt generated from this pose is not the image of the pose
    found = [place for place in places if _is_file(place) and generated_metadata(place) is None]
    if len(found) > 1 and len({size_of_image(path) for path in found}) > 1:
        names = ", ".join(path.name for path in found)
        raise XmdptError(
            f"{file}: {names} beside it are images of different sizes",
            "name the size that the keypoints are of: --pose-size WxH",
        )
    return found[0] if found else None


def _is_file(path: Path) -> bool:
    """Whether the file exists; a name in a keypoints file may not be a valid file name."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or with a null character
        return False
