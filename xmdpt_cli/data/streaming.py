"""Training batches from shards behind a URL: every byte is asked for once an epoch, ahead of use.

``webdataset`` reads these shards too (a test holds that), tensor by tensor out of the tar. Here
the indexes are known, so blocks of several megabytes are asked for and sliced where the index
says: no tar is parsed, nothing is copied but into the batch, and any position is found again.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.data.collate import Batch, Filling
from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.data.loader import Loader, Reading, TrainLoader
from xmdpt_cli.data.skipping import Draws, Skipping, skipping_or_not
from xmdpt_cli.data.stream_order import Order, Plan
from xmdpt_cli.errors import ConfigError

BUFFER_BYTES = 2**30
READERS = 4  # blocks asked for at a time
_ROWS = 32  # of a batch are filled before their blocks may go

Key = tuple[int, int]
Bytes = NDArray[np.uint8]


class StreamLoader:
    """``TrainLoader`` for a dataset behind a URL: same arguments, same interface.

    What a batch holds is a function of (seed, step, rank, world, buffer) alone, ranks get
    disjoint pairs, and every pair comes once an epoch. Steps are meant to be asked for in their
    order: any other step is exact too, but reads its buffer anew (restoring a run does this once).

    The shuffle is that of ``Order``: blocks of about 8 MB come in an order drawn anew for every
    epoch, and pairs are drawn from the blocks in a buffer. That is more local than the shuffle of
    local shards, which is over all pairs: with the default of 1 GiB about 80 garments are mixed at
    a time, at 256 px and four views each.

    ``buffer_bytes`` bounds the memory that blocks take: three quarters for the buffer that is
    drawn from, the rest for reading ahead. While one part of a batch is filled blocks of that
    part may pass it.
    """

    def __init__(
        self,
        dataset: PairDataset,
        reading: Reading,
        buffer_bytes: int = BUFFER_BYTES,
    ) -> None:
        if buffer_bytes < 1:
            raise ConfigError(f"impossible buffer: {buffer_bytes} bytes", "give at least 1 MB")
        self.dataset, self.reading, self.buffer_bytes = dataset, reading, buffer_bytes
        self._order = Order(
            dataset.table,
            reading.seed,
            reading.rank,
            reading.world,
            reading.swap,
            reading.flip,
            room=buffer_bytes * 3 // 4,
        )
        self._fetcher: Fetcher | None = None
        self._next = -1  # the position that the fetcher reads from

    def batch(self, step: int, out: Batch | None = None) -> Batch:
        """The batch of this rank at ``step`` (from 0): always the same one.

        ``out`` is an old batch to overwrite (see ``load_pairs``). Raises XmdptError if a shard
        cannot be read (asking again tries again), and with ``skipping`` if too much cannot.
        """
        first, count = step * self.reading.batch_size, self.reading.batch_size
        found = [self._order.find(position) for position in range(first, first + count)]
        plans = {epoch: self._order.plan(epoch) for epoch in {epoch for epoch, _ in found}}
        numbers = self.reading.pair_numbers(step)
        by_pair = np.array([plans[epoch].swap[draw] for epoch, draw in found])
        drawn = Draws(
            numbers,
            np.array([plans[epoch].pairs[draw] for epoch, draw in found]),
            self.reading.swaps(numbers, by_pair),
            np.array([plans[epoch].flip[draw] for epoch, draw in found]),
        )

        def read(draws: Draws) -> Batch:
            fetcher = self._from(first)
            try:
                return self._filled(fetcher, found, plans, draws, out)
            except BaseException:  # what is released does not come again: begin anew
                self.close()
                raise

        batch = skipping_or_not(self.reading.skipping, drawn, read)
        self._next = first + count
        return batch

    def close(self) -> None:
        """Stop reading ahead and let the buffer go; ``batch`` would begin again."""
        if self._fetcher is not None:
            self._fetcher.close()
        self._fetcher, self._next = None, -1

    def _from(self, position: int) -> Fetcher:
        if self._fetcher is None or self._next != position:
            self.close()
            reading = self._order.reading(position)
            read = partial(_read_block, self.dataset, self._order, self.reading.skipping)
            self._fetcher = Fetcher(read, self._order.blocks.length, reading, self.buffer_bytes)
            weakref.finalize(self, self._fetcher.close)
        return self._fetcher

    def _filled(
        self,
        fetcher: Fetcher,
        found: list[Key],
        plans: dict[int, Plan],
        draws: Draws,
        out: Batch | None,
    ) -> Batch:
        order, dataset, of = self._order, self.dataset, self.reading
        filling = Filling(
            dataset,
            draws.pairs,
            draws.swap,
            draws.flip,
            of.pose_maps,
            out,
            of.target_tokens,
        )
        for low in range(0, len(found), _ROWS):
            part = found[low : low + _ROWS]
            keys = {(epoch, int(plans[epoch].used[draw])) for epoch, draw in part}
            held = {int(plans[key[0]].blocks[key[1]]): fetcher.get(key) for key in sorted(keys)}
            filling.fill(range(low, low + len(part)), partial(_slice, dataset, order, held))
            for key in keys:
                if (key[0], int(plans[key[0]].last[key[1]])) <= part[-1]:
                    fetcher.release(key)
        return filling.batch


def _read_block(dataset: PairDataset, order: Order, skipping: Skipping | None, block: int) -> Bytes:
    blocks = order.blocks
    reader = dataset.readers[blocks.shard[block]]
    if skipping is not None and skipping.is_broken(int(blocks.shard[block])):
        return np.empty(0, np.uint8)  # its pairs are replaced: nobody looks into it
    return reader.raw(int(blocks.start[block]), int(blocks.length[block]))


def _slice(
    dataset: PairDataset,
    order: Order,
    held: dict[int, Bytes],
    row: int,
    offset: int,
    into: Bytes,
) -> None:
    """``Read`` for the blocks that are here; a pair that stands for another is asked for."""
    block = int(order.blocks.of_row[row])
    if block not in held:
        dataset.read(row, offset, into)
        return
    begin = offset - int(order.blocks.start[block])
    into[...] = held[block][begin : begin + len(into)]


class Fetcher:
    """Reads an endless sequence of blocks ahead on threads, as far as ``room`` bytes allow."""

    def __init__(
        self,
        read: Callable[[int], Bytes],
        lengths: NDArray[np.int64],
        reading: Iterator[tuple[Key, int]],
        room: int,
    ) -> None:
        self._read, self._lengths, self._reading, self._room = read, lengths, reading, room
        self._changed = threading.Condition()
        self._next = next(reading)
        self._held: dict[Key, int] = {}  # bytes of what is here or asked for
        self._here: dict[Key, Bytes | BaseException] = {}
        self._wanted: Key | None = None
        self._closed = False
        for _ in range(READERS):
            threading.Thread(target=self._work, name="stream", daemon=True).start()

    def get(self, key: Key) -> Bytes:
        """Wait for a block that comes later in the sequence than those released."""
        with self._changed:
            self._wanted = key
            self._changed.notify_all()
            while key not in self._here:
                self._changed.wait()
            self._wanted = None
            found = self._here[key]
        if isinstance(found, BaseException):
            raise found
        return found

    def release(self, key: Key) -> None:
        """This block is not needed any more."""
        with self._changed:
            del self._held[key], self._here[key]
            self._changed.notify_all()

    def close(self) -> None:
        """End the threads, each after the block it reads."""
        with self._changed:
            self._closed = True
            self._here.clear()
            self._changed.notify_all()

    def _may_read(self) -> bool:
        fits = sum(self._held.values()) + self._lengths[self._next[1]] <= self._room
        # what is waited for comes even if it does not fit: nothing else would make room
        return bool(fits) or (self._wanted is not None and self._wanted not in self._held)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._closed and not self._may_read():
                    self._changed.wait()
                if self._closed:
                    return
                key, block = self._next
                self._held[key] = int(self._lengths[block])
                self._next = next(self._reading)
            try:
                found: Bytes | BaseException = self._read(block)
            except BaseException as err:  # raised where the block is asked for
                found = err
            with self._changed:
                if not self._closed:
                    self._here[key] = found
                self._changed.notify_all()


def train_loader(dataset: PairDataset, reading: Reading) -> Loader[Batch]:
    """``TrainLoader`` for a dataset of this machine, ``StreamLoader`` for one behind a URL."""
    kind = TrainLoader if dataset.store.folder is not None else StreamLoader
    return kind(dataset, reading)
