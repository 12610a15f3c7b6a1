"""The order in which a stream of shards gives its pairs, known before anything is read.

A shard's index tells every garment's place, so the shuffle buffer can be played through without
data: which pair comes when, which bytes must have been read by then, and when they may go, follow
from (seed, epoch, rank, world) alone.

Legend: P pairs of the split, n draws of this rank in an epoch, m blocks it reads for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.data.table import Ints, Table

BLOCK_BYTES = 8 * 2**20  # one request, unless a single garment is larger


@dataclass(frozen=True)
class Blocks:
    """Runs of neighbouring garments of a shard: what is read, and kept, in one piece."""

    shard: Ints
    start: Ints  # byte in the shard
    length: Ints
    of_row: Ints  # (V,) the block of each view

    @staticmethod
    def of(table: Table, block_bytes: int) -> Blocks:
        """Cut a table into blocks of about ``block_bytes``: keypoints to last feature."""
        first, members = table.first[:-1], table.members
        begins = np.minimum.reduceat(members[:, 1:, 0].min(axis=1), first)
        ends = np.maximum.reduceat(members[:, 1:].sum(axis=2).max(axis=1), first)
        cuts: list[list[int]] = []  # shard, start, end
        of_garment = []
        shards = table.shard[first].tolist()
        for shard, begin, end in zip(shards, begins.tolist(), ends.tolist(), strict=True):
            if not cuts or cuts[-1][0] != shard or end - cuts[-1][1] > block_bytes:
                cuts.append([shard, begin, end])
            cuts[-1][2] = end
            of_garment.append(len(cuts) - 1)
        shard_of, start, end_of = np.array(cuts, np.int64).T
        return Blocks(shard_of, start, end_of - start, np.array(of_garment)[table.garment])


@dataclass(frozen=True)
class Plan:
    """One rank's part of an epoch."""

    pairs: Ints  # (n,) in the order they are drawn
    swap: NDArray[np.bool_]  # (n,)
    flip: NDArray[np.bool_]  # (n,)
    blocks: Ints  # (m,) in the order they are read
    used: Ints  # (n,) which of ``blocks`` a draw needs
    last: Ints  # (m,) the last draw that needs it


class Order:
    """Where every pair of an endless sequence of epochs is found.

    An epoch puts all blocks of the split into a new order and deals their pairs out to the ranks
    in equal parts (to one pair, and never more than one apart over all epochs so far); the pairs
    of a block that is cut in two are given to both, each its own. A rank reads its blocks in this
    order into a buffer, as long as they fit into ``room`` bytes, and draws pairs from all that
    are in it; a block leaves with its last pair.
    """

    def __init__(
        self, table: Table, seed: int, rank: int, world: int, swap: bool, flip: bool, room: int
    ) -> None:
        self.blocks = Blocks.of(table, BLOCK_BYTES)
        self._pair_block = self.blocks.of_row[table.source]
        self._seed, self._rank, self._world = seed, rank, world
        self._swap, self._flip, self._room = swap, flip, room
        self.plan = lru_cache(maxsize=3)(self._plan)

    def _begin(self, epoch: int, rank: int) -> int:
        """How many pairs a rank has had before an epoch; over the ranks these add up to all."""
        return (epoch * len(self._pair_block) + rank) // self._world

    def find(self, position: int) -> tuple[int, int]:
        """(epoch, draw) of the rank's pair number ``position``, counted from the beginning."""
        epoch = position * self._world // len(self._pair_block)
        while self._begin(epoch, self._rank) > position:
            epoch -= 1
        while self._begin(epoch + 1, self._rank) <= position:
            epoch += 1
        return epoch, position - self._begin(epoch, self._rank)

    def reading(self, position: int) -> Iterator[tuple[tuple[int, int], int]]:
        """((epoch, number in the plan), block): what must be read from ``position`` on, in order.

        It begins with the blocks that are in the buffer at that position.
        """
        epoch, draw = self.find(position)
        while True:
            plan = self.plan(epoch)
            for number, block in enumerate(plan.blocks.tolist()):
                if plan.last[number] >= draw:
                    yield (epoch, number), block
            epoch, draw = epoch + 1, 0

    def _plan(self, epoch: int) -> Plan:
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self._seed, epoch])))
        place = rng.permutation(len(self.blocks.start))
        # always both draws: the order must not depend on what is switched on
        swap, flip = rng.random((2, len(self._pair_block)))
        dealt = np.argsort(place[self._pair_block], kind="stable")  # (P,)
        low, high = (
            sum(self._begin(epoch + 1, r) - self._begin(epoch, r) for r in range(ranks))
            for ranks in (self._rank, self._rank + 1)
        )
        mine = dealt[low:high]  # (n,)
        block = self._pair_block[mine]
        begins = np.flatnonzero(np.diff(block, prepend=-1))  # (m,)
        own = np.random.SeedSequence([self._seed, epoch, self._rank, self._world])
        chance = np.random.Generator(np.random.PCG64(own)).random(len(mine))
        drawn, last = self._draw(begins, self.blocks.length[block[begins]], chance)
        used = np.searchsorted(begins, drawn, side="right") - 1
        pairs = mine[drawn]
        return Plan(
            pairs,
            (swap[pairs] < 0.5) & self._swap,
            (flip[pairs] < 0.5) & self._flip,
            block[begins],
            used,
            last,
        )

    def _draw(self, begins: Ints, sizes: Ints, chance: NDArray[np.float64]) -> tuple[Ints, Ints]:
        """Play the buffer: the order of n pairs, and each block's last draw."""
        starts, bytes_of = [*begins.tolist(), len(chance)], sizes.tolist()
        left = np.diff(starts).tolist()
        buffer: list[tuple[int, int]] = []  # (pair, block)
        held = read = 0
        drawn, last = [], np.zeros(len(begins), np.int64)
        for number, share in enumerate(chance.tolist()):
            while read < len(left) and (not buffer or held + bytes_of[read] <= self._room):
                buffer += [(pair, read) for pair in range(starts[read], starts[read + 1])]
                held += bytes_of[read]
                read += 1
            pick = int(share * len(buffer))
            pair, block = buffer[pick]
            buffer[pick] = buffer[-1]
            buffer.pop()
            drawn.append(pair)
            left[block] -= 1
            if not left[block]:
                held -= bytes_of[block]
                last[block] = number
        return np.array(drawn, np.int64), last
