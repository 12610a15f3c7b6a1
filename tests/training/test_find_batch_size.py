"""Running out of memory: the largest batch that fits is found, and named in the error."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from small_data import CONFIG

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.errors import ConfigError, XmdptError, is_out_of_memory
from xmdpt_cli.training import loop
from xmdpt_cli.training.find_batch_size import (
    MAX_BATCH,
    batch_too_large,
    find_batch_size,
    largest_batch,
    largest_that_fits,
    repeat_rows,
)
from xmdpt_cli.training.loop import train
from xmdpt_cli.training.run_folder import read_run
from xmdpt_cli.training.step import TrainStep, step_inputs
from xmdpt_cli.training.task import TrainTask
from xmdpt_cli.training.trainer import Trainer


@pytest.fixture
def three_fit(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A device with memory for three pairs; returns the batch sizes that were tried."""
    tried: list[int] = []
    real = TrainStep.forward

    def forward(self: TrainStep, inputs: Any) -> Any:
        tried.append(len(inputs.target))
        if len(inputs.target) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(self, inputs)

    monkeypatch.setattr(TrainStep, "forward", forward)
    monkeypatch.setattr(gc, "collect", lambda: 0)  # slow, and not needed here
    return tried


def test_inputs_of_any_size_are_built_from_one_batch(data: Path) -> None:
    trainer = Trainer(
        TrainTask(dataclasses.replace(CONFIG, conditioning="tokens"), PairDataset(data))
    )
    inputs = step_inputs(trainer.loader().batch(0), trainer.config, 0, 1.0, trainer.device)
    large = repeat_rows(inputs, 10)
    assert large.mask is not None
    assert large.pose_maps is not None
    assert len(large.target) == len(large.mask.ids_keep) == len(large.pose_maps[1]) == 10
    assert torch.equal(large.source_tokens[4:8], inputs.source_tokens)
    assert large.repa_weight is not None
    assert large.repa_weight.shape == ()
    assert bool(trainer.module(large).total.isfinite())


def test_the_largest_batch_is_found(data: Path, three_fit: list[int]) -> None:
    trainer = Trainer(TrainTask(CONFIG, PairDataset(data)))
    assert largest_that_fits(trainer, 64) == 3
    assert max(three_fit) == 64
    assert 4 in three_fit


def test_a_batch_that_does_not_fit_is_refused_with_one_that_does(
    data: Path, tmp_path: Path, three_fit: list[int]
) -> None:
    config = dataclasses.replace(CONFIG, batch_size=12)
    with pytest.raises(XmdptError, match="the largest that fits is 3") as caught:
        train(config, data, tmp_path / "run")
    assert "--batch-size 12 --accumulate 4" in caught.value.hint
    train(dataclasses.replace(config, accumulate=4), data, tmp_path / "run")


def test_auto_uses_the_largest_fitting_batch_and_records_it(
    data: Path, tmp_path: Path, three_fit: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, dataset = dataclasses.replace(CONFIG, batch_size=0, steps=2), PairDataset(data)
    with pytest.raises(ConfigError, match="auto"):
        train(config, data, tmp_path / "cpu")
    assert not (tmp_path / "cpu").exists()

    def on_cpu(task: TrainTask, device: Any) -> int:
        return largest_that_fits(Trainer(task.replace(batch_size=1)), MAX_BATCH)

    monkeypatch.setattr(loop, "find_batch_size", on_cpu)
    train(config, data, tmp_path / "run")
    started = read_run(tmp_path / "run")
    assert started is not None
    assert started["config"]["batch_size"] == 3
    monkeypatch.setattr(loop, "find_batch_size", None)  # resuming tries nothing
    train(dataclasses.replace(config, steps=4), data, tmp_path / "run")
    assert max(three_fit) == MAX_BATCH
    with pytest.raises(ConfigError):
        find_batch_size(TrainTask(config, dataset), torch.device("cpu"))


class Machine:
    """Has memory for ``room`` pairs; ``held`` are the tensors its steps made."""

    def __init__(
        self, room: int, kind: type[Exception] = torch.OutOfMemoryError, text: str = "CUDA ..."
    ) -> None:
        self.room, self.kind, self.text = room, kind, text
        self.tried: list[int] = []
        self.held: list[weakref.ref[torch.Tensor]] = []

    def step(self, size: int) -> None:
        assert all(ref() is None for ref in self.held), "an earlier try still holds memory"
        tensor = torch.zeros(4)
        self.held.append(weakref.ref(tensor))
        self.tried.append(size)
        if size > self.room:
            raise self.kind(self.text)


@pytest.mark.parametrize("start", [1, 2, 7, 24, 25, 64, 1000])
def test_the_largest_batch_that_fits(start: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gc, "collect", lambda: 0)  # slow, and there are no reference cycles here
    for room in {1, 2, 3, 23, 24, 25, start - 1, start, start + 5} - {0}:
        machine = Machine(room)
        assert largest_batch(machine.step, start) == min(room, start)
        assert machine.tried[0] == start
        assert max(machine.tried) == start
        assert len(machine.tried) == len(set(machine.tried)) <= 2 * start.bit_length() + 1


def test_a_fitting_batch_is_tried_once() -> None:
    machine = Machine(64)
    assert largest_batch(machine.step, 64) == 64
    assert machine.tried == [64]
    machine = Machine(24)
    largest_batch(machine.step, 64)
    assert machine.tried[:3] == [64, 32, 16]  # halves first: small tries are cheap


def test_no_fitting_batch_and_other_errors() -> None:
    with pytest.raises(XmdptError, match="not even one pair fits"):
        largest_batch(Machine(0).step, 8)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        largest_batch(Machine(3, RuntimeError, "shapes cannot be multiplied").step, 8)
    with pytest.raises(ValueError, match="at least 1"):
        largest_batch(Machine(3).step, 0)


def test_what_counts_as_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60, dtype=torch.uint8)  # the message of the CPU allocator
    assert is_out_of_memory(error.value)
    assert largest_batch(Machine(5, RuntimeError, str(error.value)).step, 8) == 5
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("expected a tensor"))
    assert not is_out_of_memory(KeyError("out of memory"))


def test_the_error_of_a_batch_that_does_not_fit_names_one_that_does() -> None:
    error = batch_too_large(64, 24, torch.device("cpu"))
    assert "batch of 64 does not fit in" in error.message
    assert "largest that fits is 24" in error.message
    # parts must be equal: 64 = 4 * 16
    assert "--batch-size 64 --accumulate 4 " in error.hint
    assert "or --batch-size 24" in error.hint
    shared = batch_too_large(64, 24, torch.device("cpu"), world=2)
    assert "batch of 32 of each process" in shared.message
    assert "--batch-size 64 --accumulate 2 " in shared.hint
    assert "or --batch-size 48" in shared.hint
