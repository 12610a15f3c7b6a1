"""What training does when a shard breaks under it: name it, skip its pairs, keep the position.

A broken shard is a file that is gone, of another size than the manifest says, or that cannot be
read; behind a URL, one of which a read failed for good. (A byte that changed in place is not
seen: comparing checksums takes reading everything, and is what ``xmdpt prepare --check`` does.)
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.data.manifest import MANIFEST
from xmdpt_cli.data.reader import ShardError
from xmdpt_cli.data.table import Ints
from xmdpt_cli.errors import XmdptError

LIMIT = 0.1  # share of the pairs that several broken shards may hold
_INSTEAD = 0x1057  # keeps these random numbers apart from others of (seed, number)


@dataclass(frozen=True)
class Draws:
    """The N pairs of one batch, as drawn."""

    numbers: Ints  # (N,) places in the endless sequence of all ranks' pairs
    pairs: Ints  # (N,) indices into ``PairDataset.pairs``
    swap: NDArray[np.bool_]  # (N,)
    flip: NDArray[np.bool_]  # (N,)


class Counts(Protocol):
    """Anything made of draws that says how many of them were replaced."""

    skipped: int


Made = TypeVar("Made", bound=Counts)


class Skipping:
    """The broken shards of one dataset, and which pairs take the places of theirs.

    Another pair takes a skipped pair's place, drawn from (seed, the skipped pair's number), so
    batches keep their shape, everything after keeps its position, and two runs that see the same
    shards broken read the same pairs. A shard that was found broken stays out until the process
    ends. ``warn`` is told once a shard, on the thread that reads.

    One shard may break, whatever it holds; several are too many (XmdptError) if they hold more
    than ``limit`` of the pairs. A disk or server that is gone as a whole is an error at once.
    """

    def __init__(
        self,
        dataset: PairDataset,
        seed: int,
        warn: Callable[[str], None],
        limit: float = LIMIT,
    ) -> None:
        self.dataset, self.seed, self._warn, self.limit = dataset, seed, warn, limit
        self._of_pair = dataset.table.shard[dataset.table.source]  # both views lie in one shard
        self._numbers = {reader.name: i for i, reader in enumerate(dataset.readers)}
        self._broken: set[int] = set()
        self._lock = threading.Lock()

    @property
    def broken(self) -> list[str]:
        """File names of the broken shards."""
        return [self.dataset.readers[shard].name for shard in sorted(self._broken)]

    def is_broken(self, shard: int) -> bool:
        """Whether the shard of this number is known to be."""
        return shard in self._broken

    def read(self, draws: Draws, read: Callable[[Draws], Made]) -> Made:
        """``read(draws)``, with other pairs for those that cannot be read; counts them."""
        while True:
            replaced, skipped = self._replaced(draws)
            try:
                made = read(replaced)
            except ShardError as err:  # then all of the batch again, without that shard
                self._lose(self._numbers[err.shard], err)
                continue
            made.skipped = skipped
            return made

    def lost(self, pairs: Ints) -> NDArray[np.bool_]:
        """(N,) whether each pair's shard is broken."""
        return np.isin(self._of_pair[pairs], list(self._broken))

    def _replaced(self, draws: Draws) -> tuple[Draws, int]:
        self._look(np.unique(self._of_pair[draws.pairs]).tolist())
        if not self._broken:
            return draws, 0
        lost = self.lost(draws.pairs)
        pairs = draws.pairs.copy()
        pairs[lost] = [self._instead(number) for number in draws.numbers[lost].tolist()]
        return replace(draws, pairs=pairs), int(lost.sum())

    def _instead(self, number: int) -> int:
        rng = np.random.Generator(np.random.PCG64([self.seed, number, _INSTEAD]))
        while True:
            pair = int(rng.integers(len(self._of_pair)))
            shard = int(self._of_pair[pair])
            self._look([shard])
            if shard not in self._broken:
                return pair

    def _look(self, shards: Iterable[int]) -> None:
        for shard in shards:
            if shard not in self._broken:
                try:
                    self.dataset.readers[shard].check()
                except ShardError as err:
                    self._lose(shard, err)

    def _lose(self, shard: int, err: ShardError) -> None:
        self._still_there(err)
        with self._lock:
            if shard in self._broken:
                return
            self._broken.add(shard)
        pairs = len(self._of_pair)
        own = int((self._of_pair == shard).sum())
        away = int(self.lost(np.arange(pairs)).sum())
        mend = f"xmdpt prepare --check {self.dataset.path} --repair --root ROOT"
        if away == pairs or (len(self._broken) > 1 and away > self.limit * pairs):
            raise XmdptError(
                f"{err.message}; with it {away:,} of {pairs:,} pairs cannot be read any more "
                f"(broken: {', '.join(self.broken)})",
                f"{err.hint}; then give the same command again. What can be mended: {mend}",
            ) from err
        self._warn(
            f"{err.message}: its {own:,} pairs ({own / pairs:.1%}) are skipped from here on, "
            f"others take their places; to mend it: {mend}"
        )

    def _still_there(self, err: ShardError) -> None:
        """Where not even the manifest can be read, it is the disk or the server that is gone."""
        store = self.dataset.store
        try:
            if store.size(MANIFEST) is not None:
                return
        except (OSError, XmdptError):
            pass
        raise XmdptError(
            f"{err.message}, nor any other file of {store.url}",
            f"{err.hint}; then give the same command again: it goes on from its last checkpoint",
        ) from err


def skipping_or_not(skipping: Skipping | None, draws: Draws, read: Callable[[Draws], Made]) -> Made:
    """``read(draws)``, through ``skipping`` if there is one."""
    return read(draws) if skipping is None else skipping.read(draws, read)
