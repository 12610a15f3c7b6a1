"""A trained model folder, ready to draw: model, schedule and the defaults it was made with."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xmdpt_cli.diffusion import Schedule, sample
from xmdpt_cli.model import XMDPT
from xmdpt_cli.model.folder import load_model


@dataclass(frozen=True)
class Recipe:
    """How samples are drawn; the defaults travel with the model."""

    steps: int
    guidance: float
    power: float
    seed: int = 0


class Sampler:
    """An XMDPT with its schedule: conditions in, latents out."""

    def __init__(self, model: XMDPT, schedule: Schedule, facts: dict[str, Any]) -> None:
        self.model, self.schedule, self.facts = model.eval().requires_grad_(False), schedule, facts

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "cpu") -> Sampler:
        """Read a model folder (``model/folder.py``). Raises XmdptError if it is none."""
        model, facts = load_model(folder, device)
        return cls(model, Schedule(facts["schedule"], facts["prediction"]), facts)

    def identity(self) -> str:
        """sha256 over the weights: samples of different models never share a folder."""
        digest = hashlib.sha256()
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def recipe(
        self,
        steps: int | None = None,
        guidance: float | None = None,
        power: float | None = None,
        seed: int = 0,
    ) -> Recipe:
        """The model's own defaults, overridden where a value is given."""
        own = self.facts["sampling"]
        return Recipe(
            own["steps"] if steps is None else steps,
            own["guidance"] if guidance is None else guidance,
            own["power"] if power is None else power,
            seed,
        )

    @torch.no_grad()
    def latents(
        self,
        noise: Tensor,
        pose_tokens: Tensor,
        source_tokens: Tensor,
        source_latents: Tensor,
        pose_maps: tuple[Tensor, Tensor] | None,
        recipe: Recipe,
    ) -> Tensor:
        """Shapes as in ``XMDPT.condition`` and ``XMDPT.context`` (``pose_maps``: the target's, the
        source's); returns latents like noise."""
        model = self.model
        condition = model.condition(pose_tokens, source_tokens, source_latents)
        context = None
        if model.conditioning == "tokens":
            assert pose_maps is not None
            context = model.context(source_latents, *pose_maps, source_tokens)
        return sample(
            model,
            noise,
            condition,
            steps=recipe.steps,
            guidance=recipe.guidance,
            power=recipe.power,
            context=context,
            schedule=self.schedule,
        )
