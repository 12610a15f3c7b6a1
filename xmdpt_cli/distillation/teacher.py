"""The teacher: a trained model whose guided prediction the student learns.

Legend: N pairs, C latent channels, h, w latent size, D width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xmdpt_cli.diffusion import Schedule
from xmdpt_cli.distillation.config import DistillConfig
from xmdpt_cli.distillation.inputs import DistillInputs
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.model import XMDPT, TokenConditions, kernels
from xmdpt_cli.model.fast import training_passes
from xmdpt_cli.sampling.hub import fetch
from xmdpt_cli.sampling.sampler import Sampler
from xmdpt_cli.training.conditions import ModelConditions, conditions_of
from xmdpt_cli.utils.counts import counted


def load_teacher(source: str | Path, config: DistillConfig) -> Sampler:
    """The model in a model folder, a run's folder or on the hub, in fp32 on the CPU.

    Raises XmdptError if it is no model, or cannot be the teacher of this distillation.
    """
    teacher = Sampler.load(fetch(source), "cpu", "fp32")
    check_teacher(teacher.metadata, source, config)
    return teacher


def check_teacher(metadata: dict[str, Any], place: str | Path, config: DistillConfig) -> None:
    """XmdptError if the model at ``place`` is itself a student of few steps, or already has what
    this stage distils; ConfigError if the guidance range does not fit it."""
    distilled = metadata.get("distilled")
    if distilled is not None:
        if distilled["stage"] == "steps":
            raise XmdptError(
                f"{place} is itself distilled to {counted(distilled['steps'], 'step')}: it cannot "
                "be a teacher",
                f"name the model that it was distilled from ({distilled['teacher']['name']}): "
                "--model DIR",
            )
        if config.stage == "guidance":
            raise XmdptError(
                f"the guidance of {place} is already distilled",
                "distil its steps: --stage steps",
            )
        low, high = distilled["guidance"]
        if not (low <= config.min_guidance and config.max_guidance <= high):
            raise ConfigError(
                f"{place} was distilled for guidance scales from {low:g} to {high:g}, not from "
                f"{config.min_guidance:g} to {config.max_guidance:g}",
                f"--min-guidance {low:g} --max-guidance {high:g}",
            )
    default = metadata["sampling"]["guidance"]
    if not config.min_guidance <= default <= config.max_guidance:
        raise ConfigError(
            f"the guidance range {config.min_guidance:g} to {config.max_guidance:g} does not "
            f"contain the teacher's default of {default:g}",
            f"--{'min' if default < config.min_guidance else 'max'}-guidance {default:g}",
        )


class Teacher(nn.Module):
    """A frozen model with its noise schedule."""

    def __init__(self, model: XMDPT, schedule: Schedule) -> None:
        super().__init__()
        self.model, self.schedule = model.eval().requires_grad_(False), schedule
        kernels.prepare(model)

    @torch.no_grad()
    def conditions(self, inputs: DistillInputs) -> ModelConditions:
        return conditions_of(self.model, inputs)

    @torch.no_grad()
    def forward(
        self, x: Tensor, timesteps: Tensor, cfg_scales: Tensor, conditions: ModelConditions
    ) -> Tensor:
        """The guided prediction as the velocity, v or the flow's; float32 (N, C, h, w).

        x (N, C, h, w) noisy, timesteps (N,), cfg_scales (N,): gamma_t of paper eq. 6. A model whose
        guidance is distilled takes one evaluation, any other two, in one batch.
        """
        model, (vector, tokens) = self.model, conditions
        if model.guidance_embed is not None:
            passes = training_passes(
                model, x, timesteps, vector, tokens=tokens, cfg_scales=cfg_scales
            )
            out = passes.out.float()
        else:
            keep = torch.arange(2 * len(x), device=x.device) < len(x)
            both = None if tokens is None else TokenConditions(*(twice(part) for part in tokens))
            passes = training_passes(
                model, twice(x), twice(timesteps), twice(vector), tokens=both, keep=keep
            )
            conditional, unconditional = passes.out.float().chunk(2)
            scales = cfg_scales.float().reshape(-1, 1, 1, 1)
            out = torch.lerp(unconditional, conditional, scales)  # classifier_free_guidance
        return self.schedule.velocity(x, out[:, : x.shape[1]], timesteps)


def twice(tensor: Tensor) -> Tensor:
    return torch.cat([tensor, tensor])
