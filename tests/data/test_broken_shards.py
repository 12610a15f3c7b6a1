"""A shard that breaks under a run: named once, its pairs replaced and counted, position kept."""

from __future__ import annotations

import errno
import gc
import os
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import fields
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_dataset import FakeEncoder, make_dataset

from xmdpt_cli.data import broken_shards
from xmdpt_cli.data import dataset as pairs
from xmdpt_cli.data import stream_sampler as orders
from xmdpt_cli.data.broken_shards import BrokenShards
from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.data.loader import Batch, TrainLoader
from xmdpt_cli.data.pair_images import Crop, load_pair_images
from xmdpt_cli.data.prefetch import Loader, prefetch
from xmdpt_cli.data.sampler import LoaderConfig, seeded_generator
from xmdpt_cli.data.shard_reader import ShardReader
from xmdpt_cli.data.stream_loader import StreamLoader
from xmdpt_cli.datasets.find import find_dataset
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.prepare.pipeline import prepare_dataset
from xmdpt_cli.storage import remote
from xmdpt_cli.storage.stores import open_store
from xmdpt_cli.utils.prefetch import prefetch as prefetch_items

SIZE, STEPS = 6, 22  # two epochs of 66 pairs
BROKEN = "train-000002.tar"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("broken")
    listing = find_dataset(make_dataset(place / "raw", train=11))
    prepare_dataset(listing, place / "set", size=32, encoder=FakeEncoder(), items_per_shard=2)
    return place / "set"


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    """A copy that may be broken: 6 shards of 12 pairs, the last of 6."""
    return shutil.copytree(prepared, tmp_path / "set")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "BLOCK_BYTES", 20_000)
    monkeypatch.setattr(remote, "WAIT", 0.01)


def unlink(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    os.truncate(path, 1000)


def cut_a_little(path: Path) -> None:
    """All features are still there: only the size shows the change."""
    os.truncate(path, path.stat().st_size - 1)


def lengthen(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = [unlink, truncate, cut_a_little, lengthen, replace_by_folder]


def local(folder: Path, warned: list[str], seed: int = 5, **more: int) -> TrainLoader:
    dataset = PairDataset(folder, lenient=True)
    broken = BrokenShards(dataset, seed, warned.append)
    return TrainLoader(dataset, LoaderConfig(SIZE, seed, **more), broken)


def equal(one: Batch, other: Batch) -> bool:
    pairs = [(getattr(one, f.name), getattr(other, f.name)) for f in fields(one)]
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


def shards(loader: Loader, names: list[str]) -> list[str]:
    """The shard of each pair of a batch."""
    assert isinstance(loader, TrainLoader | StreamLoader)
    table, readers = loader.dataset.table, loader.dataset.readers
    keys = [name.rsplit("/", 1)[0] for name in names]
    return [readers[table.shard[table.first[table.keys.index(key)]]].name for key in keys]


def held_bytes(loader: StreamLoader) -> int:
    """What the shuffle buffer takes."""
    samples = loader._held.values()
    return sum(len(data) for s in samples for data in s.values() if isinstance(data, bytes))


def check_replaced(whole: Batch, broken: Batch, loader: Loader, bad: str = BROKEN) -> int:
    """Rows of other shards are untouched, those of the broken one hold another pair's features."""
    skipped = 0
    was, now = shards(loader, whole.pairs), shards(loader, broken.pairs)
    assert bad not in now
    for row, shard in enumerate(was):
        same = torch.equal(whole.source_tokens[row], broken.source_tokens[row])
        assert (whole.pairs[row] == broken.pairs[row]) == (shard != bad) == same
        skipped += shard == bad
    assert whole.flipped == broken.flipped
    assert broken.skipped == skipped
    return skipped


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_local_shard_breaks_during_an_epoch(folder: Path, damage: Callable[[Path], None]) -> None:
    healthy = TrainLoader(PairDataset(folder), LoaderConfig(SIZE, 5))
    whole = [healthy.batch(step) for step in range(STEPS)]
    warned: list[str] = []
    loader = local(folder, warned)
    for step in range(4):
        assert equal(loader.batch(step), whole[step])
    assert warned == []
    damage(folder / BROKEN)
    seen = [loader.batch(step) for step in range(4, STEPS)]
    counts = [check_replaced(w, b, loader) for w, b in zip(whole[4:], seen, strict=True)]
    assert sum(counts) > 12  # most of the first epoch's, all of the second's
    assert len(warned) == 1
    assert BROKEN in warned[0]
    assert "its 12 pairs (18.2%)" in warned[0]
    assert f"xmdpt prepare --check {folder} --repair --root" in warned[0]
    # a run that goes on from step 9 and finds the shard broken reads the same
    again = local(folder, warned)
    for step in range(9, STEPS):
        assert equal(again.batch(step), seen[step - 4])
    assert again.broken is not None
    assert again.broken.names == [BROKEN]


def test_ranks_skip_the_same_pairs_as_one_process(folder: Path) -> None:
    unlink(folder / BROKEN)
    warned: list[str] = []
    dataset = PairDataset(folder, lenient=True)
    alone = TrainLoader(dataset, LoaderConfig(2 * SIZE, 5), BrokenShards(dataset, 5, warned.append))
    ranks = [local(folder, warned, rank=rank, world_size=2) for rank in range(2)]
    for step in range(8):
        whole, parts = alone.batch(step), [rank.batch(step) for rank in ranks]
        assert whole.pairs == parts[0].pairs + parts[1].pairs
        assert whole.skipped == parts[0].skipped + parts[1].skipped
    numbers = [LoaderConfig(SIZE, 5, rank, 2).pair_numbers(3) for rank in range(2)]
    assert [n for part in numbers for n in part] == LoaderConfig(2 * SIZE, 5).pair_numbers(
        3
    ).tolist()


def test_another_seed_takes_other_pairs(folder: Path) -> None:
    unlink(folder / BROKEN)
    warned: list[str] = []
    dataset = PairDataset(folder, lenient=True)
    indices = TrainLoader(dataset, LoaderConfig(66, 5)).sampler.indices(0)
    chosen = []
    for seed in range(2):
        broken = BrokenShards(dataset, seed, warned.append)
        loaded = broken.load_readable(indices, lambda found: SimpleNamespace(pairs=found.pairs))
        assert loaded.skipped == 12
        lost = broken.is_broken(indices.pairs)
        assert (loaded.pairs[~lost] == indices.pairs[~lost]).all()
        chosen.append(loaded.pairs[lost].tolist())
    assert chosen[0] != chosen[1]
    assert len(set(chosen[0])) > 6  # not one pair for all


@pytest.mark.parametrize("damage", [unlink, truncate])
@pytest.mark.parametrize("through", [True, False])
def test_a_streamed_shard_breaks(
    folder: Path, tmp_path: Path, damage: Callable[[Path], None], through: bool
) -> None:
    pytest.importorskip("fsspec")
    store = open_store(f"memory://{tmp_path.name}/set")
    for path in folder.iterdir():
        if path.is_file():
            store.write(path.name, path.read_bytes())

    def make(warned: list[str]) -> StreamLoader:
        dataset = PairDataset(store.url)
        broken = BrokenShards(dataset, 5, warned.append)
        return StreamLoader(dataset, LoaderConfig(SIZE, 5), broken, buffer_bytes=80_000)

    healthy = StreamLoader(PairDataset(store.url), LoaderConfig(SIZE, 5), buffer_bytes=80_000)
    whole = [healthy.batch(step) for step in range(STEPS)]
    healthy.close()
    warned: list[str] = []
    loader = make(warned)
    begin = 4 if through else 0
    for step in range(begin):
        assert equal(loader.batch(step), whole[step])
    damage(folder / BROKEN)
    if (folder / BROKEN).is_file():
        store.write(BROKEN, (folder / BROKEN).read_bytes())
    else:
        store.remove(BROKEN)
    seen = [loader.batch(step) for step in range(begin, STEPS)]
    assert len(warned) == 1
    # what had been read ahead may still have come whole; from the first failed read on nothing
    first = next(step for step, batch in enumerate(seen) if batch.skipped)
    for want, got in zip(whole[begin:][:first], seen[:first], strict=True):
        assert equal(want, got)
    for want, got in zip(whole[begin:][first:], seen[first:], strict=True):
        check_replaced(want, got, loader)
    again = make(warned)
    for step in range(begin + first + 1, STEPS):
        got = again.batch(step)
        if again.broken is not None and again.broken.names:
            assert equal(got, seen[step - begin])
    assert held_bytes(loader) < 100_000  # what is skipped is let go


def test_too_many_broken_shards_are_an_error(folder: Path) -> None:
    warned: list[str] = []
    loader = local(folder, warned)
    (folder / BROKEN).unlink()
    (folder / "train-000000.tar").unlink()
    with pytest.raises(XmdptError, match="24 of 66 pairs cannot be read any more") as error:  # noqa: PT012
        for step in range(11):
            loader.batch(step)
    assert BROKEN in error.value.message
    assert "train-000000.tar" in error.value.message
    assert f"xmdpt prepare --check {folder} --repair --root ROOT" in error.value.hint
    assert len(warned) == 1
    with pytest.raises(XmdptError, match="24 of 66 pairs cannot be read any more"):
        loader.batch(0)
    # a larger share may be allowed
    dataset = PairDataset(folder, lenient=True)
    most = BrokenShards(dataset, 5, warned.append, limit=0.5)
    assert TrainLoader(dataset, LoaderConfig(66, 5), most).batch(0).skipped == 24


@pytest.mark.parametrize("kind", ["local", "url"])
def test_an_unreachable_dataset_is_an_error(folder: Path, tmp_path: Path, kind: str) -> None:
    """A disk that is not mounted any more, or a dead server, is no broken shard."""
    warned: list[str] = []
    loader: TrainLoader | StreamLoader
    if kind == "local":
        loader = local(folder, warned)
    else:
        pytest.importorskip("fsspec")
        store = open_store(f"memory://{tmp_path.name}/gone")
        for path in folder.iterdir():
            store.write(path.name, path.read_bytes())
        dataset = PairDataset(store.url)
        broken = BrokenShards(dataset, 5, warned.append)
        loader = StreamLoader(dataset, LoaderConfig(SIZE, 5), broken, buffer_bytes=80_000)
    loader.batch(0)
    for path in folder.iterdir():
        path.unlink() if kind == "local" else store.remove(path.name)
    with pytest.raises(XmdptError, match="nor any other file of") as error:  # noqa: PT012
        for step in range(1, STEPS):
            loader.batch(step)
    assert "same command again" in error.value.hint
    assert warned == []


class BoundedGenerator:
    """A random generator that fails instead of sampling without end."""

    def __init__(self, *seed: int) -> None:
        self.generator, self.left = seeded_generator(*seed), 1000

    def integers(self, high: int) -> Any:
        self.left -= 1
        assert self.left, "endless search for a readable pair"
        return self.generator.integers(high)


@pytest.mark.parametrize("items_per_shard", [2, 11], ids=["six shards", "one shard"])
@pytest.mark.parametrize("kind", ["local", "url", "images"])
def test_every_load_fails_once_all_shards_are_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, items_per_shard: int, kind: str
) -> None:
    """Batches requested ahead too, else the shutdown of the prefetching threads never returns."""
    monkeypatch.setattr(broken_shards, "seeded_generator", BoundedGenerator)
    if kind == "url":
        pytest.importorskip("fsspec")
    listing = find_dataset(make_dataset(tmp_path / "raw", train=11))
    place = f"memory://{tmp_path.name}/all" if kind == "url" else str(tmp_path / "set")
    prepare_dataset(listing, place, size=32, encoder=FakeEncoder(), items_per_shard=items_per_shard)
    dataset = PairDataset(place)
    warned: list[str] = []
    broken = BrokenShards(dataset, 5, warned.append, limit=1.0)
    config = LoaderConfig(SIZE, 5)
    load: Callable[[int], Any]
    if kind == "images":  # as --online reads them
        images = partial(load_pair_images, dataset, crop=lambda number, role: Crop(32))
        sampler = TrainLoader(dataset, config).sampler
        load = lambda step: broken.load_readable(sampler.indices(step), images)  # noqa: E731
    elif kind == "url":
        load = StreamLoader(dataset, config, broken, buffer_bytes=80_000).batch
    else:
        load = TrainLoader(dataset, config, broken).batch
    # StreamLoader.batch is for one thread
    threads = 1 if kind == "url" else 3
    error = f"66 of 66 pairs cannot be read any more .broken: {dataset.readers[0].name}"
    with closing(prefetch_items(load, count(), threads=threads)) as batches:
        assert next(batches).skipped == 0
        for reader in dataset.readers:
            dataset.store.write(reader.name, b"too short")
        with pytest.raises(XmdptError, match=error) as first:
            list(batches)
    with pytest.raises(XmdptError, match=error) as later:
        load(50)
    assert (later.value.message, later.value.hint) == (first.value.message, first.value.hint)
    assert len(warned) == len(dataset.readers) - 1


def test_a_rank_with_only_broken_items_reads_none_of_later_epochs(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    listing = find_dataset(make_dataset(tmp_path / "raw", train=2))
    place = f"memory://{tmp_path.name}/two"
    prepare_dataset(listing, place, size=32, encoder=FakeEncoder(), items_per_shard=1)
    dataset = PairDataset(place)  # 2 shards of 6 pairs: in each epoch one for each rank
    dataset.store.remove("train-000000.tar")
    warned: list[str] = []
    broken = BrokenShards(dataset, 5, warned.append)
    config = LoaderConfig(SIZE, 5, rank=0, world_size=2)
    loader = StreamLoader(dataset, config, broken, buffer_bytes=80_000)
    skipped = []
    for epoch in range(8):
        skipped.append(loader.batch(epoch).skipped)
        assert loader._read[0] == epoch
    assert set(skipped) == {0, SIZE}
    assert len(warned) == 1


def test_without_replacements_a_broken_shard_is_an_error(folder: Path) -> None:
    loader = TrainLoader(PairDataset(folder), LoaderConfig(SIZE, 5))
    loader.batch(0)
    truncate(folder / BROKEN)
    with pytest.raises(XmdptError, match=rf"{BROKEN} is shorter than its index states"):
        [loader.batch(step) for step in range(11)]
    with pytest.raises(XmdptError, match="missing or cut short"):
        PairDataset(folder)


def test_prefetched_batches_skip_too(folder: Path) -> None:
    warned: list[str] = []
    with closing(prefetch(local(folder, warned))) as batches:
        first = next(batches)
        assert first.skipped == 0
        truncate(folder / BROKEN)
        total = sum(next(batches).skipped for _ in range(STEPS))
    assert total > 10
    assert len(warned) == 1


def test_more_shards_than_may_be_open(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    healthy = TrainLoader(PairDataset(folder), LoaderConfig(SIZE, 5))
    whole = [healthy.batch(step) for step in range(3)]
    monkeypatch.setattr(pairs, "_OPEN_FILES", 2)
    gc.collect()
    dataset = PairDataset(folder)
    before = len(os.listdir("/proc/self/fd"))
    loader = TrainLoader(dataset, LoaderConfig(SIZE, 5))
    assert all(equal(loader.batch(step), whole[step]) for step in range(3))
    assert len(os.listdir("/proc/self/fd")) == before


def test_files_are_closed_with_their_dataset(folder: Path) -> None:
    gc.collect()  # what other tests left open
    before = len(os.listdir("/proc/self/fd"))
    loader = TrainLoader(PairDataset(folder), LoaderConfig(66, 5))
    loader.batch(0)
    assert len(os.listdir("/proc/self/fd")) == before + 6
    del loader
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("kind", ["cut", "disk"])
def test_a_shard_that_breaks_between_the_check_and_the_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Under a memory map both would kill the process (SIGBUS)."""
    warned: list[str] = []
    loader = local(folder, warned)
    whole = loader.batch(0)
    (want := local(folder, [])).batch(0)
    reader = loader.dataset.readers[2]
    if kind == "cut":
        truncate(folder / BROKEN)
    else:
        preadv = os.preadv

        def failing(file: int, *rest: Any) -> int:
            if file == reader._file:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return preadv(file, *rest)

        monkeypatch.setattr(os, "preadv", failing)
    monkeypatch.setattr(ShardReader, "check", lambda self: None)
    batches = [loader.batch(step) for step in range(STEPS)]
    assert len(warned) == 1
    assert ("shorter" in warned[0]) if kind == "cut" else ("Input/output error" in warned[0])
    monkeypatch.undo()
    unlink(folder / BROKEN)
    first = next(step for step, batch in enumerate(batches) if batch.skipped)
    for step in range(first, STEPS):  # as for a shard that is simply gone
        assert equal(batches[step], want.batch(step))
    assert equal(batches[0], whole) or first == 0
