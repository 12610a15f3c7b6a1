"""The images of training pairs, decoded, cropped, with their rendered poses: what encoders take."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from xmdpt_cli.data.collate import in_parts, reuse
from xmdpt_cli.data.crops import Crop, crop_image, crop_keypoints
from xmdpt_cli.data.dataset import CONNECTIONS, PairDataset
from xmdpt_cli.data.sampler import PairIndices
from xmdpt_cli.pose.drawing import draw_pose, draw_pose_map

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
    skipped: int = 0  # see Batch


def load_pair_images(
    dataset: PairDataset,
    indices: PairIndices,
    crop: Cropper,
    pose_maps: bool = False,
    out: PairImages | None = None,
) -> PairImages:
    """Read pairs as images, on a few threads; ``out`` is an old one to overwrite.

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

    def fill(part: slice) -> None:
        for i in range(count)[part]:
            for role, row, place in (("target", targets[i], i), ("source", sources[i], count + i)):
                cut = crop(numbers[i], role)
                _put(images, place, crop_image(dataset.image_of(int(row)), cut), flips[i])
                if role == "source" and not maps:
                    continue
                points = crop_keypoints(dataset.keypoints_of(int(row)), cut, size)
                if role == "target":
                    _put(poses, i, draw_pose(points, size), flips[i])
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
    )


def _put(batch: torch.Tensor, place: int, image: NDArray[np.uint8], flip: bool) -> None:
    batch[place].numpy()[...] = image[:, ::-1] if flip else image
