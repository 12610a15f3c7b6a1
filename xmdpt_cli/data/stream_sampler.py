"""The order in which shards behind a URL are streamed, known before anything is read.

The indexes hold the place of every item, so the shuffle buffer is simulated without data: which
pair comes when, which items must have been read by then, and when they can be freed follow from
(seed, epoch, rank, world size) alone. That is what makes any position exact to resume;
``webdataset``'s own shuffle keeps its state in the process and has no position.

Legend: P pairs of the split, G its items, n pairs of this rank in an epoch, m the items it
reads for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from tarfile import BLOCKSIZE

import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.data.sampler import Bools, LoaderConfig, PairIndices, seeded_generator
from xmdpt_cli.data.table import Ints, Table

BLOCK_BYTES = 8 * 2**20  # one request, unless a single item is larger

Position = tuple[int, int]  # (epoch, number within the rank's part of it)


@dataclass(frozen=True)
class Items:
    """Where items lie, and runs of neighbours of about ``BLOCK_BYTES``: the blocks."""

    shard: Ints  # (G,)
    begin: Ints  # (G,) byte in the shard of the first member's header
    end: Ints  # (G,) byte behind the last member
    block: Ints  # (G,)

    @classmethod
    def of(cls, table: Table) -> Items:
        first, offsets, lengths = table.first[:-1], table.members[..., 0], table.members[..., 1]
        padded = -(-lengths // BLOCKSIZE) * BLOCKSIZE
        begin = np.minimum.reduceat(offsets.min(axis=1), first) - BLOCKSIZE
        end = np.maximum.reduceat((offsets + padded).max(axis=1), first)
        shard, block = table.shard[first], np.zeros(len(first), np.int64)
        start = 0  # first item of the block
        for item in range(1, len(first)):
            starts_block = shard[item] != shard[start]
            starts_block |= end[item] - begin[start] > BLOCK_BYTES
            start = item if starts_block else start
            block[item] = block[item - 1] + starts_block
        return cls(shard, begin, end, block)


@dataclass(frozen=True)
class EpochPlan:
    """One rank's part of an epoch."""

    pairs: Ints  # (n,) in the order they come
    swap: Bools  # (n,)
    flip: Bools  # (n,)
    items: Ints  # (m,) in the order they are read
    used: Ints  # (n,) which of ``items`` a pair needs
    last: Ints  # (m,) the last pair that needs it


class StreamSampler:
    """Which pairs each step reads, and which items must have been read for them.

    An epoch permutes the blocks of the split and splits their pairs evenly over the ranks (their
    numbers of pairs differ by at most one, also summed over all epochs so far). A rank reads its
    items in this order into a buffer, as long as they fit into ``room`` bytes, and samples pairs
    from the buffer; an item is removed with its last pair. So the shuffle is more local than that
    of ``PairSampler``.
    """

    def __init__(self, table: Table, config: LoaderConfig, room: int) -> None:
        self.config, self.items = config, Items.of(table)
        self._item = table.item[table.source]  # (P,)
        self._room = room
        self.plan = lru_cache(maxsize=3)(self._plan)

    def indices(self, step: int) -> PairIndices:
        """What this rank reads at ``step`` (from 0)."""
        numbers = self.config.pair_numbers(step)
        plans = [(self.plan(epoch), number) for epoch, number in self.positions(step)]
        pairs = np.array([plan.pairs[number] for plan, number in plans])
        swap = np.array([plan.swap[number] for plan, number in plans])
        flip = np.array([plan.flip[number] for plan, number in plans])
        return PairIndices(numbers, pairs, self.config.swaps(numbers, swap), flip)

    def positions(self, step: int) -> list[Position]:
        """Where in the epochs the pairs of ``step`` are, in their order."""
        first = step * self.config.batch_size
        return [self.find(number) for number in range(first, first + self.config.batch_size)]

    def find(self, number: int) -> Position:
        """Where the rank's pair ``number``, counted from the beginning, is."""
        epoch = number * self.config.world_size // len(self._item)
        while self._pairs_before(epoch, self.config.rank) > number:
            epoch -= 1
        while self._pairs_before(epoch + 1, self.config.rank) <= number:
            epoch += 1
        return epoch, number - self._pairs_before(epoch, self.config.rank)

    def reads(self, position: Position) -> Iterator[tuple[Position, int]]:
        """((epoch, number in the plan), item) to be read from ``position`` on, in order.

        It starts with the items that are in the buffer at that position.
        """
        epoch, number = position
        while True:
            plan = self.plan(epoch)
            for place, item in enumerate(plan.items.tolist()):
                if plan.last[place] >= number:
                    yield (epoch, place), item
            epoch, number = epoch + 1, 0

    def _pairs_before(self, epoch: int, rank: int) -> int:
        """Number of pairs that a rank reads before an epoch; over the ranks they add up to all."""
        return (epoch * len(self._item) + rank) // self.config.world_size

    def _plan(self, epoch: int) -> EpochPlan:
        config = self.config
        rng = seeded_generator(config.seed, epoch)
        place = rng.permutation(int(self.items.block[-1]) + 1)
        # always both, so that the order does not depend on what is switched on
        swap, flip = rng.random((2, len(self._item)))
        shuffled = np.lexsort((self._item, place[self.items.block[self._item]]))  # (P,)
        before = self._pairs_before
        low, high = (
            sum(before(epoch + 1, r) - before(epoch, r) for r in range(ranks))
            for ranks in (config.rank, config.rank + 1)
        )
        mine = shuffled[low:high]  # (n,)
        item = self._item[mine]
        begins = np.flatnonzero(np.diff(item, prepend=-1))  # (m,)
        sizes = (self.items.end - self.items.begin)[item[begins]]
        rng = seeded_generator(config.seed, epoch, config.rank, config.world_size)
        order, last = self._simulate(begins, sizes, rng.random(len(mine)))
        pairs = mine[order]
        return EpochPlan(
            pairs,
            (swap[pairs] < 0.5) & config.swap,
            (flip[pairs] < 0.5) & config.flip,
            item[begins],
            np.searchsorted(begins, order, side="right") - 1,
            last,
        )

    def _simulate(
        self, begins: Ints, sizes: Ints, chance: NDArray[np.float64]
    ) -> tuple[Ints, Ints]:
        """Run the shuffle buffer: the order of the n pairs, and each item's last pair."""
        starts, bytes_of = [*begins.tolist(), len(chance)], sizes.tolist()
        left = np.diff(starts).tolist()
        buffer: list[tuple[int, int]] = []  # (pair, item)
        held = read = 0
        order, last = [], np.zeros(len(begins), np.int64)
        for number, share in enumerate(chance.tolist()):
            while read < len(left) and (not buffer or held + bytes_of[read] <= self._room):
                buffer += [(pair, read) for pair in range(starts[read], starts[read + 1])]
                held += bytes_of[read]
                read += 1
            pick = int(share * len(buffer))
            pair, item = buffer[pick]
            buffer[pick] = buffer[-1]
            buffer.pop()
            order.append(pair)
            left[item] -= 1
            if not left[item]:
                held -= bytes_of[item]
                last[item] = number
        return np.array(order, np.int64), last
