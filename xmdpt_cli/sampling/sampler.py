"""A trained model folder, ready to draw: model, schedule and the defaults it was made with.

Legend: N images, K views of a person, C latent channels.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xmdpt_cli.diffusion import Schedule, Seen, sample, spacing_of
from xmdpt_cli.encoders.vae import VAE
from xmdpt_cli.errors import ConfigError, XmdptError, is_out_of_memory
from xmdpt_cli.model import XMDPT, TokenConditions, kernels
from xmdpt_cli.model.checkpoint import find_model, load_model
from xmdpt_cli.model.fast import compile_sampling
from xmdpt_cli.sampling.conditioning import Conditions
from xmdpt_cli.sampling.config import SamplingConfig

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Sampler:
    """An XMDPT with its schedule: conditions in, latents out."""

    def __init__(self, model: XMDPT, schedule: Schedule, metadata: dict[str, Any]) -> None:
        self.model, self.schedule = model.eval().requires_grad_(False), schedule
        self.metadata = metadata
        self.folder: Path | None = None  #: where it was read from
        self._compiled_for = 0

    @classmethod
    def load(
        cls, folder: str | Path, device: str | torch.device = "cpu", precision: str = "auto"
    ) -> Sampler:
        """Read a model folder (``model/checkpoint.py``). Raises XmdptError if it is none.

        ``precision``: "fp32", "bf16" or "auto", which is bf16 on a GPU (on a CPU it is slower).
        """
        if precision == "auto":
            precision = "bf16" if torch.device(device).type == "cuda" else "fp32"
        if precision not in PRECISIONS:
            raise ConfigError(f"precision is auto, {' or '.join(PRECISIONS)}, not {precision!r}")
        folder = find_model(Path(folder))
        model, metadata = load_model(folder, "cpu")
        sampler = cls(model, Schedule(metadata["schedule"], metadata["prediction"]), metadata)
        _ = sampler.identity  # of the weights as they were stored
        model.to(device, PRECISIONS[precision])
        kernels.prepare(model)
        sampler.folder = folder
        return sampler

    @property
    def device(self) -> torch.device:
        return self.model.tdnet.pos_embed.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.tdnet.pos_embed.dtype

    @cached_property
    def identity(self) -> str:
        """sha256 over the weights: samples of different models never share a folder."""
        digest = hashlib.sha256()
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def compile(self, count: int) -> None:
        """Run through torch.compile from now on, in batches of ``count`` images: fewer are
        filled up, for another size would have to be compiled too."""
        compile_sampling(self.model)
        self._compiled_for = count

    @property
    def compiled(self) -> bool:
        return self._compiled_for > 0

    def stored_model(self) -> XMDPT:
        """The model in the precision it was stored in: bf16 for drawing loses digits."""
        if self.dtype == torch.float32 or self.folder is None:
            return self.model
        return load_model(self.folder)[0]

    def described(self, config: SamplingConfig, vae: VAE) -> dict[str, Any]:
        """JSON-ready: what decides an image besides its inputs; records and PNGs carry it."""
        return {
            "sampling": {**asdict(config), "interval": list(config.interval)},
            "model": self.identity,
            "vae": vae.describe()["sha256"],
            "precision": str(self.dtype).removeprefix("torch."),
            "trained_steps": self.metadata["trained_steps"],
            "toy": bool(self.metadata["toy"]),
        }

    def sampling_config(self, **given: Any) -> SamplingConfig:
        """The model's own defaults, overridden by fields of ``SamplingConfig`` that are not None.

        ConfigError for a solver that is none. Another solver brings its own spacing.
        """
        given = {name: value for name, value in given.items() if value is not None}
        named = {**self.metadata["sampling"], **given}
        own_spacing = spacing_of(named.get("solver", "ddim"))
        if "spacing" not in given:
            named["spacing"] = own_spacing
        if "interval" in named:
            named["interval"] = tuple(named["interval"])
        try:
            config = SamplingConfig(**named)
        except TypeError as err:
            raise XmdptError(
                f"the model's sampling defaults are not understood ({err})", "mend its xmdpt.json"
            ) from None
        for name in ("guidance", "power"):
            if not math.isfinite(getattr(config, name)):
                raise ConfigError(f"{name} is a number, not {getattr(config, name)}")
        return config

    @torch.no_grad()
    def latents(
        self,
        noise: Tensor,
        conditions: Conditions,
        config: SamplingConfig,
        callback: Callable[[Seen], None] | None = None,
    ) -> Tensor:
        """Noise (N, C, h, w) -> scaled latents of its shape and type, on the model's device.

        Of several views of a person the condition vectors are averaged; with token conditions
        attention reads the tokens of all of them.
        """
        count = len(noise)
        if count < self._compiled_for:
            rows = [min(i, count - 1) for i in range(self._compiled_for)]
            noise, conditions = noise[rows], conditions.rows(rows)
        try:
            return self._latents(noise, conditions, config, callback)[:count]
        except RuntimeError as err:
            if is_out_of_memory(err):
                self._compiled_for = 0  # who calls will come with less
            raise

    def _latents(
        self,
        noise: Tensor,
        conditions: Conditions,
        config: SamplingConfig,
        callback: Callable[[Seen], None] | None,
    ) -> Tensor:
        vectors, tokens = self.encoded(conditions)
        return sample(
            self.model,
            noise.to(self.device),
            torch.stack(vectors).mean(dim=0),
            steps=config.steps,
            guidance=config.guidance,
            power=config.power,
            solver=config.solver,
            spacing=config.spacing,
            interval=config.interval,
            tokens=TokenConditions.join(tokens) if tokens else None,
            schedule=self.schedule,
            callback=callback,
        )

    def encoded(self, conditions: Conditions) -> tuple[list[Tensor], list[TokenConditions]]:
        """Each view's condition vector (N, D), and token conditions if the model takes them."""
        model, given = self.model, conditions.to(self.device)
        sources = given.source_latents.to(self.dtype)
        vectors = [
            model.condition(given.pose_tokens, tokens, latents)
            for tokens, latents in zip(given.source_tokens, sources, strict=True)
        ]
        if model.conditioning != "tokens":
            return vectors, []
        pose_map, own_maps = given.pose_map, given.source_pose_map
        assert pose_map is not None
        assert own_maps is not None
        views = zip(sources, own_maps, strict=True)
        return vectors, [model.token_conditions(latents, pose_map, own) for latents, own in views]
