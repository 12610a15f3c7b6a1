"""Shards that break during training: each is reported once, and other pairs replace its pairs.

A shard is broken if its file is missing, has another size than the manifest states, or cannot be
read; behind a URL, if a read still fails after retries. (A byte that changed in place is not
noticed: only ``xmdpt prepare --check`` reads everything and compares checksums.)
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, TypeVar

import numpy as np

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.data.manifest import MANIFEST, repair_command
from xmdpt_cli.data.sampler import Bools, PairIndices, seeded_generator
from xmdpt_cli.data.shard_reader import ShardError
from xmdpt_cli.data.table import Ints
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.utils.counts import counted

LIMIT = 0.1  # largest share of the pairs that several broken shards may hold
_REPLACEMENT = 0x1057  # keeps these random numbers apart from others of (seed, number)


class Counts(Protocol):
    """A batch that counts its replaced pairs."""

    skipped: int


Loaded = TypeVar("Loaded", bound=Counts)


class BrokenShards:
    """The broken shards of a dataset, and the pairs that replace theirs.

    The replacement of a pair is a function of (seed, the pair's number), so batches keep their
    shape, later steps keep their pairs, and two runs with the same broken shards read the same
    pairs. A shard stays broken until the process ends. ``warn`` is called once per shard, on the
    reading thread.

    A single shard may break, whatever its share. Several raise XmdptError if together they hold
    more than ``limit`` of the pairs, and so does the only one; then every later call raises the
    same error, so that batches requested ahead end too. A disk or server that is not reachable at
    all raises at once.
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
        self._broken: frozenset[int] = frozenset()
        self._failure: XmdptError | None = None  # set when too many pairs cannot be read
        self._lock = threading.Lock()  # of these two

    @property
    def names(self) -> list[str]:
        """File names of the broken shards."""
        return [self.dataset.readers[shard].name for shard in sorted(self._broken)]

    def __contains__(self, shard: int) -> bool:
        """Whether the shard of this number is known to be broken."""
        return shard in self._broken

    def load_readable(self, indices: PairIndices, load: Callable[[PairIndices], Loaded]) -> Loaded:
        """``load(indices)`` with replacements for the pairs that cannot be read.

        Any thread may call it. Raises XmdptError if too many pairs cannot be read.
        """
        while True:  # ends: each repetition excludes another shard
            with self._lock:
                if self._failure is not None:  # a new error: a raised one keeps its frames alive
                    raise XmdptError(self._failure.message, self._failure.hint)
                excluded = self._broken  # of this attempt: other threads may add shards meanwhile
            broken = np.isin(self._of_pair[indices.pairs], list(excluded))
            numbers = indices.numbers[broken].tolist()
            pairs = indices.pairs.copy()
            pairs[broken] = [self._replacement(number, excluded) for number in numbers]
            try:
                for shard in np.unique(self._of_pair[pairs]).tolist():
                    self.dataset.readers[shard].check()
                loaded = load(replace(indices, pairs=pairs))
            except ShardError as err:  # load the whole batch again, without that shard
                self._add(self._numbers[err.shard], err)
                continue
            loaded.skipped = int(broken.sum())
            return loaded

    def is_broken(self, pairs: Ints) -> Bools:
        """(N,) whether each pair's shard is broken."""
        return np.isin(self._of_pair[pairs], list(self._broken))

    def _replacement(self, number: int, excluded: frozenset[int]) -> int:
        """A random pair outside the ``excluded`` shards, which must not hold all pairs."""
        rng = seeded_generator(self.seed, number, _REPLACEMENT)
        while True:
            pair = int(rng.integers(len(self._of_pair)))
            if int(self._of_pair[pair]) not in excluded:
                return pair

    def _add(self, shard: int, err: ShardError) -> None:
        """Mark a shard as broken: warn, or set ``_failure``."""
        self._check_place(err)
        with self._lock:
            if shard in self._broken:
                return
            self._broken |= {shard}
            pairs = len(self._of_pair)
            own = int((self._of_pair == shard).sum())
            gone = int(self.is_broken(np.arange(pairs)).sum())
            if gone == pairs or (len(self._broken) > 1 and gone > self.limit * pairs):
                self._failure = XmdptError(
                    f"{err.message}; with it {gone:,} of {pairs:,} pairs cannot be read any more "
                    f"(broken: {', '.join(self.names)})",
                    f"{err.hint}; then run the same command again",
                )
                return
        self._warn(
            f"{err.message}: its {counted(own, 'pair')} ({own / pairs:.1%}) will be skipped and "
            f"replaced by others; to repair it: {repair_command(self.dataset.path)}"
        )

    def _check_place(self, err: ShardError) -> None:
        """XmdptError if the manifest cannot be read either: the disk or server is not reachable."""
        store = self.dataset.store
        try:
            if store.size(MANIFEST) is not None:
                return
        except (OSError, XmdptError):
            pass
        raise XmdptError(
            f"{err.message}, nor any other file of {store.url}",
            f"{err.hint}; then give the same command again: it resumes from its last checkpoint",
        ) from err
