"""Training batches from shards behind a URL, streamed by ``webdataset`` ahead of their use.

Ranges of about 8 MB of the shards are requested on threads, in the order of ``StreamSampler``, and
``webdataset`` turns them into samples, one item each. Every byte is requested once an epoch.
"""

from __future__ import annotations

import io
import tarfile
import weakref
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.data import stream_sampler
from xmdpt_cli.data.broken_shards import BrokenShards
from xmdpt_cli.data.collate import Batch, load_pairs
from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.data.index import SUFFIXES
from xmdpt_cli.data.loader import Loader, TrainLoader
from xmdpt_cli.data.sampler import LoaderConfig, PairIndices
from xmdpt_cli.data.shard_reader import ShardError
from xmdpt_cli.data.stream_sampler import Items, Position, StreamSampler
from xmdpt_cli.errors import ConfigError
from xmdpt_cli.utils.prefetch import prefetch
from xmdpt_cli.utils.records import COPY_AGAIN

BUFFER_BYTES = 2**30
CONNECTIONS = 4  # requests at a time

Sample = dict[str, Any]  # an item as webdataset gives it: member suffix -> bytes


class StreamLoader:
    """``TrainLoader`` for a dataset behind a URL: same interface.

    What a batch holds is a function of (seed, step, rank, world size, buffer) alone, ranks get
    disjoint pairs, and every pair comes once an epoch. Any step is exact, but a step that does not
    follow the one before reads its buffer anew; resuming a run does this once.

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
        self._stream: Generator[tuple[Position, Sample], None, None] | None = None
        self._held: dict[Position, Sample] = {}  # the shuffle buffer
        self._read: Position = (-1, 0)  # the last item that was read
        self._next = -1  # the step that the stream continues with

    def batch(self, step: int, out: Batch | None = None) -> Batch:
        """The batch of this rank at ``step`` (from 0): always the same one.

        ``out`` is an old batch to overwrite (see ``load_pairs``). Raises XmdptError if a shard
        cannot be read (the next call tries again), and with ``broken`` if too many cannot.
        """
        needed = self._needed(step)

        def load(indices: PairIndices) -> Batch:
            config = self.config
            try:
                self._fetch(step, max(needed))
                items = {g: self._held[p] for p, g in needed.items() if p in self._held}
                which = (indices.pairs, indices.swap, indices.flip, config.pose_maps, out)
                read = _Members(self.dataset, items).read
                return load_pairs(self.dataset, *which, config.target_tokens, read)
            except BaseException:  # the stream cannot go on: begin anew
                self.close()
                raise

        indices = self.sampler.indices(step)
        batch = load(indices) if self.broken is None else self.broken.load_readable(indices, load)
        self._release(step)
        return batch

    def close(self) -> None:
        """Stop reading ahead and free the buffer; ``batch`` begins again."""
        if self._stream is not None:
            self._stream.close()
        self._stream, self._next, self._read = None, -1, (-1, 0)
        self._held.clear()

    def _needed(self, step: int) -> dict[Position, int]:
        """The items that the pairs of a step lie in."""
        needed = {}
        for epoch, number in self.sampler.positions(step):
            plan = self.sampler.plan(epoch)
            place = int(plan.used[number])
            needed[epoch, place] = int(plan.items[place])
        return needed

    def _fetch(self, step: int, last: Position) -> None:
        """Have all items up to ``last`` in the buffer, if their shards can be read."""
        if self._stream is None or self._next != step:
            self.close()
            reads = self.sampler.reads(self.sampler.positions(step)[0])
            blocks = _blocks(self.sampler.items, reads)
            # no reference to ``self``: the threads end with the loader
            self._stream = _samples(self.dataset, self.broken, blocks, self.buffer_bytes)
            self._next = step
            weakref.finalize(self, self._stream.close)
        while self._read < last:
            self._read, sample = next(self._stream)
            self._held[self._read] = sample

    def _release(self, step: int) -> None:
        """Free the items that no later step needs."""
        epoch, number = self.sampler.positions(step + 1)[0]
        for held, place in list(self._held):
            if held < epoch or (held == epoch and self.sampler.plan(held).last[place] < number):
                del self._held[held, place]
        self._next = step + 1


@dataclass
class Block:
    """A range of a shard: neighbouring items."""

    shard: int
    begin: int
    end: int
    items: list[tuple[Position, int]]


def _blocks(items: Items, reads: Iterator[tuple[Position, int]]) -> Iterator[Block]:
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


def _samples(
    dataset: PairDataset,
    broken: BrokenShards | None,
    blocks: Iterator[Block],
    buffer_bytes: int,
) -> Generator[tuple[Position, Sample], None, None]:
    """The items of the blocks, without those of broken shards, requested ahead of their use."""

    def request(block: Block) -> tuple[Block, bytes]:
        if broken is not None and block.shard in broken:
            return block, b""  # its pairs are replaced
        return block, dataset.readers[block.shard].request(block.begin, block.end - block.begin)

    ahead = buffer_bytes // 4 // stream_sampler.BLOCK_BYTES  # requests
    threads = max(1, min(CONNECTIONS, ahead))
    with closing(prefetch(request, blocks, depth=max(0, ahead - threads), threads=threads)) as read:
        for block, data in read:
            if data:
                yield from _parse(dataset, block, data)


def _parse(dataset: PairDataset, block: Block, data: bytes) -> Iterator[tuple[Position, Sample]]:
    """The samples of a range of a shard. ShardError if they are not those of the index."""
    reader, table = dataset.readers[block.shard], dataset.table
    missing = {table.keys[item]: (place, item) for place, item in block.items}
    source = {"url": reader.path, "stream": io.BytesIO(data)}
    # 0.8 s, which local datasets do without
    from webdataset.tariterators import group_by_keys, tar_file_expander

    files = tar_file_expander([source], select_files=_is_needed)
    try:
        for sample in group_by_keys(files, lcase=False):
            if sample["__key__"] not in missing:
                continue
            place, item = missing.pop(sample["__key__"])
            rows = range(table.first[item], table.first[item + 1])
            if all(f"{table.label(row)[1]}.safetensors" in sample for row in rows):
                yield place, sample
            else:  # a damaged header ends a tar without an error
                missing[sample["__key__"]] = (place, item)
    except (tarfile.TarError, ValueError) as err:
        raise ShardError(reader.name, f"{reader.path} is damaged ({err})", COPY_AGAIN) from None
    if missing:
        raise ShardError(reader.name, f"{reader.path} is no tar of its index", COPY_AGAIN)


def _is_needed(member: str) -> bool:
    """Training reads features, and keypoints for pose maps."""
    return member.endswith((".safetensors", ".npy"))


class _Members:
    """``Read`` for the items that are here; replacements are requested one by one."""

    def __init__(self, dataset: PairDataset, items: dict[int, Sample]) -> None:
        self.dataset, self.items = dataset, items

    def read(self, row: int, offset: int, into: NDArray[np.uint8]) -> None:
        table = self.dataset.table
        sample = self.items.get(int(table.item[row]))
        if sample is None:
            self.dataset.read(row, offset, into)
            return
        for suffix, (begin, length) in zip(SUFFIXES, table.members[row].tolist(), strict=True):
            if begin <= offset < begin + length:
                data = sample[f"{table.label(row)[1]}.{suffix}"]
                into[...] = np.frombuffer(data, np.uint8, len(into), offset - begin)
                return
        raise AssertionError((row, offset))


def train_loader(
    dataset: PairDataset, config: LoaderConfig, broken: BrokenShards | None = None
) -> Loader[Batch]:
    """``TrainLoader`` for a dataset on this machine, ``StreamLoader`` for one behind a URL."""
    kind = TrainLoader if dataset.store.folder is not None else StreamLoader
    return kind(dataset, config, broken)
