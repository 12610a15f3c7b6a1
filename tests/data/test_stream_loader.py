"""Datasets behind URLs: what is streamed, in which order, and what happens if the server goes."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_dataset import FakeEncoder, make_dataset
from memory_store import memory_url
from servers import Server, nginx, sshd

from xmdpt_cli.data import stream_loader
from xmdpt_cli.data import stream_sampler as orders
from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.data.loader import Batch, TrainLoader, eval_batches, load_pairs
from xmdpt_cli.data.prefetch import prefetch
from xmdpt_cli.data.sampler import LoaderConfig, PairIndices
from xmdpt_cli.data.shard_reader import ShardReader
from xmdpt_cli.data.stream_loader import Block, StreamLoader, train_loader
from xmdpt_cli.data.stream_sampler import Items, StreamSampler
from xmdpt_cli.datasets.find import find_dataset
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.prepare.pipeline import prepare_dataset
from xmdpt_cli.storage import remote
from xmdpt_cli.storage.stores import open_store

ITEMS, PAIRS = 11, 66
BLOCK = 20_000  # two items or so
BUFFER = 80_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("stream")
    listing = find_dataset(make_dataset(place / "raw", train=ITEMS))
    prepare_dataset(listing, place / "set", size=32, encoder=FakeEncoder(), items_per_shard=4)
    return place / "set"


@pytest.fixture
def url(folder: Path, tmp_path: Path) -> str:
    """A copy in memory of the dataset."""
    return memory_url(folder, tmp_path.name)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "BLOCK_BYTES", BLOCK)
    monkeypatch.setattr(remote, "WAIT", 0.01)


def equal(one: Batch, other: Batch) -> bool:
    for field in fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, torch.Tensor):
            if not torch.equal(a.nan_to_num(-1), b.nan_to_num(-1)):  # keypoints that are missing
                return False
        elif a != b:
            return False
    return True


def stream(place: str | PairDataset, size: int = 5, seed: int = 0, **more: Any) -> StreamLoader:
    dataset = PairDataset(place) if isinstance(place, str) else place
    return StreamLoader(dataset, LoaderConfig(size, seed, **more), buffer_bytes=BUFFER)


# the order, without any data


def order(
    folder: Path, rank: int = 0, world: int = 1, seed: int = 0, room: int = 60_000
) -> StreamSampler:
    config = LoaderConfig(1, seed, rank, world)
    return StreamSampler(PairDataset(folder).table, config, room)


def test_blocks_are_runs_of_items_that_hold_what_training_reads(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = PairDataset(folder).table
    items = Items.of(table)
    count = int(items.block[-1]) + 1
    assert count > 3
    assert (np.diff(items.block) >= 0).all()
    for row, item in enumerate(table.item):
        assert table.shard[row] == items.shard[item]
        for offset, length in table.members[row]:  # image, keypoints, features
            assert items.begin[item] <= offset - 512
            assert offset + length <= items.end[item]
    for block in range(count):
        inside = np.flatnonzero(items.block == block)
        assert len(set(items.shard[inside])) == 1
        assert len(inside) == 1 or items.end[inside[-1]] - items.begin[inside[0]] <= BLOCK
    monkeypatch.setattr(orders, "BLOCK_BYTES", 10**9)
    assert Items.of(table).block[-1] == 2  # never over a shard's end
    monkeypatch.setattr(orders, "BLOCK_BYTES", 1)
    assert Items.of(table).block[-1] == ITEMS - 1  # never less than an item


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_every_pair_comes_once_an_epoch(folder: Path, world: int) -> None:
    ranks = [order(folder, rank, world) for rank in range(world)]
    had = [0] * world
    seen = []
    for epoch in range(5):
        parts = [rank.plan(epoch).pairs for rank in ranks]
        assert sorted(np.concatenate(parts)) == list(range(PAIRS))
        had = [n + len(part) for n, part in zip(had, parts, strict=True)]
        assert max(had) - min(had) <= 1
        seen.append(tuple(np.concatenate(parts)))
        for rank, part in enumerate(parts):  # positions lead to these draws
            for draw in range(len(part)):
                assert ranks[rank].find(had[rank] - len(part) + draw) == (epoch, draw)
    assert len(set(seen)) == 5


def test_swap_and_flip_do_not_depend_on_the_rank(folder: Path) -> None:
    alone, half = order(folder).plan(0), order(folder, 1, 2).plan(0)
    swap, flip = (dict(zip(alone.pairs, which, strict=True)) for which in (alone.swap, alone.flip))
    assert half.swap.tolist() == [swap[pair] for pair in half.pairs]
    assert half.flip.tolist() == [flip[pair] for pair in half.pairs]
    assert 0 < alone.swap.sum() < PAIRS


def test_a_streamed_batch_is_swapped_together(url: str) -> None:
    with closing(stream(url, swap_batch=5)) as whole, closing(stream(url)) as by_pair:
        found = []
        for step in range(12):
            batch, plain = whole.batch(step), by_pair.batch(step)
            numbers = whole.config.pair_numbers(step)
            swapped = whole.config.swaps(numbers, np.zeros(5, bool))
            assert len(set(swapped.tolist())) == 1
            for one, other in zip(batch.pairs, plain.pairs, strict=True):
                assert sorted(one.split("/")[-1].split(">")) == sorted(
                    other.split("/")[-1].split(">")
                )
            found.append(bool(swapped[0]))
        assert 0 < sum(found) < 12


def test_the_buffer_mixes_and_stays_small(folder: Path) -> None:
    room = 60_000
    for epoch in range(3):
        sampler = order(folder, room=room)
        plan, items = sampler.plan(epoch), sampler.items
        size = (items.end - items.begin)[plan.items]
        count = len(plan.items)
        first = [int(np.flatnonzero(plan.used == number)[0]) for number in range(count)]
        for draw in range(len(plan.pairs)):
            here = [g for g in range(count) if first[g] <= draw <= plan.last[g]]
            assert size[here].sum() <= room
        assert np.count_nonzero(np.diff(plan.used)) > 2 * count  # not item by item
        np.testing.assert_array_equal(
            plan.last, [np.flatnonzero(plan.used == number)[-1] for number in range(count)]
        )
    tiny = order(folder, room=1).plan(0)  # an item at a time, each whole
    assert np.count_nonzero(np.diff(tiny.used)) == len(tiny.items) - 1


def test_more_ranks_than_pairs(folder: Path) -> None:
    table = PairDataset(folder, "test").table
    ranks = [StreamSampler(table, LoaderConfig(3, 0, rank, 5), 10**6) for rank in range(5)]
    for epoch in range(4):
        assert sorted(p for r in ranks for p in r.plan(epoch).pairs.tolist()) == [0, 1]
    loader = StreamLoader(PairDataset(folder, "test"), LoaderConfig(3, 0, rank=4, world_size=5))
    assert len(loader.batch(2).pairs) == 3


# the batches


def test_batches_hold_the_pairs_of_the_order(folder: Path, url: str) -> None:
    loader = stream(url, pose_maps=True, joints=True)
    local, played = PairDataset(folder), order(folder, room=BUFFER * 3 // 4)
    for step in range(30):  # over two epochs
        draws = [played.find(position) for position in range(5 * step, 5 * step + 5)]
        plans = [(played.plan(epoch), draw) for epoch, draw in draws]
        indices = PairIndices(
            np.arange(5 * step, 5 * step + 5),
            np.array([plan.pairs[draw] for plan, draw in plans]),
            np.array([plan.swap[draw] for plan, draw in plans]),
            np.array([plan.flip[draw] for plan, draw in plans]),
        )
        want = load_pairs(local, indices, pose_maps=True, joints=True)
        assert equal(loader.batch(step), want), step


def test_an_epoch_is_complete(url: str) -> None:
    loader = stream(url, 11, swap=False, flip=False)
    names = [name for step in range(6) for name in loader.batch(step).pairs]
    assert sorted(names) == sorted(pair.name() for pair in loader.dataset.pairs)
    assert names != [pair.name() for pair in loader.dataset.pairs]


def test_ranks_are_disjoint(url: str) -> None:
    dataset = PairDataset(url)
    ranks = [stream(dataset, 11, swap=False, rank=rank, world_size=2) for rank in (0, 1)]
    names = [[n for step in range(3) for n in loader.batch(step).pairs] for loader in ranks]
    assert sorted(names[0] + names[1]) == sorted(pair.name() for pair in dataset.pairs)


@pytest.mark.parametrize("kind", ["local", "stream"])
def test_restoring_in_the_middle_of_an_epoch(folder: Path, url: str, kind: str) -> None:
    def make() -> TrainLoader | StreamLoader:
        if kind == "stream":
            return stream(url, 7, seed=4, rank=1, world_size=2)
        return TrainLoader(PairDataset(folder), LoaderConfig(7, seed=4, rank=1, world_size=2))

    through = make()
    seen = [through.batch(step) for step in range(14)]  # three epochs of 33 pairs
    for begin in (1, 3, 5, 8, 13):
        again = make()
        for step in range(begin, min(begin + 4, 14)):
            assert equal(again.batch(step), seen[step]), (begin, step)
    for step in (9, 2, 11):  # and in any order
        assert equal(through.batch(step), seen[step])


def test_every_byte_is_requested_once_an_epoch(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[tuple[str, int, int]] = []
    read_range = remote.RemoteStore.read_range

    def counted(store: remote.RemoteStore, name: str, offset: int, length: int) -> bytes:
        requests.append((name, offset, length))
        return read_range(store, name, offset, length)

    monkeypatch.setattr(remote.RemoteStore, "read_range", counted)
    loader = stream(url, 6)
    for step in range(11):  # exactly one epoch; the next one is being read
        loader.batch(step)
    loader.close()
    items = loader.sampler.items
    times = Counter(requests)
    assert len(times) == items.block[-1] + 1
    assert set(times.values()) <= {1, 2}
    whole = (items.end - items.begin).sum()
    assert sum(length for _, _, length in requests) < BUFFER + whole


def test_memory_of_the_buffer_is_bounded(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    requested = released = most = 0
    request, cut = ShardReader.request, stream_loader._cut

    def counted_request(reader: ShardReader, offset: int, length: int) -> bytes:
        nonlocal requested
        requested += length
        return request(reader, offset, length)

    def counted_cut(dataset: PairDataset, items: Items, blocks: Iterable[Block]) -> Iterator[Any]:
        def counted() -> Iterator[Block]:
            nonlocal released
            for block in blocks:
                released += len(block.data)
                yield block

        return cut(dataset, items, counted())

    monkeypatch.setattr(ShardReader, "request", counted_request)
    monkeypatch.setattr(stream_loader, "_cut", counted_cut)
    loader = stream(url, 3)
    for step in range(40):
        loader.batch(step)
        held = sum(map(len, loader._held.values()))
        most = max(most, held + requested - released)
    assert BUFFER / 2 < most <= BUFFER + BLOCK


def test_a_buffer_smaller_than_an_item(url: str) -> None:
    one = StreamLoader(PairDataset(url), LoaderConfig(5, 0), buffer_bytes=1)
    assert len({name for step in range(13) for name in one.batch(step).pairs}) > 30


def test_prefetching_a_stream(url: str) -> None:
    loader = stream(url, pose_maps=True)
    want = [stream(url, pose_maps=True).batch(step) for step in range(4, 9)]
    with closing(prefetch(loader, start_step=4)) as batches:
        for step, batch in zip(range(5), batches, strict=False):
            assert equal(batch, want[step])


def test_threads_end_with_their_loader(url: str) -> None:
    loader = stream(url)
    loader.batch(0)
    mine = [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]
    assert mine
    del loader
    for thread in mine:
        thread.join(timeout=10)
        assert not thread.is_alive()


def test_local_datasets_are_not_streamed(folder: Path, url: str) -> None:
    assert isinstance(train_loader(PairDataset(folder), LoaderConfig(4, 0)), TrainLoader)
    assert isinstance(train_loader(PairDataset(url), LoaderConfig(4, 0)), StreamLoader)
    for options in ({"size": 0}, {"rank": 1}, {"seed": -1}):
        with pytest.raises(ConfigError, match="impossible loader"):
            stream(url, **options)
    with pytest.raises(ConfigError, match="impossible buffer"):
        StreamLoader(PairDataset(url), LoaderConfig(4, 0), buffer_bytes=0)


# random access, and damage


def same_dataset(place: str, folder: Path) -> None:
    far, near = PairDataset(place), PairDataset(folder)
    assert list(far.pairs) == list(near.pairs)
    assert far.views() == near.views()
    for one, other in zip(
        eval_batches(far, 8, 20, pose_maps=True),
        eval_batches(near, 8, 20, pose_maps=True),
        strict=True,
    ):
        assert equal(one, other)


def test_reading_at_random(folder: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[str] = []
    monkeypatch.setattr(remote.RemoteStore, "size", lambda _, name: sizes.append(name))
    same_dataset(url, folder)
    assert sizes == []  # no request for what the indexes hold


def test_other_urls_are_refused(url: str, folder: Path) -> None:
    with pytest.raises(XmdptError, match="holds no prepared dataset") as error:
        PairDataset("memory://nowhere/at/all")
    assert "prepare" in error.value.hint
    store = open_store(url)
    index = store.read("train-000001.index.json")
    store.write("train-000001.index.json", store.read("train-000000.index.json"))
    with pytest.raises(XmdptError, match=r"1\.index\.json is the index of another shard"):
        PairDataset(url)
    store.remove("train-000001.index.json")
    with pytest.raises(XmdptError, match=r"train-000001\.index\.json is missing"):
        PairDataset(url)
    store.write("train-000001.index.json", index)
    store.remove("dataset.json")
    with pytest.raises(XmdptError, match="interrupted"):
        PairDataset(url)


@pytest.mark.parametrize(
    ("damage", "message"),
    [("gone", "no longer exists"), ("short", "is shorter than its index")],
)
def test_a_damaged_shard_is_an_error_until_it_is_restored(
    url: str, damage: str, message: str
) -> None:
    loader, want = stream(url), stream(url)
    store = open_store(url)
    whole = store.read("train-000001.tar")
    if damage == "gone":
        store.remove("train-000001.tar")
    else:
        store.write("train-000001.tar", whole[:20_000])
    step = 0
    with pytest.raises(XmdptError, match=rf"train-000001\.tar {message}"):  # noqa: PT012
        for step in range(14):
            loader.batch(step)
    with pytest.raises(XmdptError, match=rf"train-000001\.tar {message}"):
        load_pairs(loader.dataset, PairIndices.listed(range(PAIRS)))
    store.write("train-000001.tar", whole)
    assert equal(loader.batch(step), want.batch(step))


def test_a_damaged_tar_header_is_an_error(url: str) -> None:
    store = open_store(url)
    data = bytearray(store.read("train-000001.tar"))
    table = PairDataset(url).table
    for begin in table.members[table.shard == 1, 2, 0].tolist():
        data[begin - 512 : begin] = b"x" * 512
    store.write("train-000001.tar", bytes(data))
    with pytest.raises(XmdptError, match=r"train-000001\.tar") as error:
        [stream(url).batch(step) for step in range(14)]
    assert "copy" in error.value.hint


# real servers


@pytest.fixture
def served(folder: Path, tmp_path: Path) -> Iterator[tuple[Server, str]]:
    pytest.importorskip("aiohttp")
    with nginx(tmp_path / "nginx", folder) as running:
        yield running


def test_streaming_from_nginx(folder: Path, served: tuple[Server, str], url: str) -> None:
    same_dataset(served[1], folder)
    loader, want = stream(served[1]), stream(url)
    for step in range(20):
        assert equal(loader.batch(step), want.batch(step))


def test_a_server_that_stops_and_restarts(
    served: tuple[Server, str], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, place = served
    loader, want = stream(place), stream(url)
    assert equal(loader.batch(0), want.batch(0))
    server.stop()
    step = 0
    with pytest.raises(XmdptError, match=r"cannot read http://127\.0\.0\.1") as error:  # noqa: PT012
        for step in range(1, 30):
            loader.batch(step)
    assert "server" in error.value.hint
    server.start()
    assert equal(loader.batch(step), want.batch(step))
    # gone for less than the tries last: nothing is noticed
    monkeypatch.setattr(remote, "WAIT", 0.2)
    server.stop()
    back = threading.Timer(0.3, server.start)
    back.start()
    for later in range(step + 1, step + 16):
        assert equal(loader.batch(later), want.batch(later))
    back.join()


def test_streaming_over_sftp(
    folder: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("paramiko")
    import fsspec.config

    with sshd(tmp_path / "sshd") as (server, key):
        monkeypatch.setitem(fsspec.config.conf, "sftp", {"key_filename": str(key)})
        monkeypatch.setenv("HOME", str(tmp_path))
        place = f"sftp://127.0.0.1:{server.port}{tmp_path}/set"
        store = open_store(place)
        for path in folder.iterdir():  # written as prepare writes
            if path.is_file():
                file = store.scratch(path.name)
                file.write_bytes(path.read_bytes())
                store.put(file, path.name)
        same_dataset(place, folder)
        loader, want = stream(place), stream(url)
        for step in range(16):
            assert equal(loader.batch(step), want.batch(step))
        loader.close()


def own_memory() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    pytest.skip("this system does not report the private memory of a process")


@pytest.mark.parametrize("kind", ["local", "stream"])
def test_memory_is_flat(folder: Path, url: str, kind: str) -> None:
    local = kind == "local"
    loader = TrainLoader(PairDataset(folder), LoaderConfig(64, 0)) if local else stream(url, 64)
    old = None
    for step in range(40):
        old = loader.batch(step, old)
    before = own_memory()
    for step in range(40, 140):  # 6,400 pairs, 100 epochs
        old = loader.batch(step, old)
    assert own_memory() - before < 4096  # kB; a leak of 1 kB a pair would be 6,400
