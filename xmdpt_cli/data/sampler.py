"""Which pairs each training step reads: a function of (seed, step, rank) alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.data.table import Ints
from xmdpt_cli.errors import ConfigError

Bools = NDArray[np.bool_]

_SWAP = 0x5A4B  # keeps these random numbers independent of others from (seed, number)


def seeded_generator(*seed: int) -> np.random.Generator:
    """A generator of random numbers that is a function of these integers alone."""
    return np.random.Generator(np.random.PCG64(seed))


@dataclass(frozen=True)
class LoaderConfig:
    """Configuration of a training loader. Raises ConfigError for impossible values."""

    batch_size: int  # of this rank
    seed: int
    rank: int = 0
    world_size: int = 1
    swap: bool = True  # exchange source and target of half of the pairs
    flip: bool = True  # mirror both images of half of the pairs
    pose_maps: bool = False  # rendered pose maps, for "tokens" conditioning
    target_tokens: bool = False  # the target's DINOv2 tokens, for REPA
    joints: bool = False  # both images' keypoints, for the loss on attention at them
    swap_batch: int = 0  # pairs, over all ranks, that are swapped together; 0: each on its own

    def __post_init__(self) -> None:
        if self.batch_size < 1 or not 0 <= self.rank < self.world_size or self.seed < 0:
            raise ConfigError(
                f"impossible loader: batch size {self.batch_size}, rank {self.rank} of "
                f"{self.world_size}, seed {self.seed}",
                "batch size from 1, rank from 0 to world size - 1, seed from 0",
            )

    def pair_numbers(self, step: int) -> Ints:
        """(batch_size,) positions of the pairs of ``step`` in the endless sequence of pairs."""
        first = (step * self.world_size + self.rank) * self.batch_size
        return np.arange(first, first + self.batch_size)

    def swaps(self, numbers: Ints, by_pair: Bools) -> Bools:
        """(N,) which of the pairs with these numbers are swapped: ``by_pair``, or batch by batch.

        The published code uses one random number per batch. It follows from (seed, the batch's
        number), so ranks and gradient accumulation change nothing.
        """
        if not (self.swap and self.swap_batch):
            return by_pair
        batches, inverse = np.unique(numbers // self.swap_batch, return_inverse=True)
        random = [seeded_generator(self.seed, batch, _SWAP).random() for batch in batches.tolist()]
        return (np.array(random) < 0.5)[inverse]


@dataclass(frozen=True)
class PairIndices:
    """The N pairs of one batch."""

    numbers: Ints  # (N,) positions in the endless sequence of all ranks' pairs
    pairs: Ints  # (N,) indices into ``PairDataset.pairs``
    swap: Bools  # (N,)
    flip: Bools  # (N,)

    @classmethod
    def listed(cls, pairs: Sequence[int], swap: bool = False, flip: bool = False) -> PairIndices:
        """These pairs of the published list; ``swap`` and ``flip`` apply to all of them."""
        numbers, same = np.array(pairs, np.int64), np.ones(len(pairs), np.bool_)
        return cls(numbers, numbers, same & swap, same & flip)


class PairSampler:
    """A global shuffle, disjoint over the ranks.

    All ranks share one endless sequence of epochs, each a permutation of all pairs seeded
    by (seed, epoch); step s takes the next ``world_size * batch_size`` of it, rank r the r-th
    ``batch_size`` of these. A batch may reach into the next epoch, and no pair is dropped. Half of
    the pairs are swapped, half are mirrored (published; there a batch is swapped as a whole:
    ``LoaderConfig.swap_batch``).
    """

    def __init__(self, count: int, config: LoaderConfig) -> None:
        self.count, self.config = count, config
        self._epoch = lru_cache(maxsize=4)(self._sample_epoch)

    def _sample_epoch(self, epoch: int) -> tuple[Ints, Bools, Bools]:
        """(P,) permutation, swap, flip of one epoch."""
        rng = seeded_generator(self.config.seed, epoch)
        # always all three, so that the order does not depend on what is switched on
        order, swap, flip = (
            rng.permutation(self.count),
            rng.random(self.count),
            rng.random(self.count),
        )
        return order, (swap < 0.5) & self.config.swap, (flip < 0.5) & self.config.flip

    def indices(self, step: int) -> PairIndices:
        """What this rank reads at ``step`` (from 0)."""
        numbers = self.config.pair_numbers(step)
        pairs = np.empty(len(numbers), np.int64)
        swap, flip = np.empty((2, len(numbers)), np.bool_)
        epochs, offsets = np.divmod(numbers, self.count)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            order, swaps, flips = self._epoch(int(epoch))
            places = offsets[here]
            pairs[here], swap[here], flip[here] = order[places], swaps[places], flips[places]
        if self.config.swap_batch:
            swap = self.config.swaps(numbers, swap)
        return PairIndices(numbers, pairs, swap, flip)
