"""The settings of a training run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from xmdpt_cli.config import at_least, option
from xmdpt_cli.errors import ConfigError
from xmdpt_cli.training.config_notes import without_effect
from xmdpt_cli.training.loss_config import LossConfig, check_loss
from xmdpt_cli.training.model_config import ModelConfig
from xmdpt_cli.training.run_config import RunConfig, positive


@dataclass(frozen=True)
class TrainConfig(RunConfig, LossConfig, ModelConfig):  # the last one's fields come first
    """One training run. The defaults are the paper's recipe (sec. 4.1) for size S at 256 px, except
    ``swap_by``, ``online``, ``sampling_steps`` and ``sampling_solver``."""

    sampling_steps: int = option(20, "Default sampling steps of the model; the paper: 50.")
    sampling_solver: str = option(
        "unipc",
        "Default solver of the model; ddim: the paper.",
        choices=("ddim", "dpmpp-2m", "unipc"),
    )
    guidance: float = option(2.0, "Default guidance scale of the model (paper eq. 6).")
    power: float = option(0.01, "Default power of the guidance schedule (paper eq. 6).")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "sampling_steps", "patch")
        at_least(self, 0, "mask_span", "resolution", "decode_layers")
        if self.resolution % 16:
            raise ConfigError(
                f"resolution must be a multiple of 16, or 0 for any, not {self.resolution}"
            )
        positive(self, "power")
        if not math.isfinite(self.guidance):
            raise ConfigError(f"guidance is a number, not {self.guidance}")
        check_loss(self)
        if self.attention_flow and self.conditioning != "tokens":
            raise ConfigError(
                "attention-flow losses supervise the attention to the source's tokens, which "
                f"conditioning {self.conditioning!r} does not have",
                "--conditioning tokens, or both weights 0",
            )
        if not self.mask_ratio + self.mask_span < 1:
            raise ConfigError("mask_ratio + mask_span must stay below 1")
        if self.predictor != "none" and not self.mask_ratio > 0:
            raise ConfigError(
                f"mask_ratio {self.mask_ratio} hides nothing from predictor {self.predictor!r}",
                "--predictor none trains without the masked pass",
            )

    @property
    def needs_joints(self) -> bool:
        return bool(self.attention_flow_joints)

    @property
    def varying_shapes(self) -> bool:
        return bool(self.mask_span)

    @property
    def fixed_length(self) -> bool:
        return super().fixed_length or bool(self.repa_weight and self.repa_until < 1)

    @property
    def least_micro_batch(self) -> int:
        return 2 if self.contrastive_weight else 1

    def doubts(self, start: str = "its random initial values") -> list[str]:
        """See ``RunConfig``."""
        return [*super().doubts(start), *without_effect(self)]

    @property
    def default_guidance(self) -> float:
        """The guidance scale that the model samples with: 1 if training already included it."""
        return 1.0 if self.model_guidance else self.guidance
