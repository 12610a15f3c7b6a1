"""A dataset behind a URL that is copied once and then read as a local one."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fake_dataset import FakeEncoder, make_dataset
from memory_store import memory_url

from xmdpt_cli.data import fetch
from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.data.fetch import fetch_dataset
from xmdpt_cli.datasets.find import find_dataset
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.prepare.pipeline import prepare_dataset
from xmdpt_cli.storage import remote
from xmdpt_cli.storage.stores import open_store


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("fetch")
    listing = find_dataset(make_dataset(place / "raw", train=3))
    prepare_dataset(listing, place / "set", size=32, encoder=FakeEncoder(), items_per_shard=1)
    return place / "set"


@pytest.fixture
def url(folder: Path, tmp_path: Path) -> str:
    return memory_url(folder, tmp_path.name)


def same(copy: Path, folder: Path) -> bool:
    names = [path.name for path in folder.iterdir() if path.suffix in (".tar", ".json")]
    left = {path.name for path in copy.iterdir() if path.name != ".lock"}
    return left == set(names) and all(
        (copy / name).read_bytes() == (folder / name).read_bytes() for name in names
    )


def test_several_processes_copy_it_once(folder: Path, url: str, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: fetch_dataset(url, tmp_path / "cache"), range(2)))
    assert same(tmp_path / "cache", folder)
    assert list(PairDataset(tmp_path / "cache").pairs) == list(PairDataset(folder).pairs)
    assert fetch_dataset(folder, tmp_path / "unused") == folder


def test_an_interrupted_copy_resumes(
    folder: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "CHUNK", 1000)
    read_range, offsets = remote.RemoteStore.read_range, []

    def fails(store: remote.RemoteStore, name: str, offset: int, length: int) -> bytes:
        offsets.append((name, offset))
        if len(offsets) == 5:
            raise OSError("gone")
        return read_range(store, name, offset, length)

    monkeypatch.setattr(remote.RemoteStore, "read_range", fails)
    with pytest.raises(XmdptError, match="gone"):
        fetch_dataset(url, tmp_path / "cache")
    assert not (tmp_path / "cache" / "dataset.json").exists()
    fetch_dataset(url, tmp_path / "cache")
    assert offsets[5] == offsets[4] == (offsets[0][0], 4000)
    assert same(tmp_path / "cache", folder)


def test_a_changed_shard_is_refused(url: str, tmp_path: Path) -> None:
    store = open_store(url)
    data = bytearray(store.read("train-000001.tar"))
    data[2000] ^= 1
    store.write("train-000001.tar", bytes(data))
    with pytest.raises(XmdptError, match=r"train-000001\.tar is not the shard"):
        fetch_dataset(url, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.part"))


def test_a_folder_of_another_dataset_is_refused(folder: Path, url: str, tmp_path: Path) -> None:
    cache = fetch_dataset(url, tmp_path / "cache")
    manifest = json.loads((cache / "dataset.json").read_text())
    manifest["skipped"] = [["another.jpg", "broken image"]]
    (cache / "dataset.json").write_text(json.dumps(manifest))
    before = {path.name: path.read_bytes() for path in cache.iterdir()}
    with pytest.raises(XmdptError, match="holds another dataset") as error:
        fetch_dataset(url, cache)
    assert "--data-cache" in error.value.hint
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == before
