"""``xmdpt train`` under torchrun: equal to one process, resumed after a kill, named errors."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from distributed_tasks import fit
from forked import Forked, run_ranks, start_ranks, xmdpt
from safetensors.torch import load_file
from small_data import CONFIG, logged
from small_teacher import SHORT, make_teacher
from test_distributed import newest, same, tensors

from xmdpt_cli.cli.app import run
from xmdpt_cli.config import dump
from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.data.loader import TrainLoader
from xmdpt_cli.data.sampler import LoaderConfig
from xmdpt_cli.distillation.distill import distill
from xmdpt_cli.errors import ConfigError, SharedError
from xmdpt_cli.model import XMDPT
from xmdpt_cli.training.loop import train

STEPS = 12
RECIPE = dataclasses.replace(CONFIG, steps=STEPS, checkpoint_every=STEPS // 2, keep_checkpoints=1)
RECIPES = {
    "ddp": {"sharding": "ddp"},
    "fsdp": {"sharding": "fsdp"},
    "adan": {"sharding": "fsdp", "accumulate": 2, "optimizer": "adan", "steps": STEPS // 2},
    "half": {"sharding": "ddp", "accumulate": 2, "steps": STEPS // 2},
}


@pytest.fixture(scope="module")
def folder(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset in data/, and the runs of two processes with every recipe."""
    root = tmp_path_factory.mktemp("distributed")
    (root / "data").symlink_to(data)
    recipes = {
        name: dataclasses.asdict(dataclasses.replace(RECIPE, **changes))
        for name, changes in RECIPES.items()
    }
    (root / "recipes.json").write_text(json.dumps(recipes))
    make_teacher(root / "teacher", data)
    run_ranks(2, fit, root)
    return root


@pytest.fixture(scope="module")
def alone(folder: Path) -> Callable[[str], Path]:
    """The run of one process with the full batch, by optimizer."""

    def run(optimizer: str) -> Path:
        out = folder / f"alone-{optimizer}"
        if not out.exists():
            steps = STEPS // 2 if optimizer == "adan" else STEPS
            config = dataclasses.replace(RECIPE, optimizer=optimizer, steps=steps)
            train(config, folder / "data", out)
        return out

    return run


def curve(run: Path) -> list[tuple[float, ...]]:
    terms = ("loss", "mse", "vb", "masked_mse", "masked_vb")
    return [tuple(row[term] for term in terms) for row in logged(run)]


def close(ours: Path, theirs: Path, steps: int = STEPS) -> None:
    """Loss curves within 1e-4, weights and EMA equal up to rounding."""
    assert len(curve(ours)) == len(curve(theirs)) == steps
    for a, b in zip(curve(ours), curve(theirs), strict=True):
        assert a == pytest.approx(b, abs=1e-4, rel=1e-4)
    found, expected = (tensors(newest(run / "checkpoints")) for run in (ours, theirs))
    assert found.keys() == expected.keys()
    for key, value in found.items():
        if key.startswith(("model/", "ema/")):
            assert float((value - expected[key]).abs().max()) < 1e-3, key


@pytest.mark.parametrize("name", ["ddp", "fsdp", "adan"])
def test_two_processes_train_like_one(
    folder: Path, alone: Callable[[str], Path], name: str
) -> None:
    optimizer = "adan" if name == "adan" else "adamw"
    close(folder / name, alone(optimizer), RECIPES[name].get("steps", STEPS))


def test_two_processes_distil_like_one(folder: Path) -> None:
    """Under FSDP2 the teacher is sharded, too."""
    config = dataclasses.replace(SHORT, max_grad_norm=0.0)
    distill(config, folder / "teacher", folder / "data", folder / "distill-alone")
    expected = tensors(newest(folder / "distill-alone/checkpoints"))
    for sharding in ("ddp", "fsdp"):
        run = folder / f"distill-{sharding}"
        found = tensors(newest(run / "checkpoints"))
        assert found.keys() == expected.keys()
        for key, value in found.items():
            if key.startswith(("model/", "ema/")):
                assert float((value - expected[key]).abs().max()) < 1e-4, (sharding, key)
        losses, others = (
            [row["loss"] for row in logged(path)] for path in (run, folder / "distill-alone")
        )
        assert losses == pytest.approx(others, rel=1e-4)


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulation_equals_the_large_batch(
    folder: Path, alone: Callable[[str], Path], tmp_path: Path, accumulate: int
) -> None:
    train(dataclasses.replace(RECIPE, accumulate=accumulate), folder / "data", tmp_path / "run")
    close(tmp_path / "run", alone("adamw"))


@pytest.mark.parametrize("name", ["ddp", "half"])
def test_ranks_read_disjoint_samples(folder: Path, name: str) -> None:
    ranks = [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in (0, 1)]
    order = [pair for parts in zip(*ranks, strict=True) for part in parts for pair in part]
    dataset = PairDataset(folder / "data")
    loader = TrainLoader(dataset, LoaderConfig(RECIPE.batch_size, RECIPE.seed))
    steps = range(len(order) // RECIPE.batch_size)
    assert order == [pair for step in steps for pair in loader.batch(step).pairs]
    # an epoch holds every pair once (in either direction): no rank repeats another's
    epoch, pairs = order[: len(dataset)], [pair.name() for pair in dataset.pairs]
    assert Counter(map(undirected, epoch)) == Counter(map(undirected, pairs))
    assert ranks[0] != ranks[1]


def undirected(pair: str) -> tuple[str, ...]:
    """``item/source>target``, swapped or not."""
    item, _, views = pair.rpartition("/")
    return (item, *sorted(views.split(">")))


def test_one_process_resumes_a_run_of_two(
    folder: Path, alone: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(folder / "half", tmp_path / "run")
    assert newest(tmp_path / "run/checkpoints").name == f"step_{STEPS // 2:07d}"
    train(RECIPE, folder / "data", tmp_path / "run")
    close(tmp_path / "run", alone("adamw"))


def test_a_sharded_model_is_exported_completely(folder: Path) -> None:
    model = XMDPT.from_pretrained(str(folder / "fsdp/model"))
    ema = load_file(newest(folder / "fsdp/checkpoints") / "ema.safetensors")
    assert {k: v.shape for k, v in model.state_dict().items()} == {
        k: v.shape for k, v in ema.items()
    }
    assert all(torch.equal(value, ema[key]) for key, value in model.state_dict().items())


def test_a_batch_size_not_divisible_by_the_ranks_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"4 cannot be cut into 1 processes x 3") as caught:
        train(dataclasses.replace(RECIPE, accumulate=3), folder / "data", tmp_path / "run")
    assert "e.g. 6" in caught.value.hint


def wait_for_step(
    run: Path, step: int, process: Forked | subprocess.Popen[str], began: float
) -> None:
    """Wait until this process (not an earlier one) has logged the step and a part of the next."""
    deadline = time.monotonic() + 180
    log = run / "metrics.jsonl"
    while time.monotonic() < deadline and process.poll() is None:
        written = log.is_file() and log.stat().st_mtime > began
        if written and len(log.read_text().splitlines()) >= step:
            break
        time.sleep(0.01)
    time.sleep(random.random() / 10)  # a step takes about this long: the run must not end first


def test_a_killed_run_resumes_to_the_same_result(folder: Path, tmp_path: Path) -> None:
    """Killed, then interrupted under torchrun; the same command each time, to the bit."""
    config, run = dataclasses.replace(RECIPE, checkpoint_every=3, sharding="ddp"), tmp_path / "run"
    (tmp_path / "recipe.toml").write_text(dump("train", config))
    words = ["train", "--device", "cpu", "--data", str(folder / "data")]
    words += ["--config", str(tmp_path / "recipe.toml"), "--out", str(run)]

    began, ranks = time.time(), start_ranks(2, xmdpt, *words)
    wait_for_step(run, 3, ranks[0], began)
    for rank in ranks:  # stopped first: a rank that outlives another by a moment ends by itself
        rank.send_signal(signal.SIGSTOP)
    for rank in ranks:
        rank.kill()
        assert rank.wait() == -signal.SIGKILL, rank.stderr
    assert not (run / "model").exists()

    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launcher += ["--nproc-per-node", "2", "-m", "xmdpt_cli"]
    began, process = time.time(), subprocess.Popen([*launcher, *words], stderr=subprocess.DEVNULL)
    wait_for_step(run, 5, process, began)
    process.send_signal(signal.SIGINT)  # torchrun forwards it to the ranks
    assert process.wait(timeout=120) != 0
    assert not (run / "model").exists()
    done = len(logged(run))  # the ranks stopped after the same step, and saved it
    assert newest(run / "checkpoints").name == f"step_{done:07d}"

    ranks = run_ranks(2, xmdpt, *words)
    assert same(newest(run / "checkpoints"), newest(folder / "ddp/checkpoints"))
    assert curve(run) == curve(folder / "ddp")
    assert f"trained {STEPS} steps" in ranks[0].stdout
    assert ranks[0].stderr.count("training size tiny") == 1
    assert (ranks[1].stdout, ranks[1].stderr) == ("", "")


def test_only_rank_0_prints_messages(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise SharedError(ConfigError("a batch of 5 cannot be cut", "take 6"))

    monkeypatch.setattr("xmdpt_cli.training.loop.train", refused)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    words = ["train", "--data", str(folder / "data"), "--out", str(tmp_path / "run")]
    assert run([*words, "--device", "cpu"]) == 2
    assert capsys.readouterr() == ("", "")
