"""The estimates of a dry run against a real run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from small_data import CONFIG

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.diffusion import Schedule
from xmdpt_cli.training import estimate, footprint
from xmdpt_cli.training.build_model import build_model
from xmdpt_cli.training.estimate import Estimate, estimate_training
from xmdpt_cli.training.footprint import (
    COUNTED,
    MEASURED,
    PEAK,
    Cost,
    ReadyStep,
    parameter_bytes,
)
from xmdpt_cli.training.loop import train
from xmdpt_cli.training.made_up_inputs import made_up_inputs
from xmdpt_cli.training.optimizer import make_optimizers, state_bytes
from xmdpt_cli.training.step import TrainStep, step_inputs
from xmdpt_cli.training.task import TrainTask
from xmdpt_cli.training.trainer import Trainer

CPU = torch.device("cpu")


def estimated(data: Path, out: Path, **changed: object) -> Estimate:
    config = dataclasses.replace(CONFIG, **changed)  # type: ignore[arg-type]
    return estimate_training(TrainTask(config, PairDataset(data, "train")), out, CPU)


class GivenCost:
    """Replaces ``Cost``, which counts the operations of the model."""

    flops = 10**9

    def __init__(self, *_: object) -> None: ...

    def activations(self, count: int) -> int:
        return 1000 * count


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No step is run and measured, except in tests that need it."""
    monkeypatch.setattr(estimate, "Cost", GivenCost)
    monkeypatch.setattr(footprint, "LONG", 0.0)
    monkeypatch.setattr(footprint, "matmul_rate", lambda device, dtype: 1e9)


@pytest.mark.parametrize("optimizer", ["adamw", "adan", "muon"])
def test_estimated_optimizer_state_equals_that_of_a_step(data: Path, optimizer: str) -> None:
    config = dataclasses.replace(CONFIG, optimizer=optimizer)
    model = build_model(config, PairDataset(data, "train"))
    optimizers = make_optimizers(model, config)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    for one in optimizers:
        one.step()
    states = [value for one in optimizers for s in one.state.values() for value in s.values()]
    held = sum(4 * v.numel() for v in states if isinstance(v, torch.Tensor) and v.dim())
    assert state_bytes(model, config) == pytest.approx(held, rel=1e-3)


def test_estimated_memory_and_disk_equal_the_run(data: Path, tmp_path: Path) -> None:
    found = estimated(data, tmp_path / "run", keep_checkpoints=2)
    done = train(CONFIG, data, tmp_path / "run")
    weights = (done.model / "model.safetensors").stat().st_size
    for name in ("weights", "gradients", "average"):
        assert found.memory[name] == pytest.approx(weights, rel=0.02)
    newest = sorted((tmp_path / "run/checkpoints").glob("step_*"))[-1]
    size = sum(file.stat().st_size for file in newest.iterdir())
    assert found.checkpoint == pytest.approx(size, rel=0.02)
    assert found.disk == 3 * found.checkpoint + found.memory["weights"]
    assert estimated(data, tmp_path / "no", keep_every=2).disk == found.disk + 3 * found.checkpoint


def test_estimated_inputs_have_the_shapes_of_a_batch(data: Path) -> None:
    """With all optional inputs: other shapes would give the estimate of another step."""
    config = dataclasses.replace(
        CONFIG, conditioning="tokens", repa_weight=0.5, repa_layer=1,
        attention_flow_joints=1.0,
    )  # fmt: skip
    dataset = PairDataset(data, "train")
    trainer = Trainer(TrainTask(config, dataset))
    real = step_inputs(trainer.loader().batch(0), config, 0, 1.0, CPU)
    made = made_up_inputs(config, dataset, trainer.model, config.batch_size, CPU)
    for name, a, b in zip(real._fields, real, made, strict=True):
        for x, y in zip(*((v if isinstance(v, tuple) else (v,)) for v in (a, b)), strict=True):
            assert (x.shape, x.dtype) == (y.shape, y.dtype), name


def test_estimated_memory_depends_on_the_pairs_per_step(data: Path, tmp_path: Path) -> None:
    found = [
        estimated(data, tmp_path, **changed).memory["activations"]
        for changed in ({}, {"batch_size": 8}, {"accumulate": 2})
    ]
    assert found == [4000, 8000, 2000]


def test_estimated_activations_equal_those_of_a_step(data: Path) -> None:
    dataset = PairDataset(data, "train")
    model = build_model(CONFIG, dataset)
    step, kept = TrainStep(model, CONFIG, Schedule()), {}

    def loss(module: torch.nn.Module, count: int) -> torch.Tensor:
        return module(made_up_inputs(CONFIG, dataset, model, count, CPU)).total  # type: ignore[no-any-return]

    cost = Cost(step, loss)
    four = cost.activations(4)
    assert four < cost.activations(8) <= 2 * four
    own = {p.untyped_storage().data_ptr() for p in model.state_dict().values()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        total = step(made_up_inputs(CONFIG, dataset, model, 4, CPU)).total
    assert total.isfinite()
    # kernels of other libraries keep other copies than the counted ones
    assert four == pytest.approx(PEAK * sum(kept.values()), rel=0.25)


def test_fast_steps_are_measured(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = estimated(data, tmp_path)
    assert counted.how == COUNTED
    assert counted.seconds == pytest.approx(6 * counted.step_seconds)  # type: ignore[operator]
    monkeypatch.setattr(footprint, "LONG", 60.0)
    monkeypatch.setattr(footprint, "step_seconds", lambda step, device: step() or 0.25)
    measured = estimated(data, tmp_path)
    assert (measured.how, measured.step_seconds) == (MEASURED, 0.25 + 0.25)
    monkeypatch.setattr(footprint, "step_seconds", lambda step, device: None)  # out of memory
    assert estimated(data, tmp_path).how == COUNTED


def test_the_update_is_counted_once_for_a_batch_of_any_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A step of 32 examples, measured on 4: eight times the gradients, and one update."""
    monkeypatch.setattr(footprint, "LONG", 4.0)
    monkeypatch.setattr(footprint, "matmul_rate", lambda device, dtype: 2e9)
    monkeypatch.setattr(footprint, "step_seconds", lambda part, device: part())
    found = footprint.step_time(
        10**9, 32, 32, CPU, False, lambda count: ReadyStep(lambda: count / 10, lambda: 20.0)
    )
    assert found == (pytest.approx(3.2 + 20.0), MEASURED)


def test_estimated_time_counts_remaining_steps(data: Path, tmp_path: Path) -> None:
    train(dataclasses.replace(CONFIG, steps=2), data, tmp_path / "run")
    assert estimated(data, tmp_path / "run").steps == 4
    assert estimated(data, tmp_path / "new").steps == 6
    assert estimated(data, tmp_path / "new", batch_size=0).seconds is None


def test_sharded_processes_share_the_state(data: Path, tmp_path: Path) -> None:
    def of(world: int, sharded: bool) -> Estimate:
        dataset = PairDataset(data, "train")
        return estimate_training(TrainTask(CONFIG, dataset), tmp_path, CPU, world, sharded)

    alone, two, fsdp = of(1, False), of(2, False), of(2, True)
    assert two.memory["weights"] == alone.memory["weights"]
    assert two.memory["activations"] < alone.memory["activations"]
    assert fsdp.memory["optimizer"] == alone.memory["optimizer"] // 2
    assert fsdp.checkpoint == alone.checkpoint
    assert parameter_bytes([torch.zeros(3)]) == 12
