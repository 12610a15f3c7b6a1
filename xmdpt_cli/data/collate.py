"""Pairs of a prepared dataset as the tensors of a batch."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import torch

from xmdpt_cli.data.dataset import CONNECTIONS, PairDataset, Read
from xmdpt_cli.data.sampler import PairIndices

# field of a batch -> the view of the pair it comes from, and the stored tensor's name
_FEATURES = {
    "target_moments": ("target", "moments"),
    "source_moments": ("source", "moments"),
    "pose_tokens": ("target", "pose_tokens"),
    "source_tokens": ("source", "source_tokens"),
}
_TARGET_TOKENS = {"target_tokens": ("target", "source_tokens")}  # for REPA
_WORTH_THREADS = 2**20  # bytes: less is copied sooner than a thread is woken


@dataclass
class Batch:
    """Tensors on the CPU. Legend: N pairs, C latent channels, h, w latent size, L tokens, W width.

    ``moments`` are the VAE posterior's mean and log variance, unscaled.
    """

    target_moments: torch.Tensor  # float32 (N, 2C, h, w)
    source_moments: torch.Tensor  # float32 (N, 2C, h, w)
    pose_tokens: torch.Tensor  # (N, L, W), of the target's pose, as stored (bfloat16)
    source_tokens: torch.Tensor  # (N, L, W), of the source image, as stored (bfloat16)
    pairs: list[str]  # PairRef.name
    flipped: list[bool]
    pose_map: torch.Tensor | None = None  # uint8 (N, H, W, 3), the target's pose map
    source_pose_map: torch.Tensor | None = None  # uint8 (N, H, W, 3), the source's
    target_tokens: torch.Tensor | None = None  # (N, L, W), of the target image, as stored
    skipped: int = 0  # how many of the pairs replace pairs of broken shards (``broken_shards``)

    def pose_maps(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor] | None:
        """The target's and the source's pose map, float32 (N, 3, H, W) in [0, 1]."""
        if self.pose_map is None or self.source_pose_map is None:
            return None
        target, source = (
            image.to(device, non_blocking=True).permute(0, 3, 1, 2).float() / 255
            for image in (self.pose_map, self.source_pose_map)
        )
        return target, source


@dataclass(kw_only=True)
class EvalBatch(Batch):
    """A batch in published order, with its images and keypoints."""

    source_images: torch.Tensor  # uint8 (N, H, W, 3)
    target_images: torch.Tensor  # uint8 (N, H, W, 3)
    source_keypoints: torch.Tensor  # float64 (N, 18, 2), pixels, NaN missing
    target_keypoints: torch.Tensor  # float64 (N, 18, 2), pixels, NaN missing


def load_pairs(
    dataset: PairDataset,
    indices: PairIndices,
    *,
    pose_maps: bool = False,
    target_tokens: bool = False,
    out: Batch | None = None,
    read: Read | None = None,
) -> Batch:
    """Read pairs into a batch, each tensor copied once.

    ``out``: an old batch whose tensors are overwritten where they fit, because fresh memory costs
    as much as the copy itself. ``read``: reads the bytes instead of ``dataset.read``.
    """
    count, flips = len(indices.pairs), indices.flip
    sources, targets = dataset.rows(indices.pairs, indices.swap)
    rows = {"source": sources, "target": targets}
    features = _FEATURES | (_TARGET_TOKENS if target_tokens else {})
    shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
    for field, (_, name) in features.items():
        dtype = torch.float32 if name == "moments" else dataset.dtype(name)
        shapes[field] = ((count, *dataset.column(name).shape), dtype)
    maps = {"pose_map": targets, "source_pose_map": sources} if pose_maps else {}
    for field in maps:
        shapes[field] = ((count, dataset.resolution, dataset.resolution, 3), torch.uint8)
    tensors = {f: reuse(getattr(out, f, None), *shape) for f, shape in shapes.items()}

    def fill(part: slice) -> None:
        for field, (role, name) in features.items():
            dataset.read_tensors(name, rows[role][part], flips[part], tensors[field][part], read)
        for field, views in maps.items():
            for i in range(count)[part]:
                rendered = dataset.pose_map_of(int(views[i]), bool(flips[i]), read)
                tensors[field][i].numpy()[...] = rendered

    if read is None and dataset.store.folder is None:
        threads = CONNECTIONS  # each waits for the server
    else:  # a few fill the memory's bandwidth
        size = sum(tensor.nbytes for tensor in tensors.values())
        threads = copy_threads() if size >= _WORTH_THREADS else 1
    in_parts(fill, count, threads)
    return Batch(
        **tensors, pairs=dataset.names(sources, targets), flipped=flips.tolist(), skipped=0
    )


def reuse(old: torch.Tensor | None, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """``old`` if it has this shape and dtype, else a new uninitialised tensor."""
    if old is not None and old.shape == shape and old.dtype == dtype:
        return old
    return torch.empty(shape, dtype=dtype)


def in_parts(work: Callable[[slice], None], count: int, threads: int) -> None:
    """Call ``work`` with slices of 0 .. ``count``, one a thread; return when all are done."""
    threads = min(threads, count)
    if threads <= 1:
        work(slice(0, count))
        return
    cuts = [count * i // threads for i in range(threads + 1)]
    parts = [_pool().submit(work, slice(a, b)) for a, b in pairwise(cuts)]
    wait(parts)  # all of them: none may still write when an error is raised
    for part in parts:
        part.result()


_copy_threads = min(4, os.cpu_count() or 1)


def copy_threads() -> int:
    """The number of threads that fill a batch from memory."""
    return _copy_threads


def limit_threads(count: int) -> None:
    """Set ``copy_threads`` (at most 4), for measuring."""
    global _copy_threads
    _copy_threads = count


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="collate")
