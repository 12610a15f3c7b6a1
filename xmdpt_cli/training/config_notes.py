"""What a user should know about the settings of a training run before it starts."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from xmdpt_cli.config import differing
from xmdpt_cli.training.loss_config import LossConfig
from xmdpt_cli.training.model_config import ModelConfig

if TYPE_CHECKING:
    from xmdpt_cli.training.config import TrainConfig

#: settings of ``ModelConfig`` that leave the paper's model as it is
_OF_THE_PAPER = {"size", "resolution", "source_encoder", "pose_encoder"}


def without_effect(config: TrainConfig) -> list[str]:
    """A message for each group of settings that were changed, but that another setting switches
    off: ``repa_norm has no effect: repa_weight is 0``."""
    groups = (
        (not config.repa_weight, "repa_weight", "repa_layer repa_projector repa_norm repa_until"),
        (not config.attention_flow, "attention_flow_weight", "attention_flow_layers"),
        (config.timestep_sampling == "power", "timestep_sampling", "logit_mean logit_std"),
        (config.timestep_sampling != "power", "timestep_sampling", "timestep_power"),
        (config.predictor == "none", "predictor", "mask_ratio mask_span masked_noise"),
        # trained with it, the model samples with guidance 1
        (config.guidance != 1 and config.model_guidance > 0, "model_guidance", "guidance"),
    )
    changed = differing(config)
    found = []
    for off, cause, names in groups:
        unused = [name for name in names.split() if name in changed]
        if off and unused:
            have = "has" if len(unused) == 1 else "have"
            value = getattr(config, cause)
            shown = value if isinstance(value, str) else f"{value:g}"
            found.append(f"{', '.join(unused)} {have} no effect: {cause} is {shown}")
    return found


def departures(config: TrainConfig) -> list[str]:
    """The settings of model, loss and optimizer that are not the paper's (sec. 4.1), with their
    values: ``prediction v``. The size, the dataset's encoders and the learning rate do not count.
    """
    fields = (*dataclasses.fields(LossConfig), *dataclasses.fields(ModelConfig))
    names = {"optimizer", *(field.name for field in fields)} - _OF_THE_PAPER
    found = []
    for name, (value, _) in differing(config).items():
        if name in names:
            found.append(name if value is True else f"{name} {value}")
    return [f"{one} (our extension)" if one == "conditioning tokens" else one for one in found]
