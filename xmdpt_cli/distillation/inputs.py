"""The inputs of a distillation step.

Legend: N pairs, C latent channels, h, w latent size, T tokens, L DINOv2 tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.encoders.vae import sample_posterior
from xmdpt_cli.model import XMDPT
from xmdpt_cli.training.made_up_inputs import made_up_features
from xmdpt_cli.training.step import to_device
from xmdpt_cli.training.step_noise import StepBatch, StepNoise
from xmdpt_cli.training.validation_pairs import ValidationPairs


class DistillInputs(NamedTuple):
    """The inputs of a step, on its device. All randomness is in ``noise`` and ``uniform``."""

    target: Tensor  # (N, C, h, w) latents, scaled
    source: Tensor  # (N, C, h, w)
    noise: Tensor  # (N, C, h, w) standard normal
    uniform: Tensor  # (N, 3 + T) in [0, 1), of StepNoise: ``uniform``, then ``tokens``
    pose_tokens: Tensor  # (N, L, 768)
    source_tokens: Tensor  # (N, L, 1536)
    pose_maps: tuple[Tensor, Tensor] | None  # (N, 3, H, W) each: the target's, the source's


def distill_inputs(batch: StepBatch, scale: float, device: torch.device) -> DistillInputs:
    """Copy a batch to ``device`` and sample its latents, without waiting for the device.

    ``scale``: of the latents.
    """
    random = batch.step_noise
    assert random is not None
    target, source, pose_tokens, source_tokens = (
        to_device(tensor, device)
        for tensor in (
            batch.target_moments,
            batch.source_moments,
            batch.pose_tokens,
            batch.source_tokens,
        )
    )
    return DistillInputs(
        target=sample_posterior(target, to_device(random.target, device), scale),
        source=sample_posterior(source, to_device(random.source, device), scale),
        noise=to_device(random.noise, device),
        uniform=to_device(torch.cat([random.uniform, random.tokens], dim=1), device),
        pose_tokens=pose_tokens,
        source_tokens=source_tokens,
        pose_maps=batch.pose_maps(device),
    )


def held_out_inputs(pairs: ValidationPairs, seed: int, tokens: int) -> DistillInputs:
    """The inputs of validation pairs: the same numbers in every validation.

    ``pairs`` are on the device; ``tokens``: T.
    """
    shape, device = tuple(pairs.target.shape[1:]), pairs.target.device
    random = StepNoise.sample(seed, pairs.positions, shape, tokens)
    return DistillInputs(
        target=pairs.target,
        source=pairs.source,
        noise=random.noise.to(device),
        uniform=torch.cat([random.uniform, random.tokens], dim=1).to(device),
        pose_tokens=pairs.pose_tokens,
        source_tokens=pairs.source_tokens,
        pose_maps=pairs.pose_maps,
    )


def made_up_inputs(
    dataset: PairDataset, model: XMDPT, count: int, device: torch.device
) -> DistillInputs:
    """Random inputs of the dataset's shapes, for ``count`` pairs."""
    return DistillInputs(
        **made_up_features(dataset, model, count, device),
        uniform=torch.rand(count, 3 + model.tdnet.grid**2, device=device),
    )
