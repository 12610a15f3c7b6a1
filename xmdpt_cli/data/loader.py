"""Batches of a prepared dataset: shuffled for training, in published order for evaluation.

What a training batch holds is a function of (seed, step, rank) alone, so resuming needs no stored
position and no worker state.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise

import numpy as np
import torch

from xmdpt_cli.data.broken_shards import BrokenShards
from xmdpt_cli.data.dataset import CONNECTIONS, PairDataset, Read
from xmdpt_cli.data.sampler import LoaderConfig, PairIndices, PairSampler
from xmdpt_cli.pose.keypoints import Keypoints

# field of a batch -> the view of the pair it comes from, and the stored tensor's name
_FEATURES = {
    "target_moments": ("target", "moments"),
    "source_moments": ("source", "moments"),
    "pose_tokens": ("target", "pose_tokens"),
    "source_tokens": ("source", "source_tokens"),
}
_TARGET_TOKENS = {"target_tokens": ("target", "source_tokens")}  # for REPA
THREADS = min(4, os.cpu_count() or 1)  # that copy a batch: a few fill the memory's bandwidth
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
    #: float32 (N, 2, 18, 2), the target's, then the source's; see ``put_joints``
    joints: torch.Tensor | None = None
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
    joints: bool = False,
    out: Batch | None = None,
    read: Read | None = None,
    threads: int = THREADS,
) -> Batch:
    """Read pairs into a batch, each tensor copied once.

    ``out``: an old batch whose tensors are overwritten where they fit, because fresh memory costs
    as much as the copy itself. ``read``: reads the bytes instead of ``dataset.read``. ``threads``:
    how many copy a large batch from memory.
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
    if joints:
        shapes["joints"] = ((count, 2, 18, 2), torch.float32)
    tensors = {f: reuse(getattr(out, f, None), *shape) for f, shape in shapes.items()}

    def fill(part: slice) -> None:
        for field, (role, name) in features.items():
            dataset.read_tensors(name, rows[role][part], flips[part], tensors[field][part], read)
        for field, views in maps.items():
            for i in range(count)[part]:
                rendered = dataset.pose_map_of(int(views[i]), bool(flips[i]), read)
                tensors[field][i].numpy()[...] = rendered
        if joints:
            for i in range(count)[part]:
                for place, views in enumerate((targets, sources)):
                    points = dataset.keypoints_of(int(views[i]), read)
                    into = tensors["joints"][i, place]
                    put_joints(into, points, dataset.resolution, bool(flips[i]))

    if read is None and dataset.store.folder is None:
        threads = CONNECTIONS  # each waits for the server
    elif sum(tensor.nbytes for tensor in tensors.values()) < _WORTH_THREADS:
        threads = 1
    in_parts(fill, count, threads)
    return Batch(
        **tensors, pairs=dataset.names(sources, targets), flipped=flips.tolist(), skipped=0
    )


class TrainLoader:
    """Shuffled batches of a local dataset, in the order of ``PairSampler``.

    ``broken``: replaces the pairs of shards that cannot be read; None: raise. ``threads``: see
    ``load_pairs``.
    """

    def __init__(
        self,
        dataset: PairDataset,
        config: LoaderConfig,
        broken: BrokenShards | None = None,
        threads: int = THREADS,
    ) -> None:
        self.dataset, self.config, self.broken, self.threads = dataset, config, broken, threads
        self.sampler = PairSampler(len(dataset), config)

    def batch(self, step: int, out: Batch | None = None) -> Batch:
        """The batch of this rank at ``step`` (from 0): always the same one.

        ``out`` is an old batch to overwrite (see ``load_pairs``). Raises XmdptError if a shard
        cannot be read, and with ``broken`` if too many cannot.
        """
        load = partial(
            load_pairs,
            self.dataset,
            pose_maps=self.config.pose_maps,
            target_tokens=self.config.target_tokens,
            joints=self.config.joints,
            out=out,
            threads=self.threads,
        )
        indices = self.sampler.indices(step)
        return load(indices) if self.broken is None else self.broken.load_readable(indices, load)


def eval_batches(
    dataset: PairDataset,
    batch_size: int,
    limit: int | None = None,
    pose_maps: bool = False,
    part: tuple[int, int] = (0, 1),
) -> Iterator[EvalBatch]:
    """The first ``limit`` pairs in published order, neither swapped nor mirrored. ``part`` (k, n):
    the batches of the k-th of n processes, which are k, k + n, ..."""
    count = len(dataset) if limit is None else min(limit, len(dataset))
    for start in range(part[0] * batch_size, count, part[1] * batch_size):
        indices = list(range(start, min(start + batch_size, count)))
        batch = load_pairs(dataset, PairIndices.listed(indices), pose_maps=pose_maps)
        pairs = [dataset.pairs[i] for i in indices]
        sources = [dataset.view(pair.key, pair.source) for pair in pairs]
        targets = [dataset.view(pair.key, pair.target) for pair in pairs]
        yield EvalBatch(
            **vars(batch),
            source_images=torch.from_numpy(np.stack([image for image, _ in sources])),
            target_images=torch.from_numpy(np.stack([image for image, _ in targets])),
            source_keypoints=torch.from_numpy(np.stack([points for _, points in sources])),
            target_keypoints=torch.from_numpy(np.stack([points for _, points in targets])),
        )


def put_joints(into: torch.Tensor, points: Keypoints, size: int, flip: bool) -> None:
    """Keypoints in pixels of an image of ``size`` -> ``into`` (18, 2), fractions of its side, NaN
    missing; mirrored with it, joints not relabelled (published)."""
    joints = points / size
    if flip:
        joints[:, 0] = 1 - joints[:, 0]
    into.numpy()[...] = joints


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


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="collate")
