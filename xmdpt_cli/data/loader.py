"""Batches of a prepared dataset: for training, shuffled; for evaluation, in published order.

Features are copied once, from the file's pages into the batch. What a training batch
holds is a function of (seed, step, rank) alone, so resuming needs no stored position and no
worker state.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from xmdpt_cli.data.collate import Batch, EvalBatch, load_pairs
from xmdpt_cli.data.dataset import PairDataset, PairRef
from xmdpt_cli.data.prefetch import Loader, prefetch
from xmdpt_cli.data.skipping import Draws, Skipping, skipping_or_not
from xmdpt_cli.data.table import Ints
from xmdpt_cli.errors import ConfigError

__all__ = [
    "Batch",
    "EvalBatch",
    "Loader",
    "PairDataset",
    "PairRef",
    "Reading",
    "Skipping",
    "TrainLoader",
    "eval_batches",
    "load_pairs",
    "prefetch",
]

_SWAP = 0x5A4B  # keeps these random numbers apart from others of (seed, number)


@dataclass(frozen=True)
class _Epoch:
    order: NDArray[np.int64]  # a permutation of all pairs
    swap: NDArray[np.bool_]
    flip: NDArray[np.bool_]


@dataclass(frozen=True)
class Reading:
    """Which pairs a loader for training reads, and what of them. ConfigError if it cannot be."""

    batch_size: int  # of this rank
    seed: int
    rank: int = 0
    world: int = 1
    swap: bool = True
    flip: bool = True
    pose_maps: bool = False  # drawn, for "tokens" conditioning
    target_tokens: bool = False  # the target's DINOv2 tokens, for alignment
    skipping: Skipping | None = None  # what to do about a broken shard; None: raise
    swap_batch: int = 0  # pairs, over all ranks, that are swapped together; 0: each for itself

    def __post_init__(self) -> None:
        if self.batch_size < 1 or not 0 <= self.rank < self.world or self.seed < 0:
            raise ConfigError(
                f"impossible loader: batch size {self.batch_size}, rank {self.rank} of "
                f"{self.world}, seed {self.seed}",
                "batch size from 1, rank from 0 to world - 1, seed from 0",
            )

    def pair_numbers(self, step: int) -> Ints:
        """(batch_size,) places of the pairs of ``step`` in the endless sequence of all pairs."""
        first = (step * self.world + self.rank) * self.batch_size
        return np.arange(first, first + self.batch_size)

    def swaps(self, numbers: Ints, by_pair: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which of the pairs with these numbers are swapped, ``by_pair`` (N,) or batch by batch.

        Published: one random number for each batch. It follows from (seed, the batch's number), so
        ranks and gradient accumulation change nothing.
        """
        if not (self.swap and self.swap_batch):
            return by_pair
        batches, of = np.unique(numbers // self.swap_batch, return_inverse=True)
        drawn = [
            np.random.Generator(np.random.PCG64([self.seed, batch, _SWAP])).random()
            for batch in batches.tolist()
        ]
        return (np.array(drawn) < 0.5)[of]


class TrainLoader:
    """Batches of pairs, shuffled over the whole split, disjoint over the ranks.

    All ranks walk one endless sequence, epoch after epoch, each a permutation drawn from
    (seed, epoch); step s takes the next ``world * batch_size`` of it, rank r the r-th
    ``batch_size`` of these. A batch may thus reach into the next epoch, and no pair is dropped.
    Swapping source and target, and mirroring both, each happen to half of the pairs (published;
    there a batch is swapped as a whole: ``Reading.swap_batch``).
    """

    def __init__(self, dataset: PairDataset, reading: Reading) -> None:
        self.dataset, self.reading = dataset, reading
        self._epoch = lru_cache(maxsize=4)(self._draw_epoch)

    def _draw_epoch(self, epoch: int) -> _Epoch:
        seeds = np.random.SeedSequence([self.reading.seed, epoch])
        rng = np.random.Generator(np.random.PCG64(seeds))
        count = len(self.dataset)
        # always all three draws: the order must not depend on what is switched on
        order, swap, flip = rng.permutation(count), rng.random(count), rng.random(count)
        on = self.reading
        return _Epoch(order, (swap < 0.5) & on.swap, (flip < 0.5) & on.flip)

    def draws(self, step: int) -> Draws:
        """What this rank reads at ``step`` (from 0)."""
        numbers = self.reading.pair_numbers(step)
        indices = np.empty(len(numbers), np.int64)
        swap, flip = np.empty((2, len(numbers)), np.bool_)
        epochs, offsets = np.divmod(numbers, len(self.dataset))
        for number in np.unique(epochs):
            here, epoch = epochs == number, self._epoch(int(number))
            places = offsets[here]
            indices[here] = epoch.order[places]
            swap[here], flip[here] = epoch.swap[places], epoch.flip[places]
        return Draws(numbers, indices, self.reading.swaps(numbers, swap), flip)

    def batch(self, step: int, out: Batch | None = None) -> Batch:
        """The batch of this rank at ``step`` (from 0): always the same one.

        ``out`` is an old batch to overwrite (see ``load_pairs``). Raises XmdptError if a shard
        cannot be read, and with ``skipping`` if too much cannot.
        """

        def read(draws: Draws) -> Batch:
            which, of = (draws.pairs, draws.swap, draws.flip), self.reading
            return load_pairs(self.dataset, *which, of.pose_maps, out, of.target_tokens)

        return skipping_or_not(self.reading.skipping, self.draws(step), read)


def eval_batches(
    dataset: PairDataset,
    batch_size: int,
    limit: int | None = None,
    pose_maps: bool = False,
    part: tuple[int, int] = (0, 1),
) -> Iterator[EvalBatch]:
    """The first ``limit`` pairs in published order, neither swapped nor mirrored. ``part`` (k, n):
    of n processes the batches of the k-th, which are k, k + n, ..."""
    count = len(dataset) if limit is None else min(limit, len(dataset))
    for start in range(part[0] * batch_size, count, part[1] * batch_size):
        indices = list(range(start, min(start + batch_size, count)))
        none = [False] * len(indices)
        batch = load_pairs(dataset, indices, none, none, pose_maps)
        pairs = [dataset.pairs[i] for i in indices]
        sources = [dataset.view(pair.key, pair.source) for pair in pairs]
        targets = [dataset.view(pair.key, pair.target) for pair in pairs]
        yield EvalBatch(
            **vars(batch),
            source_pictures=torch.from_numpy(np.stack([picture for picture, _ in sources])),
            target_pictures=torch.from_numpy(np.stack([picture for picture, _ in targets])),
            source_keypoints=torch.from_numpy(np.stack([points for _, points in sources])),
            target_keypoints=torch.from_numpy(np.stack([points for _, points in targets])),
        )
