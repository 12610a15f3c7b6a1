"""Training batches from shards behind a URL, streamed ahead of their use.

A ``webdataset`` pipeline requests ranges of about 8 MB of the shards on threads, in the order of
``StreamSampler``, and cuts them into items at the offsets of the indexes. (webdataset's tar stage
reads through ``tarfile`` in pieces of 10 kB: twice the CPU time a pair.) Every byte is requested
once per epoch.
"""

from __future__ import annotations

import weakref
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from tarfile import BLOCKSIZE

import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.data import stream_sampler
from xmdpt_cli.data.broken_shards import BrokenShards
from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.data.index import SUFFIXES
from xmdpt_cli.data.loader import Batch, TrainLoader, load_pairs
from xmdpt_cli.data.prefetch import Loader
from xmdpt_cli.data.sampler import LoaderConfig, PairIndices
from xmdpt_cli.data.shard_reader import ShardError
from xmdpt_cli.data.stream_sampler import Items, Position, StreamSampler
from xmdpt_cli.errors import ConfigError
from xmdpt_cli.utils.prefetch import prefetch
from xmdpt_cli.utils.records import COPY_AGAIN

BUFFER_BYTES = 2**30
CONNECTIONS = 4  # requests at a time


@dataclass
class Block:
    """A range of a shard: neighbouring items."""

    shard: int
    begin: int
    end: int
    items: list[tuple[Position, int]]
    data: bytes = b""  # empty: not requested yet, or the shard is broken


class StreamLoader:
    """``TrainLoader`` for a dataset behind a URL: same interface.

    What a batch holds is a function of (seed, step, rank, world size, buffer) alone, ranks get
    disjoint pairs, and every pair comes once per epoch. Any step is exact, but a step that does not
    follow the one before fills the buffer again; resuming a run does this once.

    ``buffer_bytes`` bounds the memory that items take: three quarters for the shuffle buffer,
    the rest for requests ahead. With the default of 1 GiB about 80 items are mixed at a time, at
    256 px and four views each. Items whose last pair is in a batch stay until it is complete.
    """

    def __init__(
        self,
        dataset: PairDataset,
        config: LoaderConfig,
        broken: BrokenShards | None = None,
        buffer_bytes: int = BUFFER_BYTES,
    ) -> None:
        if buffer_bytes < 1:
            raise ConfigError(f"impossible buffer: {buffer_bytes} bytes", "give at least 1 MB")
        self.dataset, self.config, self.broken = dataset, config, broken
        self.buffer_bytes = buffer_bytes
        self.sampler = StreamSampler(dataset.table, config, buffer_bytes * 3 // 4)
        self._stream: Generator[tuple[Position, bytes], None, None] | None = None
        self._held: dict[Position, bytes] = {}  # the shuffle buffer
        self._read: Position = (-1, 0)  # the last item that was read
        self._next = -1  # the step that the stream continues with

    def batch(self, step: int, out: Batch | None = None) -> Batch:
        """The batch of this rank at ``step`` (from 0): always the same one.

        ``out`` is an old batch to overwrite (see ``load_pairs``). Raises XmdptError if a shard
        cannot be read (the next call tries again), and with ``broken`` if too many cannot.
        """
        needed = self._needed(step)
        table, begin = self.dataset.table, self.sampler.items.begin

        def load(indices: PairIndices) -> Batch:
            try:
                self._fetch(step, max(needed.values()))
                return load_pairs(
                    self.dataset,
                    indices,
                    pose_maps=self.config.pose_maps,
                    target_tokens=self.config.target_tokens,
                    joints=self.config.joints,
                    out=out,
                    read=read,
                )
            except BaseException:  # the stream cannot continue: the next call starts again
                self.close()
                raise

        def read(row: int, offset: int, into: NDArray[np.uint8]) -> None:
            item = int(table.item[row])
            data = self._held.get(needed[item]) if item in needed else None
            if data is None:  # of a pair that replaces one of a broken shard
                self.dataset.read(row, offset, into)
            else:
                into[...] = np.frombuffer(data, np.uint8, len(into), offset - int(begin[item]))

        indices = self.sampler.indices(step)
        batch = load(indices) if self.broken is None else self.broken.load_readable(indices, load)
        self._release(step)
        return batch

    def close(self) -> None:
        """Stop reading ahead and free the buffer; ``batch`` starts again."""
        if self._stream is not None:
            self._stream.close()
        self._stream, self._next, self._read = None, -1, (-1, 0)
        self._held.clear()

    def _needed(self, step: int) -> dict[int, Position]:
        """The items that the pairs of a step lie in, each at its last position."""
        needed = {}
        for epoch, number in self.sampler.positions(step):
            plan = self.sampler.plan(epoch)
            place = int(plan.used[number])
            needed[int(plan.items[place])] = (epoch, place)
        return needed

    def _fetch(self, step: int, last: Position) -> None:
        """Have all items up to ``last`` in the buffer, if their shards can be read."""
        if self._stream is None or self._next != step:
            self.close()
            # 0.8 s, which local datasets do without
            from webdataset import DataPipeline

            reads = self.sampler.reads(self.sampler.positions(step)[0])
            # no reference to ``self``: the threads end with the loader
            self._stream = iter(
                DataPipeline(
                    partial(_blocks, self.sampler.items, reads),
                    partial(_request, self.dataset, self.broken, self.buffer_bytes),
                    partial(_cut, self.dataset, self.sampler.items),
                )
            )
            self._next = step
            weakref.finalize(self, self._stream.close)
        while self._read < last:
            self._read, data = next(self._stream)
            if data:
                self._held[self._read] = data

    def _release(self, step: int) -> None:
        """Free the items that no later step needs."""
        epoch, number = self.sampler.positions(step + 1)[0]
        for held, place in list(self._held):
            if held < epoch or (held == epoch and self.sampler.plan(held).last[place] < number):
                del self._held[held, place]
        self._next = step + 1


def _blocks(items: Items, reads: Iterable[tuple[Position, int]]) -> Iterator[Block]:
    """Join reads that follow each other in one block of an epoch."""
    block: Block | None = None
    for place, item in reads:
        begin, end = int(items.begin[item]), int(items.end[item])
        if block is not None:
            (epoch, _), before = block.items[-1]
            if epoch == place[0] and items.block[before] == items.block[item]:
                block.end = end
                block.items.append((place, item))
                continue
            yield block
        block = Block(int(items.shard[item]), begin, end, [(place, item)])


def _request(
    dataset: PairDataset, broken: BrokenShards | None, buffer_bytes: int, blocks: Iterable[Block]
) -> Generator[Block, None, None]:
    """The blocks with their bytes, requested ahead of their use; without them if broken."""

    def request(block: Block) -> Block:
        if broken is None or block.shard not in broken:  # else its pairs are replaced
            reader = dataset.readers[block.shard]
            block.data = reader.request(block.begin, block.end - block.begin)
        return block

    ahead = buffer_bytes // 4 // stream_sampler.BLOCK_BYTES  # requests
    threads = max(1, min(CONNECTIONS, ahead))
    return prefetch(request, blocks, depth=max(0, ahead - threads), threads=threads)


def _cut(
    dataset: PairDataset, items: Items, blocks: Iterable[Block]
) -> Iterator[tuple[Position, bytes]]:
    """The bytes of each item, none if its shard is broken.

    ShardError if the tar headers are not those of the index.
    """
    table = dataset.table
    for block in blocks:
        for place, item in block.items:
            if not block.data:  # its place still counts: a rank may hold only broken items
                yield place, b""
                continue
            begin = int(items.begin[item])
            # a copy, unless the block is one item: bytes of another item would stay in memory
            data = block.data[begin - block.begin : int(items.end[item]) - block.begin]
            for row in range(table.first[item], table.first[item + 1]):
                member = ".".join(table.label(row))
                for suffix, (offset, _) in zip(SUFFIXES, table.members[row], strict=True):
                    name = f"{member}.{suffix}".encode(errors="surrogateescape")
                    header = int(offset) - begin - BLOCKSIZE
                    if data[header : header + 100] != name.ljust(100, b"\0"):
                        reader = dataset.readers[block.shard]
                        message = f"{reader.path} is no tar of its index"
                        raise ShardError(reader.name, message, COPY_AGAIN)
            yield place, data
        block.data = b""


def train_loader(
    dataset: PairDataset, config: LoaderConfig, broken: BrokenShards | None = None
) -> Loader[Batch]:
    """``TrainLoader`` for a dataset on this machine, ``StreamLoader`` for one behind a URL."""
    kind = TrainLoader if dataset.store.folder is not None else StreamLoader
    return kind(dataset, config, broken)
