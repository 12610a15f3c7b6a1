"""Batches of a prepared dataset: shuffled for training, in published order for evaluation.

What a training batch holds is a function of (seed, step, rank) alone, so resuming needs no stored
position and no worker state.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch

from xmdpt_cli.data.broken_shards import BrokenShards
from xmdpt_cli.data.collate import Batch, EvalBatch, load_pairs
from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.data.prefetch import Loader, prefetch
from xmdpt_cli.data.sampler import LoaderConfig, PairIndices, PairSampler
from xmdpt_cli.data.table import PairRef

__all__ = [
    "Batch",
    "BrokenShards",
    "EvalBatch",
    "Loader",
    "LoaderConfig",
    "PairDataset",
    "PairRef",
    "TrainLoader",
    "eval_batches",
    "load_pairs",
    "prefetch",
]


class TrainLoader:
    """Shuffled batches of a local dataset, in the order of ``PairSampler``.

    ``broken``: what to do about shards that cannot be read; None: raise.
    """

    def __init__(
        self, dataset: PairDataset, config: LoaderConfig, broken: BrokenShards | None = None
    ) -> None:
        self.dataset, self.config, self.broken = dataset, config, broken
        self.sampler = PairSampler(len(dataset), config)

    def batch(self, step: int, out: Batch | None = None) -> Batch:
        """The batch of this rank at ``step`` (from 0): always the same one.

        ``out`` is an old batch to overwrite (see ``load_pairs``). Raises XmdptError if a shard
        cannot be read, and with ``broken`` if too many cannot.
        """
        maps, target_tokens = self.config.pose_maps, self.config.target_tokens
        load = partial(
            load_pairs, self.dataset, pose_maps=maps, target_tokens=target_tokens, out=out
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
