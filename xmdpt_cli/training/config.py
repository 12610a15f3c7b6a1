"""The settings of a training run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from xmdpt_cli.config import at_least, option
from xmdpt_cli.errors import ConfigError
from xmdpt_cli.training.config_notes import without_effect
from xmdpt_cli.training.loss_config import LossConfig, check_loss
from xmdpt_cli.training.run_config import RunConfig, positive

#: the keys of ``model.SIZES``, for help and checks that load no torch
SIZE_NAMES = ("tiny", "mini", "S", "B", "L", "XL")
_GUIDANCE = 2.0


@dataclass(frozen=True)
class ModelConfig:
    """The model."""

    size: str = option("S", "Size of the model.", choices=SIZE_NAMES)
    patch: int = option(2, "Side of a token in latents; 2: the paper.")
    resolution: int = option(0, "Image side that the dataset must have, in pixels; 0: any.")
    source_encoder: str = option(
        "", "Encoder that the dataset's source tokens must come from, e.g. dinov2-giant (Table 2c)."
    )
    pose_encoder: str = option(
        "", "Encoder that the dataset's pose tokens must come from, e.g. dinov2-base (Table 2c)."
    )
    conditioning: str = option(
        "vector",
        "Form of the conditions; vector: the paper's single vector, tokens: our extension.",
        choices=("vector", "tokens"),
    )
    condition_parts: str = option(
        "local+global+pose",
        "Parts of the condition vector, joined by +: local (vL), global (vG), pose (vP); Table 2e.",
    )
    aggregation: str = option(
        "add",
        "How the parts of the condition vector are combined; add: published (Table 2e).",
        choices=("add", "mlp", "concat"),
    )
    predictor: str = option(
        "self-cross",
        "Predictor of masked tokens; self-cross: MIPNet, self: MDT (Table 2a, d).",
        choices=("none", "self", "cross", "cross-self", "self-cross"),
    )
    mask_ratio: float = option(0.3, "Share of tokens masked in the masked pass (Table 2b).")
    mask_span: float = option(
        0.0, "Width of the range from which each step samples its mask ratio (MDTv2: 0.2)."
    )
    backbone: str = option(
        "plain",
        "Transformer backbone; plain: published, mdtv2: with long skip connections.",
        choices=("plain", "mdtv2"),
    )
    decode_layers: int = option(
        0, "Number of blocks after the predictor; 0: 2, for mdtv2 6 (S) or 4."
    )
    positions: str = option(
        "bias",
        "Positions in attention; bias: published, a learned bias by offset, rope: rotary.",
        choices=("bias", "rope"),
    )
    qk_norm: bool = option(False, "Normalise queries and keys in attention (RMSNorm).")


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
    guidance: float = option(_GUIDANCE, "Default guidance scale of the model (paper eq. 6).")
    power: float = option(0.01, "Default power of the guidance schedule (paper eq. 6).")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "sampling_steps", "patch")
        at_least(self, 0, "mask_span", "resolution", "decode_layers")
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
        found = [*super().doubts(start), *without_effect(self)]
        if self.model_guidance and self.guidance not in (1.0, _GUIDANCE):
            found.append(
                f"--guidance {self.guidance:g} is not used: with --model-guidance the model "
                "samples with guidance 1"
            )
        return found

    @property
    def default_guidance(self) -> float:
        """The guidance scale that the model samples with: 1 if training already included it."""
        return 1.0 if self.model_guidance else self.guidance
