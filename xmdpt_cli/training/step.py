"""One training step: its inputs and its losses.

Legend: N pairs, C latent channels, h, w latent size, T tokens, L DINOv2 tokens.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from xmdpt_cli.diffusion import Losses, Schedule, training_loss
from xmdpt_cli.encoders.vae import sample_posterior
from xmdpt_cli.model import XMDPT, Mask, kernels
from xmdpt_cli.model.fast import training_passes
from xmdpt_cli.model.repa import repa_target
from xmdpt_cli.training.conditions import conditions_of
from xmdpt_cli.training.config import TrainConfig
from xmdpt_cli.training.flow_losses import flow_blocks, with_flow_losses
from xmdpt_cli.training.step_noise import StepBatch, mix
from xmdpt_cli.training.timesteps import sample_timesteps


class Inputs(NamedTuple):
    """The inputs of a step, on its device."""

    target: Tensor  # (N, C, h, w) latents, scaled
    source: Tensor  # (N, C, h, w)
    noise: Tensor  # (N, C, h, w)
    masked_noise: Tensor | None  # (N, C, h, w) of the masked pass; None: the same noise
    timesteps: Tensor  # (N,)
    keep: Tensor  # (N,) bool: which rows keep their conditions
    keep_masked: Tensor  # (N,) bool, in the masked pass
    pose_tokens: Tensor  # (N, L, 768)
    source_tokens: Tensor  # (N, L, 1536)
    mask: Mask | None  # grid positions of the kept and the masked tokens
    pose_maps: tuple[Tensor, Tensor] | None  # (N, 3, H, W) each: the target's, the source's
    target_tokens: Tensor | None  # (N, L, 1536) for REPA
    repa_weight: Tensor | None = None  # () of REPA's loss: an input, so that it can change
    joints: Tensor | None = None  # (N, 2, 18, 2) keypoints; see ``data.loader.Batch``


def mask_ratio(config: TrainConfig, step: int) -> float:
    """The mask ratio of optimizer step ``step``: fixed, or uniform in [r, r + span] (MDTv2)."""
    if not config.mask_span:
        return config.mask_ratio
    share = (mix(config.seed + 1, step) >> 10) / 2**53
    return config.mask_ratio + config.mask_span * share


def repa_weight(config: TrainConfig, step: int) -> float:
    """The weight of REPA's loss at optimizer step ``step``, from 0. The alignment helps first and
    hinders later, so it ends after a share of the steps (HASTE, Wang et al. 2025, arXiv
    2505.16792)."""
    return config.repa_weight if step < config.repa_until * config.steps else 0.0


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to ``device`` without waiting for it."""
    # a copy from memory that is not page-locked would wait for the device
    if device.type == "cuda" and not tensor.is_cuda and not tensor.is_pinned():
        tensor = tensor.contiguous().pin_memory()
    return tensor.to(device, non_blocking=True)


def step_inputs(
    batch: StepBatch, config: TrainConfig, step: int, scale: float, device: torch.device
) -> Inputs:
    """Copy a batch to ``device`` and sample its latents, without waiting for the device."""
    random = batch.step_noise
    assert random is not None
    on_device = partial(to_device, device=device)
    kept = random.uniform[:, 1:] >= config.cond_drop_prob
    mask = None
    if config.predictor != "none":
        mask = Mask(*(on_device(m) for m in Mask.random(random.tokens, mask_ratio(config, step))))
    independent = mask is not None and config.masked_noise == "independent"
    return Inputs(
        target=sample_posterior(on_device(batch.target_moments), on_device(random.target), scale),
        source=sample_posterior(on_device(batch.source_moments), on_device(random.source), scale),
        noise=on_device(random.noise),
        masked_noise=on_device(random.masked_noise) if independent else None,
        timesteps=on_device(sample_timesteps(random.uniform[:, 0], config)),
        keep=on_device(kept[:, 0]),
        keep_masked=on_device(kept[:, 1]),
        pose_tokens=on_device(batch.pose_tokens),
        source_tokens=on_device(batch.source_tokens),
        mask=mask,
        pose_maps=batch.pose_maps(device),
        target_tokens=None if batch.target_tokens is None else on_device(batch.target_tokens),
        repa_weight=on_device(torch.tensor(repa_weight(config, step))),
        joints=None if batch.joints is None else on_device(batch.joints),
    )


def logged_terms(losses: Losses) -> dict[str, Tensor]:
    """The means of the losses, and of REPA's cosine similarity, that are logged, by name; on their
    device, without gradient."""
    terms = {"loss": losses.total, "mse": losses.mse}
    if losses.vb is not None:
        terms["vb"] = losses.vb
    if losses.masked_mse is not None:
        terms["masked_mse"] = losses.masked_mse
    if losses.masked_vb is not None:
        terms["masked_vb"] = losses.masked_vb
    if losses.repa is not None:
        terms["repa"] = losses.repa
    if losses.flow is not None:
        terms["attention_flow"] = losses.flow
    if losses.flow_joints is not None:
        terms["attention_flow_joints"] = losses.flow_joints
    return {name: value.detach().mean() for name, value in terms.items()}


def in_bf16(precision: str, device: torch.device) -> bool:
    """Whether training runs under bf16 autocast; ``auto``: on a GPU that supports bf16."""
    supported = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return precision == "bf16" or (precision == "auto" and supported)


class Step(nn.Module):
    """Inputs -> losses in one module call: what is compiled, and wrapped by DDP or FSDP2.

    ``autocast``: whether it runs under bf16 autocast.
    """

    def __init__(self, model: XMDPT) -> None:
        super().__init__()
        self.model, self.autocast = model, False
        kernels.prepare(model)

    def forward(self, inputs: Any) -> Losses:
        """The losses; only ``total``, which is minimised, has a gradient."""
        raise NotImplementedError


class TrainStep(Step):
    """The step of ``xmdpt train``."""

    def __init__(self, model: XMDPT, config: TrainConfig, schedule: Schedule) -> None:
        super().__init__(model)
        self.config, self.schedule = config, schedule
        self.flow_blocks = flow_blocks(config, model.tdnet.encoder_depth)

    def forward(self, inputs: Inputs) -> Losses:
        """See ``Step``."""
        config, model = self.config, self.model
        with torch.autocast(inputs.target.device.type, torch.bfloat16, enabled=self.autocast):
            masked_noise = inputs.noise if inputs.masked_noise is None else inputs.masked_noise
            schedule, t = self.schedule, inputs.timesteps
            condition, tokens = conditions_of(model, inputs)
            repa = None
            if inputs.target_tokens is not None:
                repa = repa_target(inputs.target_tokens, model.tdnet.grid, config.repa_norm)
            run = partial(
                training_passes,
                model,
                schedule.add_noise(inputs.target, inputs.noise, t),
                t,
                condition,
                tokens=tokens,
                mask=inputs.mask,
                masked_latents=schedule.add_noise(inputs.target, masked_noise, t),
                source_latents=inputs.source,
            )
            unconditional = masked_unconditional = None
            if config.model_guidance:
                none = torch.zeros_like(inputs.keep)
                with torch.no_grad():
                    dropped = run(keep=none, keep_masked=none, repa=False)
                unconditional, masked_unconditional = dropped.out, dropped.masked_out
            passes = run(
                keep=inputs.keep, keep_masked=inputs.keep_masked, flow_blocks=self.flow_blocks
            )
            losses = training_loss(
                passes.out,
                inputs.target,
                t,
                inputs.noise,
                masked_out=passes.masked_out,
                masked_noise=masked_noise,
                repa=passes.repa,
                repa_target=repa,
                repa_weight=inputs.repa_weight,
                weighting=config.loss_weighting,
                schedule=schedule,
                keep=inputs.keep,
                keep_masked=inputs.keep_masked,
                unconditional=unconditional,
                masked_unconditional=masked_unconditional,
                model_guidance=config.model_guidance,
                contrastive_weight=config.contrastive_weight,
            )
        if passes.flows is None:
            return losses
        return with_flow_losses(losses, passes.flows, inputs, config)
