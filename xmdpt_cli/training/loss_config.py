"""The settings of the training loss."""

from __future__ import annotations

import math
from dataclasses import dataclass

from xmdpt_cli.config import at_least, option
from xmdpt_cli.errors import ConfigError
from xmdpt_cli.training.run_config import positive, share


@dataclass(frozen=True)
class LossConfig:
    """What the model predicts, and how its error is weighted and sampled."""

    prediction: str = option(
        "epsilon",
        "Quantity that the model predicts; epsilon: the paper, flow: with schedule flow.",
        choices=("epsilon", "v", "flow"),
    )
    schedule: str = option(
        "linear",
        "Noise schedule; linear: the paper, flow: flow matching on a straight path.",
        choices=("linear", "cosine", "flow"),
    )
    loss_weighting: str = option(
        "none",
        "Weighting of the squared error by timestep; min-snr: with limit 5.",
        choices=("none", "min-snr"),
    )
    masked_noise: str = option(
        "independent",
        "Noise of the masked pass; independent of the unmasked pass: published.",
        choices=("independent", "shared"),
    )
    repa_weight: float = option(
        0.0, "Weight of the REPA loss on the target's DINOv2 tokens; 0: off, REPA: 0.5."
    )
    repa_layer: int = option(4, "Number of the block whose output the REPA loss aligns.")
    repa_projector: str = option(
        "mlp",
        "Projection of the hidden tokens for the REPA loss; mlp: REPA, conv: iREPA.",
        choices=("mlp", "conv"),
    )
    repa_norm: str = option(
        "none",
        "Normalisation of the tokens that the REPA loss aligns with; spatial: iREPA.",
        choices=("none", "spatial"),
    )
    repa_until: float = option(
        1.0, "Share of the steps after which the REPA loss is switched off (HASTE); 1: never."
    )
    attention_flow_weight: float = option(
        0.0,
        "Weight of the loss on the source warped by attention (needs --conditioning tokens); "
        "0: off, Leffa: 1e-3.",
    )
    attention_flow_joints: float = option(
        0.0,
        "Weight of the loss on where attention leads from the target's keypoints (needs "
        "--conditioning tokens); 0: off.",
    )
    attention_flow_layers: int = option(
        0,
        "Number of blocks with attention-flow losses, counted back from the predictor; 0: half.",
    )
    contrastive_weight: float = option(
        0.0,
        "Weight of the subtracted distance to another target of the micro batch; 0: off, "
        "contrastive flow matching: 0.05.",
    )
    model_guidance: float = option(
        0.0,
        "Scale w of model guidance: the model learns what guidance 1 / (1 - w) would give; 0: off.",
    )
    timestep_sampling: str = option(
        "power",
        "Distribution of the timesteps; power: T u^p, logit-normal: more in the middle (SD3).",
        choices=("power", "logit-normal"),
    )
    timestep_power: float = option(
        1.0,
        "Power p of the timestep sampling t = T u^p (u uniform); below 1: more noisy timesteps.",
    )
    logit_mean: float = option(
        0.0, "Mean of logit(t / T) in logit-normal timestep sampling; above 0: more noisy ones."
    )
    logit_std: float = option(
        1.0, "Standard deviation of logit(t / T) in logit-normal timestep sampling."
    )
    cond_drop_prob: float = option(
        0.1, "Probability of dropping a sample's conditions, for guidance."
    )

    @property
    def attention_flow(self) -> bool:
        """Whether a loss supervises the flow of attention."""
        return bool(self.attention_flow_weight or self.attention_flow_joints)


def check_loss(config: LossConfig) -> None:
    """ConfigError for a value that is out of its range, or does not fit another."""
    if (config.schedule == "flow") != (config.prediction == "flow"):  # as ``Schedule`` says it
        raise ConfigError(
            f"schedule {config.schedule} does not fit prediction {config.prediction}",
            "flow matching is both: --schedule flow --prediction flow",
        )
    at_least(config, 0, "repa_weight", "attention_flow_weight", "attention_flow_layers")
    at_least(config, 0, "attention_flow_joints")
    positive(config, "timestep_power", "logit_std")
    share(config, "cond_drop_prob", "contrastive_weight", "model_guidance")
    if config.model_guidance and not config.cond_drop_prob:
        raise ConfigError(
            "model_guidance needs a model that also learns to predict without conditions",
            "--cond-drop-prob 0.1",
        )
    if not 0 < config.repa_until <= 1:
        raise ConfigError(
            f"repa_until is a share of the steps, above 0 and at most 1, not {config.repa_until}"
        )
    if not math.isfinite(config.logit_mean):
        raise ConfigError(f"logit_mean must be a finite number, not {config.logit_mean}")
