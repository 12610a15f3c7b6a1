"""The images of training pairs, decoded and randomly cropped, with their rendered poses.

A random crop enlarges an image and cuts it back to its size. Published: "each image independently
scaled by up to 1.05 and cropped back". The details follow the data loaders of GFLA, from which the
pose files of PIDM and X-MDPT come: the factor is uniform in [1, 1.05) and the same for both axes,
the enlarged side is rounded down to whole pixels, PIL's bicubic filter enlarges, and the corner of
the crop is uniform over all whole pixels that keep it inside. Keypoints are transformed with the
image, so the pose image shows the pose of the crop, and joints may leave it. The input is the
prepared image, already squashed, as in the LMDB of 256x256 images of PIDM and X-MDPT.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from xmdpt_cli.data.dataset import CONNECTIONS, PairDataset
from xmdpt_cli.data.loader import in_parts, put_joints, reuse
from xmdpt_cli.data.sampler import PairIndices, seeded_generator
from xmdpt_cli.images import ImageArray
from xmdpt_cli.pose.drawing import draw_pose, draw_pose_map
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
    rng = seeded_generator(seed, number, ROLES.index(role), _CROP)
    side = int(size * (1 + (LARGEST - 1) * rng.random()))
    left, top = rng.integers(0, side - size + 1, 2).tolist()
    return Crop(side, left, top)


def crop_image(image: ImageArray, crop: Crop) -> ImageArray:
    """(S, S, 3) -> (S, S, 3); an image that is not enlarged is returned as it is."""
    size = len(image)
    if crop.side == size:
        return image
    enlarged = Image.fromarray(image).resize((crop.side, crop.side), Image.Resampling.BICUBIC)
    right, bottom = crop.left + size, crop.top + size
    return np.asarray(enlarged.crop((crop.left, crop.top, right, bottom)))


def crop_keypoints(points: Keypoints, crop: Crop, size: int) -> Keypoints:
    """(18, 2) in pixels of the image -> in pixels of its crop; NaN stays NaN."""
    return points * (crop.side / size) - np.array((crop.left, crop.top), dtype=np.float64)


# crop(number, role): the crop of the image with that role in the pair of that number
Cropper = Callable[[int, str], Crop]


@dataclass
class PairImages:
    """N pairs as images, on the CPU; H = W is the dataset's resolution."""

    images: torch.Tensor  # uint8 (2N, H, W, 3): the targets, then the sources
    poses: torch.Tensor  # uint8 (N, H, W, 3), ``draw_pose`` of the targets
    pairs: list[str]  # PairRef.name
    flipped: list[bool]
    pose_map: torch.Tensor | None = None  # uint8 (N, H, W, 3), the targets'
    source_pose_map: torch.Tensor | None = None
    joints: torch.Tensor | None = None  # see Batch
    skipped: int = 0  # see Batch


def load_pair_images(
    dataset: PairDataset,
    indices: PairIndices,
    crop: Cropper,
    pose_maps: bool = False,
    joints: bool = False,
    out: PairImages | None = None,
) -> PairImages:
    """Read pairs as images, on a few threads. ``out``: an earlier result to overwrite.

    As in the shards, a pair is mirrored by mirroring its images and the rendered pose; joints are
    not relabelled (published). ShardError if a shard or an image in it is broken.
    """
    count, size = len(indices.pairs), dataset.resolution
    sources, targets = dataset.rows(indices.pairs, indices.swap)
    numbers, flips = indices.numbers.tolist(), indices.flip.tolist()

    def buffer(name: str, rows: int = count) -> torch.Tensor:
        return reuse(getattr(out, name, None), (rows, size, size, 3), torch.uint8)

    images, poses = buffer("images", 2 * count), buffer("poses")
    maps = {"target": buffer("pose_map"), "source": buffer("source_pose_map")} if pose_maps else {}
    places = torch.empty(count, 2, 18, 2) if joints else None

    def fill(part: slice) -> None:
        for i in range(count)[part]:
            for role, row, place in (("target", targets[i], i), ("source", sources[i], count + i)):
                cut = crop(numbers[i], role)
                _put(images, place, crop_image(dataset.image_of(int(row)), cut), flips[i])
                if role == "source" and not maps and places is None:
                    continue
                points = crop_keypoints(dataset.keypoints_of(int(row)), cut, size)
                if role == "target":
                    _put(poses, i, draw_pose(points, size), flips[i])
                if places is not None:
                    put_joints(places[i, int(role == "source")], points, size, flips[i])
                if maps:
                    _put(maps[role], i, draw_pose_map(points, size), flips[i])

    # decoding fills the cores; a reader behind a URL waits for the server
    local = dataset.store.folder is not None
    in_parts(fill, count, min(CONNECTIONS, os.cpu_count() or 1) if local else CONNECTIONS)
    return PairImages(
        images,
        poses,
        dataset.names(sources, targets),
        flips,
        maps.get("target"),
        maps.get("source"),
        places,
    )


def _put(batch: torch.Tensor, place: int, image: NDArray[np.uint8], flip: bool) -> None:
    batch[place].numpy()[...] = image[:, ::-1] if flip else image
