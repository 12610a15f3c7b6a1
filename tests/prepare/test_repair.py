"""Repairing a dataset: indexes are rebuilt byte for byte, only damaged shards are made again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_dataset import FakeEncoder, make_dataset
from hashes import hashes
from memory_store import MemoryStore

from xmdpt_cli.datasets.find import find_dataset
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import only_process
from xmdpt_cli.prepare.pipeline import prepare_dataset
from xmdpt_cli.prepare.repair import Repair, repair_dataset
from xmdpt_cli.prepare.verify import check_dataset
from xmdpt_cli.storage.stores import LocalStore

SHARDS = ["train-000000.tar", "train-000001.tar", "train-000002.tar", "test-000000.tar"]


def prepare(root: Path, out: Path, remake: list[str] | None = None) -> list[int]:
    """Prepare; how many images each call of the encoder had."""
    encoder = FakeEncoder()
    prepare_dataset(
        find_dataset(root), out, size=32, encoder=encoder, items_per_shard=2, remake=remake
    )
    return encoder.calls


def damage(out: Path) -> dict[str, str]:
    """Two shards of four; the hashes of all files."""
    changed = bytearray((out / "train-000001.tar").read_bytes())
    changed[5000] ^= 1
    (out / "train-000001.tar").write_bytes(changed)
    (out / "test-000000.tar").write_bytes(b"cut")
    return hashes(out)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repair")
    prepare(make_dataset(folder / "raw"), folder / "out")
    return folder


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "out", tmp_path / "out"))


def repair(out: Path, deep: bool = True) -> Repair:
    store = LocalStore(out)
    return repair_dataset(store, check_dataset(store, deep=deep))


@pytest.mark.parametrize("deep", [True, False])
def test_indexes_are_rebuilt_byte_for_byte(made: Path, out: Path, deep: bool) -> None:
    (out / "train-000000.index.json").unlink()
    (out / "train-000001.index.json").write_text("{}")
    (out / "test-000000.tar.part").write_text("half")
    done = repair(out, deep)
    assert done.rebuilt == ["train-000000.index.json", "train-000001.index.json"]
    assert done.removed == ["test-000000.tar.part"]
    assert (done.remake, done.remaining, done.unfinished) == ([], [], False)
    assert hashes(out) == hashes(made / "out")


def test_an_index_with_wrong_offsets_is_rebuilt(made: Path, out: Path) -> None:
    path = out / "train-000001.index.json"
    content = json.loads(path.read_text())
    content["samples"].pop()
    path.write_text(json.dumps(content))
    assert repair(out).rebuilt == [path.name]
    assert hashes(out) == hashes(made / "out")


def test_only_damaged_shards_are_made_again(made: Path, out: Path) -> None:
    damaged = damage(out)
    times = {name: (out / name).stat().st_mtime_ns for name in SHARDS}
    done = repair(out)
    assert done.remake == ["train-000001.tar", "test-000000.tar"]
    assert done.remaining == []
    assert hashes(out) == damaged  # nothing is removed before its replacement is there
    # 6 images of the one shard, 4 of the other, in both orientations; then nothing is left to do
    assert prepare(made / "raw", out, done.remake) == [6, 6, 4, 4]
    assert hashes(out) == hashes(made / "out")
    assert times["train-000000.tar"] == (out / "train-000000.tar").stat().st_mtime_ns
    assert check_dataset(LocalStore(out)).findings == []


def test_an_intact_shard_is_never_replaced(made: Path, out: Path) -> None:
    store = LocalStore(out)
    (out / "train-000000.tar").rename(out / "away")
    report = check_dataset(store)
    (out / "away").rename(out / "train-000000.tar")  # it came back after the check
    assert repair_dataset(store, report).remake == []
    assert hashes(out) == hashes(made / "out")


def test_without_settings_nothing_is_removed(out: Path) -> None:
    (out / "prepare.json").unlink()
    (out / "train-000000.tar").write_bytes(b"cut")
    (out / "train-000001.index.json").unlink()
    done = repair(out)
    assert done.rebuilt == ["train-000001.index.json"]
    assert done.remake == []
    assert {f.kind for f in done.remaining} == {"shard-size", "settings-missing"}
    assert (out / "dataset.json").exists()
    assert (out / "train-000000.tar").read_bytes() == b"cut"


def test_skipped_images_are_restored_with_their_shard(tmp_path: Path) -> None:
    root, out = make_dataset(tmp_path / "raw"), tmp_path / "out"
    broken = next((root / "img_highres" / "MEN").rglob("*2_side.jpg"))
    broken.write_bytes(b"no image")
    prepare(root, out)
    manifest = json.loads((out / "dataset.json").read_text())
    (left_out,) = [entry for entry in manifest["skipped"] if "not an image" in entry[1]]
    own = {
        name: json.loads((out / name.replace(".tar", ".index.json")).read_text())["skipped"]
        for name in SHARDS
    }
    (shard,) = [name for name, entries in own.items() if left_out in entries]
    for entry in manifest["shards"]:
        entry["skipped"] = own[entry["name"]]
    (out / "dataset.json").write_text(json.dumps(manifest))
    assert check_dataset(LocalStore(out)).findings == []
    index = out / shard.replace(".tar", ".index.json")
    before = index.read_bytes()
    index.unlink()
    assert repair(out).rebuilt == [index.name]
    assert index.read_bytes() == before
    # a manifest that does not state which shard they belong to: the shard is made again
    for entry in manifest["shards"]:
        del entry["skipped"]
    (out / "dataset.json").write_text(json.dumps(manifest))
    index.unlink()
    done = repair(out)
    assert (done.rebuilt, done.remake) == ([], [shard])
    assert (out / shard).exists()
    prepare(root, out)
    assert index.read_bytes() == before


def test_an_unfinished_dataset_is_only_reported(made: Path, out: Path) -> None:
    (out / "dataset.json").unlink()
    before = hashes(out)
    done = repair(out)
    assert done.unfinished
    assert [f.kind for f in done.remaining] == ["manifest-missing"]
    assert hashes(out) == before
    assert prepare(made / "raw", out) == []
    assert hashes(out) == hashes(made / "out")


def test_an_index_lost_with_the_manifest(made: Path, out: Path) -> None:
    (out / "dataset.json").unlink()
    (out / "train-000001.index.json").unlink()
    done = repair(out)
    assert done.remake == ["train-000001.tar"]
    prepare(made / "raw", out)
    assert hashes(out) == hashes(made / "out")


def test_a_store_that_fails_loses_nothing(made: Path, out: Path) -> None:
    class Failing(LocalStore):
        def read_range(self, name: str, offset: int, length: int) -> bytes:
            raise OSError("connection reset")

    (out / "train-000001.index.json").unlink()
    before = hashes(out)
    store = Failing(out)
    done = repair_dataset(store, check_dataset(store))
    assert (done.rebuilt, done.remake) == ([], [])
    assert hashes(out) == before


def test_repair_of_a_remote_store(made: Path, tmp_path: Path) -> None:
    store = MemoryStore.of(made / "out", tmp_path)
    whole = dict(store.files)
    assert check_dataset(store).findings == []
    del store.files["train-000000.index.json"]
    store.files["test-000000.tar"] = b"cut"
    done = repair_dataset(store, check_dataset(store))
    assert (done.rebuilt, done.remake) == (["train-000000.index.json"], ["test-000000.tar"])
    assert store.files == {**whole, "test-000000.tar": b"cut"}
    encoder = FakeEncoder()
    listing = find_dataset(made / "raw")
    prepare_dataset(listing, store, size=32, encoder=encoder, items_per_shard=2, remake=done.remake)
    assert store.files == whole


def test_a_folder_in_use_is_refused(out: Path) -> None:
    report = check_dataset(LocalStore(out))
    with only_process(out), pytest.raises(XmdptError, match="another process"):
        repair_dataset(LocalStore(out), report)


#: what a process does when it makes two shards again, in this order
STEPS = ["put", "write", "put", "write", "write"]  # tar, index, tar, index, dataset.json


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", range(len(STEPS)))
def test_a_killed_repair_leaves_the_old_or_the_new_shard(
    made: Path, out: Path, step: int, after: bool
) -> None:
    """Just before and after each file gets its name; the same command then finishes."""
    damaged, new = damage(out), hashes(made / "out")
    names = repair(out).remake
    child = os.fork()
    if child == 0:
        _repair_until_killed(made / "raw", out, names, step, after)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    there = {path.name: path.read_bytes() for path in out.iterdir()}
    for name, digest in new.items():
        assert hashlib.sha256(there[name]).hexdigest() in (digest, damaged[name]), name
    again = repair(out).remake  # as the same command does
    if again:
        prepare(made / "raw", out, again)
    (out / ".lock").unlink(missing_ok=True)
    assert hashes(out) == new
    assert check_dataset(LocalStore(out)).findings == []


def _repair_until_killed(root: Path, out: Path, names: list[str], step: int, after: bool) -> None:
    """In a process of its own: kill it at a step. Ends it in any case."""
    count = 0

    class Killed(LocalStore):
        def put(self, file: Path, name: str) -> None:
            self.step(lambda: super(Killed, self).put(file, name), "put")

        def write(self, name: str, data: bytes) -> None:
            self.step(lambda: super(Killed, self).write(name, data), "write")

        def step(self, work: Callable[[], None], kind: str) -> None:
            nonlocal count
            count += 1
            if count - 1 == step and kind == STEPS[step] and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            work()
            if count - 1 == step and kind == STEPS[step]:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        prepare_dataset(
            find_dataset(root), Killed(out), size=32, encoder=FakeEncoder(), items_per_shard=2,
            remake=names,
        )  # fmt: skip
    finally:
        os._exit(1)


def test_a_repair_that_would_lose_images_changes_nothing(
    made: Path, out: Path, tmp_path: Path
) -> None:
    damaged = damage(out)
    names = repair(out).remake
    raw = Path(shutil.copytree(made / "raw", tmp_path / "raw"))
    listed = json.loads((out / "train-000001.index.json").read_text())["samples"][0]["views"]
    broken = raw / next(iter(listed.values()))["file"]
    broken.write_bytes(b"no image")
    with pytest.raises(XmdptError, match=broken.name) as caught:
        prepare(raw, out, names)
    assert "restore that image" in caught.value.hint
    assert hashes(out) == damaged
    prepare(made / "raw", out, names)
    assert hashes(out) == hashes(made / "out")


def test_a_badly_written_shard_replaces_nothing(
    made: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = damage(out)
    names = repair(out).remake
    monkeypatch.setattr("xmdpt_cli.prepare.shard_writer.sha256_of", lambda *_, **__: "another")
    with pytest.raises(XmdptError, match="does not hold what was written"):
        prepare(made / "raw", out, names)
    assert hashes(out) == damaged
