"""Training by flow matching, from the loss to the model that samples."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_data import CONFIG, logged

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.sampling.sampler import Sampler
from xmdpt_cli.training.config import TrainConfig
from xmdpt_cli.training.loop import train
from xmdpt_cli.training.step import step_inputs
from xmdpt_cli.training.task import TrainTask
from xmdpt_cli.training.trainer import Trainer

FLOW = dataclasses.replace(
    CONFIG, schedule="flow", prediction="flow", steps=2, validate_every=2, validation_pairs=2,
    sampling_steps=2,
)  # fmt: skip


def grey(latents: torch.Tensor) -> NDArray[np.uint8]:
    return np.full((len(latents), 32, 32, 3), 127, np.uint8)


def test_a_run_trains_logs_validates_and_samples(data: Path, tmp_path: Path) -> None:
    done = train(FLOW, data, tmp_path / "run", decode=grey)
    lines = logged(tmp_path / "run")
    assert {"mse", "masked_mse"} <= lines[0].keys()
    assert lines[0]["loss"] == pytest.approx(lines[0]["mse"] + lines[0]["masked_mse"], rel=1e-5)
    names = {name for line in lines for name in line}
    assert "val_mse_q4" in names
    assert not {name for name in names if "vb" in name}
    sampler = Sampler.load(done.model, "cpu", "fp32")
    assert (sampler.schedule.kind, sampler.schedule.prediction) == ("flow", "flow")


def test_the_loss_is_the_error_of_the_velocity(data: Path) -> None:
    run = Trainer(TrainTask(FLOW, PairDataset(data)))
    inputs = step_inputs(run.loader().batch(0), FLOW, 0, run.task.scale, run.device)
    s = (inputs.timesteps + 1.0)[:, None, None, None] / 1000
    noisy = (1 - s) * inputs.target + s * inputs.noise
    condition = run.model.condition(inputs.pose_tokens, inputs.source_tokens, inputs.source)
    out = run.model(noisy, inputs.timesteps, condition, None, inputs.keep)
    error = out[:, :4] - (inputs.noise - inputs.target)
    torch.testing.assert_close(
        run.run(inputs).mse, error.square().mean(dim=(1, 2, 3)), rtol=1e-4, atol=1e-5
    )


def test_flow_is_a_schedule_and_a_prediction() -> None:
    for half in ({"schedule": "flow"}, {"prediction": "flow"}):
        with pytest.raises(ConfigError, match="does not fit") as caught:
            TrainConfig(**half)
        assert "--schedule flow --prediction flow" in caught.value.hint


def test_a_run_of_a_version_without_these_settings_resumes(data: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, steps=1)
    train(config, data, tmp_path / "run")
    record = json.loads((tmp_path / "run/run.json").read_text())
    for name in ("timestep_sampling", "logit_mean", "logit_std"):
        del record["config"][name]
    (tmp_path / "run/run.json").write_text(json.dumps(record))
    assert train(dataclasses.replace(config, steps=2), data, tmp_path / "run").steps == 2
    other = dataclasses.replace(config, steps=3, timestep_sampling="logit-normal")
    with pytest.raises(XmdptError, match="timestep_sampling: power -> logit-normal"):
        train(other, data, tmp_path / "run")
