"""Several ranks train like one process; their tasks are in helpers/distributed_tasks.py."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import distributed_tasks as tasks
import pytest
import torch
from distributed_tasks import BATCH, STEPS, Run
from forked import run_ranks, start_ranks
from safetensors.torch import load_file

from xmdpt_cli.errors import ConfigError
from xmdpt_cli.training.distributed import Distributed
from xmdpt_cli.training.parallel import parallelize

FILES = ("model", "ema", "optimizer")


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    found = {name: load_file(checkpoint / f"{name}.safetensors") for name in FILES}
    return {f"{name}/{key}": value for name in FILES for key, value in found[name].items()}


def same(a: Path, b: Path) -> bool:
    ours, theirs = tensors(a), tensors(b)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def newest(folder: Path) -> Path:
    return sorted(folder.glob("step_*"))[-1]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[float], Path]:
    """The losses and the checkpoint of one process with the full batch."""
    run = Run(Distributed(), micro=1)
    losses = [run.step() for _ in range(STEPS)]
    return losses, run.save(tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    run_ranks(2, tasks.train, folder)
    return folder


def test_a_single_process_is_not_distributed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    dist = Distributed.init("cpu", "fsdp")
    assert (dist.rank, dist.world_size, dist.is_main) == (0, 1, True)
    net = torch.nn.Linear(2, 2)
    assert parallelize(net, dist) is net
    assert not torch.distributed.is_initialized()


def test_ranks_without_torchrun_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    names = ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="LOCAL_RANK, MASTER_ADDR, MASTER_PORT missing"):
        Distributed.init("cpu")
    count = torch.cuda.device_count()
    for name, value in zip(names, (count, "127.0.0.1", 29500), strict=True):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("RANK", str(count))
    monkeypatch.setenv("WORLD_SIZE", str(count + 2))
    with pytest.raises(ConfigError, match="GPUs"):
        Distributed.init("cuda")


def test_batches_are_split_evenly_or_refused() -> None:
    assert Distributed(rank=1, world_size=2).split_batch(12, accumulate=3) == 2
    with pytest.raises(
        ConfigError, match=r"a batch of 7 cannot be cut into 2 processes$"
    ) as caught:
        Distributed(world_size=2).split_batch(7)
    assert "that 2 divides, e.g. 8" in caught.value.hint


@pytest.mark.parametrize("micro", [2, 4])
def test_accumulation_equals_the_large_batch(alone: tuple[list[float], Path], micro: int) -> None:
    run = Run(Distributed(), micro)
    assert BATCH % micro == 0
    assert [run.step() for _ in range(STEPS)] == pytest.approx(alone[0], rel=1e-5)


@pytest.mark.parametrize("name", ["ddp-1", "ddp-2", "fsdp-1", "fsdp-2"])
def test_two_processes_equal_one(alone: tuple[list[float], Path], two: Path, name: str) -> None:
    for rank in (0, 1):
        seen = json.loads((two / f"{rank}.json").read_text())
        assert seen[name] == pytest.approx(alone[0], rel=1e-5)
    ours, theirs = tensors(newest(two / name)), tensors(alone[1])
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key], atol=1e-5, rtol=1e-4)


def test_each_rank_holds_its_shard(two: Path) -> None:
    parts = [json.loads((two / f"{rank}.json").read_text())["parts"] for rank in (0, 1)]
    assert parts == [[4, 7], [3, 7]]


def test_checkpoints_of_ddp_and_fsdp_are_interchangeable(two: Path) -> None:
    assert same(newest(two / "ddp-from-fsdp"), newest(two / "fsdp-1"))
    assert same(newest(two / "fsdp-from-ddp"), newest(two / "ddp-1"))


def test_one_process_resumes_two_sharded_processes(
    alone: tuple[list[float], Path], two: Path, tmp_path: Path
) -> None:
    run, before = Run(Distributed(), 1), Run(Distributed(), 1)
    run.load(newest(two / "fsdp-1"))
    assert same(run.save(tmp_path), newest(two / "fsdp-1"))
    before.load(alone[1])
    curves: list[Any] = [[r.step() for _ in range(STEPS)] for r in (run, before)]
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)


def test_all_ranks_get_the_same_error(two: Path) -> None:
    for rank in (0, 1):
        seen = json.loads((two / f"{rank}.json").read_text())
        assert seen["any"] == [True, False]
        assert seen["sum"] == 11
        assert seen["mean"] == [0.5, 5.0]
        assert seen["done"] == 0
        assert seen["refused"] == ["no", "try yes"]


def test_three_ranks_resume_to_the_bit(tmp_path: Path) -> None:
    """With three the order in which gradients are added matters; it must not change."""
    run_ranks(3, tasks.resume, tmp_path)
    for sharding in ("ddp", "fsdp"):
        assert same(newest(tmp_path / sharding), newest(tmp_path / f"{sharding}-again"))


def test_no_gloo_thread_outlives_the_process_group(tmp_path: Path) -> None:
    """A thread that frees a tensor while Python exits aborts the process. Started by torchrun."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*launcher, "--nproc-per-node", "2", tasks.__file__, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["gone", "gone"]


@pytest.mark.parametrize(
    ("how", "word"),
    [(signal.SIGKILL, "closed|reset"), (signal.SIGSTOP, "Timed out waiting 6000ms")],
)
def test_a_lost_rank_stops_the_others_with_an_error(
    tmp_path: Path, how: signal.Signals, word: str
) -> None:
    """Killed or stopped; without torchrun, which would end the others itself."""
    ranks = start_ranks(2, tasks.lose, tmp_path)
    try:
        deadline = time.monotonic() + 120
        while len(list(tmp_path.glob("*.ready"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        ranks[1].send_signal(how)
        assert ranks[0].wait(timeout=60) == 1
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    message, hint = json.loads((tmp_path / "said.json").read_text())
    assert message.startswith("rank 0 of 2 lost another process")
    assert re.search(word, message), message
    assert "the same command resumes" in hint
