"""The pictures of training pairs, decoded, cropped, with their poses drawn: what encoders take."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from xmdpt_cli.data.collate import room_for
from xmdpt_cli.data.crops import Crop, crop_keypoints, crop_picture
from xmdpt_cli.data.dataset import CONNECTIONS, PairDataset
from xmdpt_cli.data.skipping import Draws
from xmdpt_cli.pose.drawing import draw_pose, draw_pose_map

# crop(number, role): of the picture that has that role in the pair of that number
Cropper = Callable[[int, str], Crop]


@dataclass
class Views:
    """N pairs as pictures, on the CPU; H = W is the dataset's resolution."""

    pictures: torch.Tensor  # uint8 (2N, H, W, 3): the targets, then the sources
    poses: torch.Tensor  # uint8 (N, H, W, 3), ``draw_pose`` of the targets
    pairs: list[str]  # PairRef.name
    flipped: list[bool]
    pose_map: torch.Tensor | None = None  # uint8 (N, H, W, 3), the targets'
    source_pose_map: torch.Tensor | None = None
    skipped: int = 0  # see Batch


def load_views(
    dataset: PairDataset,
    draws: Draws,
    crop: Cropper,
    pose_maps: bool = False,
    out: Views | None = None,
) -> Views:
    """Read pairs as pictures, on a few threads; ``out`` is an old one to overwrite.

    As in the shards, a pair is mirrored by mirroring its pictures and the drawn pose, so joints
    are not relabelled (published). ShardError if a shard or a picture in it is broken.
    """
    count, size = len(draws.pairs), dataset.resolution
    sources, targets = dataset.rows(draws.pairs, draws.swap)
    shape = (size, size, 3)

    def room(name: str, number: int = count) -> torch.Tensor:
        return room_for(getattr(out, name, None), (number, *shape), torch.uint8)

    pictures, poses = room("pictures", 2 * count), room("poses")
    maps = room("pose_map") if pose_maps else None
    source_maps = room("source_pose_map") if pose_maps else None

    def fill(numbers: range) -> None:
        for i in numbers:
            step = -1 if draws.flip[i] else 1
            for role, row, place, drawn in (
                ("target", int(targets[i]), i, maps),
                ("source", int(sources[i]), count + i, source_maps),
            ):
                cut = crop(int(draws.numbers[i]), role)
                picture = crop_picture(dataset.picture_of(row), cut)
                _put(pictures, place, picture, step)
                if role == "source" and drawn is None:
                    continue
                points = crop_keypoints(dataset.keypoints_of(row), cut, size)
                if role == "target":
                    _put(poses, i, draw_pose(points, size), step)
                if drawn is not None:
                    _put(drawn, i, draw_pose_map(points, size), step)

    workers = min(_threads(dataset), count)
    cuts = [count * i // workers for i in range(workers + 1)]
    filled = [_pool().submit(fill, range(a, b)) for a, b in pairwise(cuts)]
    wait(filled)  # all of them: none may write on after another one's error was raised
    for future in filled:
        future.result()
    names = dataset.names(sources, targets)
    return Views(pictures, poses, names, draws.flip.tolist(), maps, source_maps)


def _put(room: torch.Tensor, place: int, picture: NDArray[np.uint8], step: int) -> None:
    room[place].numpy()[...] = picture[:, ::step]


def _threads(dataset: PairDataset) -> int:
    """Decoding fills cores; who asks a server waits."""
    return CONNECTIONS if dataset.store.folder is None else min(CONNECTIONS, os.cpu_count() or 1)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="decode")
