"""Pairs of a prepared dataset as tensors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from xmdpt_cli.data.copying import Read, loaded_dtype
from xmdpt_cli.data.dataset import CONNECTIONS, FEATURES, TARGET_TOKENS, PairDataset


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
    target_tokens: torch.Tensor | None = None  # (N, L, W), of the target picture, as stored
    skipped: int = 0  # of these pairs stand for others that could not be read (``skipping``)

    def pose_maps(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor] | None:
        """The target's and the source's pose picture, float32 (N, 3, H, W) in [0, 1]."""
        if self.pose_map is None or self.source_pose_map is None:
            return None
        target, source = (
            picture.to(device, non_blocking=True).permute(0, 3, 1, 2).float() / 255
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


class Filling:
    """A batch and how to fill it: rows may be filled in parts, from different places."""

    def __init__(
        self,
        dataset: PairDataset,
        indices: Sequence[int] | NDArray[np.int64],
        swap: Sequence[bool] | NDArray[np.bool_],
        flip: Sequence[bool] | NDArray[np.bool_],
        pose_maps: bool = False,
        out: Batch | None = None,
        target_tokens: bool = False,
    ) -> None:
        """Takes the arguments of ``load_pairs``; nothing is read yet."""
        picks, swaps = np.asarray(indices, np.int64), np.asarray(swap, np.bool_)
        flips = np.asarray(flip, np.bool_)
        assert len(picks) == len(swaps) == len(flips)
        sources, targets = dataset.rows(picks, swaps)
        rows = {"source": sources, "target": targets}
        self.dataset, self.rows, self.flips = dataset, rows, flips.tolist()
        rooms: dict[str, torch.Tensor] = {}
        self.fields = []
        wanted = {**FEATURES, **(TARGET_TOKENS if target_tokens else {})}
        for field, (role, name) in wanted.items():
            column = dataset.column(name)
            dtype = torch.float32 if name == "moments" else loaded_dtype(column)
            old = None if out is None else getattr(out, field)
            rooms[field] = room_for(old, (len(picks), *column.shape), dtype)
            self.fields.append(dataset.field(rooms[field], rows[role], name, flips))
        self.maps: dict[str, NDArray[np.uint8]] = {}
        if pose_maps:
            shape = (len(picks), dataset.resolution, dataset.resolution, 3)
            for field, role in (("pose_map", "target"), ("source_pose_map", "source")):
                old = None if out is None else getattr(out, field)
                rooms[field] = room_for(old, shape, torch.uint8)
                self.maps[role] = rooms[field].numpy()
        names = dataset.names(sources, targets)
        self.batch = Batch(**rooms, pairs=names, flipped=self.flips, skipped=0)

    def fill(self, numbers: range, read: Read) -> None:
        """Read these rows of the batch."""
        count = len(numbers)
        asking = read == self.dataset.read and self.dataset.store.folder is None
        size = sum(field.column.bytes for field in self.fields) * count
        # who asks waits for a server; of copies a few fill the memory's bandwidth
        workers = CONNECTIONS if asking else threads() if size >= _WORTH_THREADS else 1
        workers = min(workers, count)
        if workers <= 1:
            self._fill(numbers, read)
            return
        cuts = [count * i // workers for i in range(workers + 1)]
        parts = [numbers[a:b] for a, b in pairwise(cuts)]
        filled = [_pool().submit(self._fill, part, read) for part in parts]
        wait(filled)  # all of them: none may write on after another one's error was raised
        for future in filled:
            future.result()

    def _fill(self, numbers: range, read: Read) -> None:
        for number in numbers:
            for field in self.fields:
                field.copy(number, read)
            for role, room in self.maps.items():
                row = int(self.rows[role][number])
                room[number] = self.dataset.pose_map_of(row, self.flips[number], read)
        for field in self.fields:
            field.settle(numbers)


def load_pairs(
    dataset: PairDataset,
    indices: Sequence[int] | NDArray[np.int64],
    swap: Sequence[bool] | NDArray[np.bool_],
    flip: Sequence[bool] | NDArray[np.bool_],
    pose_maps: bool = False,
    out: Batch | None = None,
    target_tokens: bool = False,
) -> Batch:
    """Read pairs: one copy from the file's pages into the batch.

    ``out`` is a batch nobody needs any more, whose tensors are overwritten where they fit: fresh
    memory costs as much as the copy itself.
    """
    filling = Filling(dataset, indices, swap, flip, pose_maps, out, target_tokens)
    filling.fill(range(len(indices)), dataset.read)
    return filling.batch


def room_for(old: torch.Tensor | None, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """``old``, if it fits: to be overwritten."""
    if old is not None and old.shape == shape and old.dtype == dtype:
        return old
    return torch.empty(shape, dtype=dtype)


_WORTH_THREADS = 2**20  # bytes: less is copied sooner than a thread is woken


_copying = min(4, os.cpu_count() or 1)


def threads() -> int:
    """How many threads fill a batch from memory."""
    return _copying


def limit_threads(count: int) -> None:
    """Let ``count`` threads fill a batch from memory, 4 at most: for measuring."""
    global _copying
    _copying = count


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="fill")
