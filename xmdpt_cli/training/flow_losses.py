"""The losses on the flow of attention in a training step: after Leffa (arXiv 2412.08486), whose
formulas are in ``model.attention_flow``.

Legend: N pairs, T tokens, C latent channels, h, w latent size.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from xmdpt_cli.diffusion import Losses
from xmdpt_cli.errors import ConfigError
from xmdpt_cli.model.attention_flow import TIMESTEP_LIMIT, keypoint_error, warp_error
from xmdpt_cli.training.loss_config import LossConfig


class FlowInputs(Protocol):
    """What the losses read of a step's inputs."""

    @property
    def target(self) -> Tensor: ...  # (N, C, h, w) latents
    @property
    def source(self) -> Tensor: ...  # (N, C, h, w)
    @property
    def timesteps(self) -> Tensor: ...  # (N,)
    @property
    def keep(self) -> Tensor: ...  # (N,) bool: which rows keep their conditions
    @property
    def joints(self) -> Tensor | None: ...  # (N, 2, 18, 2) the target's, the source's


def flow_blocks(config: LossConfig, encoder_depth: int) -> range:
    """The numbers, from 0, of the encoder blocks whose attention is supervised: the last ones."""
    if not config.attention_flow:
        return range(0)
    count = config.attention_flow_layers or (encoder_depth + 1) // 2
    if count > encoder_depth:
        raise ConfigError(
            f"attention_flow_layers is at most {encoder_depth}, the number of blocks before the "
            f"predictor, not {count}"
        )
    return range(encoder_depth - count, encoder_depth)


def with_flow_losses(
    losses: Losses, flows: Tensor, inputs: FlowInputs, config: LossConfig
) -> Losses:
    """Add the flow's losses to the total; flows (blocks, N, T, 2), the mean over the blocks counts.

    The terms of rows with t >= 500, or without conditions, are 0. They stay in the mean over the
    rows, so that each row has the same weight in every micro batch and on every rank.
    """
    counts = inputs.keep & (inputs.timesteps < TIMESTEP_LIMIT)  # (N,)
    total, terms = losses.total, {}
    with torch.autocast(flows.device.type, enabled=False):
        if config.attention_flow_weight:
            source, target = inputs.source.to(flows.dtype), inputs.target.to(flows.dtype)
            errors = torch.stack([warp_error(flow, source, target) for flow in flows])
            terms["flow"] = errors.mean(dim=0) * counts
            total = total + config.attention_flow_weight * terms["flow"].mean()
        if inputs.joints is not None and config.attention_flow_joints:
            errors = torch.stack([keypoint_error(flow, inputs.joints) for flow in flows])
            terms["flow_joints"] = errors.mean(dim=0) * counts
            total = total + config.attention_flow_joints * terms["flow_joints"].mean()
    return losses._replace(total=total, **{name: row.detach() for name, row in terms.items()})
