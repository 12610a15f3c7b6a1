"""What is said about settings before a training starts."""

from __future__ import annotations

from typing import Any

import pytest

from xmdpt_cli.config import resolve
from xmdpt_cli.training.config import TrainConfig
from xmdpt_cli.training.config_notes import departures, without_effect


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"repa_norm": "spatial"}, "repa_norm has no effect: repa_weight is 0"),
        (
            {"repa_layer": 2, "repa_until": 0.4},
            "repa_layer, repa_until have no effect: repa_weight is 0",
        ),
        ({"logit_mean": 1.0}, "logit_mean has no effect: timestep_sampling is power"),
        (
            {"timestep_sampling": "logit-normal", "timestep_power": 0.5},
            "timestep_power has no effect: timestep_sampling is logit-normal",
        ),
        (
            {"conditioning": "tokens", "attention_flow_layers": 1},
            "attention_flow_layers has no effect: attention_flow_weight is 0",
        ),
        (
            {"predictor": "none", "mask_ratio": 0.5},
            "mask_ratio has no effect: predictor is none",
        ),
    ],
)
def test_settings_that_another_one_switches_off_are_named(
    settings: dict[str, Any], message: str
) -> None:
    config = TrainConfig(**settings)
    assert without_effect(config) == [message]
    assert message in config.doubts()


@pytest.mark.parametrize(
    "settings",
    [
        {"repa_weight": 0.5, "repa_norm": "spatial", "repa_layer": 2},
        {"timestep_sampling": "logit-normal", "logit_mean": 1.0, "logit_std": 2.0},
        {"conditioning": "tokens", "attention_flow_joints": 1.0, "attention_flow_layers": 1},
        {"mask_ratio": 0.5, "timestep_power": 0.5, "guidance": 1.25},
    ],
)
def test_settings_that_have_an_effect_are_not_named(settings: dict[str, Any]) -> None:
    assert without_effect(TrainConfig(**settings)) == []


def test_a_recipe_names_what_departs_from_the_paper() -> None:
    assert departures(resolve(TrainConfig, "train", {}, preset="paper/B-512")) == []
    assert departures(resolve(TrainConfig, "train", {}, preset="fast/tokens-256")) == [
        "conditioning tokens (our extension)",
        "predictor none",
        "positions rope",
        "qk_norm",
        "prediction v",
        "timestep_power 0.5",
        "optimizer muon",
    ]
