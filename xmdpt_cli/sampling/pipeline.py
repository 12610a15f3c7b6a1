"""A trained model folder, ready to draw: model, schedule and the defaults it was made with."""

from __future__ import annotations

import hashlib
import io
import json
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xmdpt_cli.diffusion import Schedule, sample
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.model import XMDPT


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
        """Read a folder written by training (``RUN/model``). Raises XmdptError if it is none."""
        folder = Path(folder)
        if not folder.is_dir():
            raise XmdptError(f"no such model folder: {folder}", "train one: xmdpt train --help")
        if not (folder / "xmdpt.json").is_file() and (folder / "model" / "xmdpt.json").is_file():
            folder = folder / "model"  # the run's folder was named: meant is the model in it
        for name in ("config.json", "model.safetensors", "xmdpt.json"):
            if not (folder / name).is_file():
                raise XmdptError(
                    f"not a model folder: {folder} has no {name}",
                    "name the folder `xmdpt train` wrote: --model RUN/model",
                )
        try:
            facts = json.loads((folder / "xmdpt.json").read_text(encoding="utf-8"))
            schedule = Schedule(facts["schedule"], facts["prediction"])
            with redirect_stdout(io.StringIO()):  # the hub's mixin prints where results belong
                model = XMDPT.from_pretrained(str(folder)).to(device)
        except XmdptError:
            raise
        except Exception as err:
            reason = str(err).splitlines()[0] if str(err) else type(err).__name__
            raise XmdptError(f"cannot load the model in {folder}: {reason}") from err
        return cls(model, schedule, facts)

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
