"""The distributions of the timesteps, against scipy's."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy.special import logit
from scipy.stats import norm
from small_data import CONFIG

from xmdpt_cli.errors import ConfigError
from xmdpt_cli.training.config import TrainConfig
from xmdpt_cli.training.timesteps import sample_timesteps

UNIFORM = (torch.arange(20_000) + 0.5) / 20_000


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.8, 0.6), (-1.0, 2.0)])
def test_logit_normal_timesteps(mean: float, std: float) -> None:
    config = dataclasses.replace(
        CONFIG, timestep_sampling="logit-normal", logit_mean=mean, logit_std=std
    )
    found = sample_timesteps(UNIFORM, config)
    for limit in (10, 100, 500, 900, 990):
        expected = norm.cdf((logit(limit / 1000) - mean) / std)
        assert float((found < limit).float().mean()) == pytest.approx(expected, abs=1e-4)
    ends = sample_timesteps(torch.tensor([0.0, np.nextafter(1, 0, dtype=np.float32)]), config)
    assert ends[0] == 0
    assert 900 < ends[1] <= 999


@pytest.mark.parametrize("power", [1.0, 0.5])
def test_power_timesteps(power: float) -> None:
    """P(t < k) = (k / 1000)^(1 / power)."""
    found = sample_timesteps(UNIFORM, dataclasses.replace(CONFIG, timestep_power=power))
    for limit in (1, 250, 999):
        expected = (limit / 1000) ** (1 / power)
        assert float((found < limit).float().mean()) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("name", "value"), [("logit_std", 0.0), ("logit_mean", float("nan"))])
def test_a_distribution_that_is_none_is_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        TrainConfig(**{name: value})
