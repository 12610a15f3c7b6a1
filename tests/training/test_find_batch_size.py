"""Memory that gives out: what fits is found by trying, and said."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from small_data import CONFIG

from xmdpt_cli.data.loader import PairDataset
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.training import find_batch_size as probe
from xmdpt_cli.training import loop
from xmdpt_cli.training.find_batch_size import automatic_batch, largest_that_fits
from xmdpt_cli.training.loop import train
from xmdpt_cli.training.run_folder import known_batch
from xmdpt_cli.training.step import TrainStep, step_inputs
from xmdpt_cli.training.trainer import Trainer


@pytest.fixture
def three_fit(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A device whose memory ends at three pairs; returns what was tried."""
    tried: list[int] = []
    real = TrainStep.forward

    def forward(self: TrainStep, inputs: Any) -> Any:
        tried.append(len(inputs.target))
        if len(inputs.target) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(self, inputs)

    monkeypatch.setattr(TrainStep, "forward", forward)
    return tried


def test_inputs_of_any_size_are_made_of_one_batch(data: Path) -> None:
    trainer = Trainer(dataclasses.replace(CONFIG, conditioning="tokens"), PairDataset(data))
    inputs = step_inputs(trainer.loader().batch(0), trainer.config, 0, 1.0, trainer.device)
    large = probe.repeated(inputs, 10)
    assert large.mask is not None
    assert large.pose_maps is not None
    assert len(large.target) == len(large.mask.kept) == len(large.pose_maps[1]) == 10
    assert torch.equal(large.source_tokens[4:8], inputs.source_tokens)
    assert bool(trainer.module(large).total.isfinite())


def test_the_largest_batch_is_found(data: Path, three_fit: list[int]) -> None:
    trainer = Trainer(CONFIG, PairDataset(data))
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


def test_auto_takes_what_fits_and_keeps_to_it(
    data: Path, tmp_path: Path, three_fit: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, dataset = dataclasses.replace(CONFIG, batch_size=0, steps=2), PairDataset(data)
    with pytest.raises(ConfigError, match="auto"):
        train(config, data, tmp_path / "cpu")
    assert not (tmp_path / "cpu").exists()

    def on_cpu(config: Any, dataset: Any, device: Any) -> int:
        alone = dataclasses.replace(config, batch_size=1)
        return largest_that_fits(Trainer(alone, dataset), probe.MOST)

    monkeypatch.setattr(loop, "automatic_batch", on_cpu)
    train(config, data, tmp_path / "run")
    assert known_batch(tmp_path / "run") == 3
    monkeypatch.setattr(loop, "automatic_batch", None)  # going on tries nothing
    train(dataclasses.replace(config, steps=4), data, tmp_path / "run")
    assert max(three_fit) == probe.MOST
    with pytest.raises(ConfigError):
        automatic_batch(config, dataset, torch.device("cpu"))
