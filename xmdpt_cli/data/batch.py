"""Pairs of a prepared dataset as tensors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from xmdpt_cli.data.pairs import FEATURES, PairDataset, copy_tensor
from xmdpt_cli.data.reader import TORCH_DTYPES
from xmdpt_cli.data.shards import FLIP


@dataclass
class Batch:
    """Tensors on the CPU. Legend: N pairs, C latent channels, h, w latent size, L tokens, W width.

    ``moments`` are the VAE posterior's mean and log variance, unscaled.
    """

    target_moments: torch.Tensor  # float32 (N, 2C, h, w)
    source_moments: torch.Tensor  # float32 (N, 2C, h, w)
    pose_tokens: torch.Tensor  # (N, L, W), of the target's pose, as stored (bfloat16)
    source_tokens: torch.Tensor  # (N, L, W), of the source picture, as stored (bfloat16)
    pairs: list[str]  # PairRef.name
    flipped: list[bool]
    pose_map: torch.Tensor | None = None  # uint8 (N, H, W, 3), the target's pose picture
    source_pose_map: torch.Tensor | None = None  # uint8 (N, H, W, 3), the source's

    def pose_maps(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor] | None:
        """The target's and the source's pose picture, float32 (N, 3, H, W) in [0, 1]."""
        if self.pose_map is None or self.source_pose_map is None:
            return None
        target, source = (
            picture.to(device).permute(0, 3, 1, 2).float() / 255
            for picture in (self.pose_map, self.source_pose_map)
        )
        return target, source


@dataclass(kw_only=True)
class EvalBatch(Batch):
    """A batch in published order, with what a report shows."""

    source_pictures: torch.Tensor  # uint8 (N, H, W, 3)
    target_pictures: torch.Tensor  # uint8 (N, H, W, 3)
    source_keypoints: torch.Tensor  # float64 (N, 18, 2), pixels, NaN missing
    target_keypoints: torch.Tensor  # float64 (N, 18, 2), pixels, NaN missing


def _room(old: torch.Tensor | None, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    if old is not None and old.shape == shape and old.dtype == dtype:
        return old
    return torch.empty(shape, dtype=dtype)


def load_pairs(
    dataset: PairDataset,
    indices: list[int] | NDArray[np.int64],
    swap: list[bool] | NDArray[np.bool_],
    flip: list[bool] | NDArray[np.bool_],
    pose_maps: bool = False,
    out: Batch | None = None,
) -> Batch:
    """Read pairs: one copy from the shard's memory map into the batch.

    ``out`` is a batch nobody needs any more, whose tensors are overwritten where they fit: fresh
    memory costs as much as the copy itself.
    """
    rows = [
        (dataset.pairs[int(i)], bool(s), bool(f))
        for i, s, f in zip(indices, swap, flip, strict=True)
    ]
    filled: dict[str, torch.Tensor] = {}
    for field, (role, name) in FEATURES.items():
        for row, (pair, swapped, flipped) in enumerate(rows):
            view = pair.view(role, swapped)
            reader, place = dataset.place(pair.key, view, name + (FLIP if flipped else ""))
            if field not in filled:
                dtype = torch.float32 if name == "moments" else TORCH_DTYPES[place.dtype]
                old = None if out is None else getattr(out, field)
                filled[field] = _room(old, (len(rows), *place.shape), dtype)
            copy_tensor(filled[field][row], reader, place)
    maps: dict[str, torch.Tensor] = {}
    if pose_maps:
        shape = (len(rows), dataset.resolution, dataset.resolution, 3)
        for field, role in (("pose_map", "target"), ("source_pose_map", "source")):
            maps[field] = room = _room(
                None if out is None else getattr(out, field), shape, torch.uint8
            )
            for row, (pair, swapped, flipped) in enumerate(rows):
                drawn = dataset.pose_map(pair.key, pair.view(role, swapped), flipped)
                room.numpy()[row] = drawn
    names = [pair.name(swapped) for pair, swapped, _ in rows]
    mirrored = [f for _, _, f in rows]
    return Batch(**filled, pairs=names, flipped=mirrored, **maps)
