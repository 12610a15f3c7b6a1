"""Fresh crops: an image a little enlarged and cut back to its size, and its keypoints with it.

Published: "each image independently scaled by up to 1.05 and cropped back". What that leaves
open is filled in as the loaders do that this line of work has shared since GFLA (the pose files
of PIDM and X-MDPT come from there): the factor is uniform in [1, 1.05), one for both axes, the
enlarged side is rounded down to whole pixels, PIL's bicubic enlarges, and the corner of the crop
is uniform over all whole pixels that keep it inside. The keypoints go with the image, so the
pose image is drawn for what the crop shows, and a joint may leave it.

What is enlarged is the image as prepared, already squashed, there (PIDM's and X-MDPT's LMDB of
256x256 images) as here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from xmdpt_cli.images import ImageArray
from xmdpt_cli.pose.keypoints import Keypoints

LARGEST = 1.05  # published
ROLES = ("source", "target")
_CROP = 0xC209  # keeps these random numbers apart from others of (seed, number)


@dataclass(frozen=True)
class Crop:
    """``side`` is that of the enlarged image; ``left`` and ``top`` the crop's corner in it."""

    side: int
    left: int = 0
    top: int = 0


def sample_crop(seed: int, number: int, role: str, size: int) -> Crop:
    """The crop of one image: a function of (seed, the pair's number, role) alone.

    ``number``: place in the endless sequence of training pairs; ``size``: the image's side.
    """
    rng = np.random.Generator(np.random.PCG64([seed, number, ROLES.index(role), _CROP]))
    side = int(size * (1 + (LARGEST - 1) * rng.random()))
    left, top = rng.integers(0, side - size + 1, 2).tolist()
    return Crop(side, left, top)


def crop_image(image: ImageArray, crop: Crop) -> ImageArray:
    """(S, S, 3) -> (S, S, 3); what is not enlarged comes back as it is."""
    size = len(image)
    if crop.side == size:
        return image
    enlarged = Image.fromarray(image).resize((crop.side, crop.side), Image.Resampling.BICUBIC)
    right, bottom = crop.left + size, crop.top + size
    return np.asarray(enlarged.crop((crop.left, crop.top, right, bottom)))


def crop_keypoints(points: Keypoints, crop: Crop, size: int) -> Keypoints:
    """(18, 2) in pixels of the image -> in pixels of its crop; NaN stays NaN."""
    return points * (crop.side / size) - np.array((crop.left, crop.top), dtype=np.float64)
