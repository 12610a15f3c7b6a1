"""Several processes prepare one dataset, and some are killed: the bytes are always the same."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from fake_dataset import FakeEncoder, make_dataset
from hashes import hashes
from prepare_child import ended_well, start

from xmdpt_cli.datasets.find import find_dataset
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.prepare.pipeline import prepare_dataset
from xmdpt_cli.prepare.plan import plan_shards, share
from xmdpt_cli.storage.ranks import ProcessGroup, World
from xmdpt_cli.storage.stores import LocalStore


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("ranks") / "raw", train=9)


@pytest.fixture(scope="module")
def alone(root: Path) -> dict[str, str]:
    """The bytes of one undisturbed process without helpers."""
    out = root.parent / "alone"
    prepare_dataset(
        find_dataset(root), out, size=32, encoder=FakeEncoder(), items_per_shard=2, batch_size=4
    )
    return hashes(out)


def test_two_processes_make_the_bytes_of_one(
    root: Path, alone: dict[str, str], tmp_path: Path
) -> None:
    children = [start(root, tmp_path / "out", rank=rank, world=2) for rank in (1, 0)]
    for child in children:
        ended_well(child)
    assert hashes(tmp_path / "out") == alone


def test_a_killed_run_resumes_with_another_number_of_ranks(
    root: Path, alone: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first, second = (start(root, out, rank=r, world=2, stall=6 * r - 1) for r in (0, 1))
    second.wait_for("here\n")  # in the middle of its second shard
    second.kill()
    second.wait()
    while not (out / "train-000004.tar").exists():  # rank 0 has done its own and waits
        assert first.poll() is None
        time.sleep(0.05)
    first.kill()
    first.wait()
    assert not (out / "dataset.json").exists()
    children = [start(root, out, rank=rank, world=3) for rank in range(3)]
    for child in children:
        ended_well(child)
    assert hashes(out) == alone


def test_decoder_processes_make_the_same_bytes_and_die_with_their_parent(
    root: Path, alone: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    child = start(root, out, workers=2, stall=6)
    child.wait_for("here\n")
    decoders = children_of(child.pid)
    assert len(decoders) >= 2
    child.kill()
    child.wait()
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in decoders):
        assert time.monotonic() < deadline, "decoder processes outlive their parent"
        time.sleep(0.05)
    ended_well(start(root, out, workers=2))
    assert hashes(out) == alone


def children_of(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    if not path.exists():
        pytest.skip("this system does not list a process's children")
    return [int(text) for text in path.read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_every_shard_belongs_to_one_rank(root: Path) -> None:
    plans = plan_shards(find_dataset(root), 2)
    shares = [share(plans, World(rank, 3)) for rank in range(3)]
    names = [plan.name for part in shares for plan in part]
    assert sorted(names) == sorted(plan.name for plan in plans)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_failed_rank_stops_the_others(root: Path, tmp_path: Path) -> None:
    waiting = start(root, tmp_path / "out", rank=0, world=2)
    while not (tmp_path / "out" / "prepare.json").exists():
        assert waiting.poll() is None
        time.sleep(0.05)

    class Broken(FakeEncoder):
        def encode(self, images: object, poses: object) -> dict[str, object]:  # type: ignore[override]
            raise XmdptError("the graphics card is on fire")

    with pytest.raises(XmdptError, match="on fire"):
        prepare_dataset(
            find_dataset(root), tmp_path / "out", size=32, encoder=Broken(), items_per_shard=2,
            batch_size=4, world=World(1, 2),
        )  # fmt: skip
    _, wrong = waiting.communicate(timeout=60)
    assert waiting.returncode != 0
    assert "rank 1 failed: the graphics card is on fire" in wrong


def test_a_rank_without_heartbeat_is_reported(tmp_path: Path) -> None:
    group = ProcessGroup(LocalStore(tmp_path), World(0, 2), patience=0.3)
    with pytest.raises(XmdptError, match="no heartbeat of rank 1") as error:
        group.wait(lambda: None, "train-000001.tar")
    assert "same command" in error.value.hint


def test_a_failure_of_an_earlier_run_is_ignored(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    ProcessGroup(store, World(1, 2)).beat(failure="yesterday")
    group = ProcessGroup(store, World(0, 2), patience=0.3)
    with pytest.raises(XmdptError, match="no heartbeat of rank 1"):
        group.wait(lambda: None, "a shard")


@pytest.mark.parametrize(("rank", "world"), [("2", "2"), ("-1", "2"), ("one", "2"), ("0", "0")])
def test_impossible_ranks(rank: str, world: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(ConfigError, match=f"RANK.*{rank}"):
        World.from_environment()


def test_torchrun_sets_rank_and_world_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert World.from_environment() == World(0, 1)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert World.from_environment() == World(3, 8)
