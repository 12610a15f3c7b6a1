"""What every reader of keypoint files returns: the people of one image."""

from __future__ import annotations

from dataclasses import dataclass

from xmdpt_cli.pose.keypoints import Keypoints, Size


@dataclass(frozen=True)
class ImagePoses:
    """One image's people: keypoints in the order of ``JOINTS``, NaN for missing.

    ``size``: (height, width) of the image whose pixels they are, or None where they are
    fractions of its width and height (``shapeless``: and the file does not state these).
    ``where`` names the file, and the frame if it has several; ``name`` is what the file calls the
    image, "" if it does not.
    """

    people: list[Keypoints]  # (18, 2) each, in the file's order
    size: Size | None
    where: str
    name: str = ""
    unsized: bool = False  # in pixels, and the file does not say of how large an image
    shapeless: bool = False  # in fractions, and the file does not say of how large an image
    separate: bool = False  # an image of its own among others, not the next one of a video
