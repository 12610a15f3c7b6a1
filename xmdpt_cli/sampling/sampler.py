"""The sampler: noise and conditions -> latents, with the settings that a model folder stores.

Shapes: N images, K views of a person, C latent channels, D width of the model.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xmdpt_cli.diffusion import Schedule, StepResult, sample, spacing_of
from xmdpt_cli.diffusion.guidance import check_cache
from xmdpt_cli.encoders.decoder import Decoder
from xmdpt_cli.errors import ConfigError, XmdptError, is_out_of_memory
from xmdpt_cli.model import XMDPT, TokenConditions, kernels
from xmdpt_cli.model.checkpoint import find_model, load_model
from xmdpt_cli.model.denoiser import compile_sampling
from xmdpt_cli.sampling.conditioning import Conditions
from xmdpt_cli.sampling.student import check_student

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class SamplingConfig:
    """The settings of ``sample`` and the seed; a model folder stores its defaults.

    Args:
        steps: Number of steps.
        guidance: Scale gamma of classifier-free guidance (paper eq. 6); 1: no guidance.
        power: Power alpha of the guidance schedule (paper eq. 6).
        seed: Seed of the noise.
        solver: "ddim", "dpmpp-2m" or "unipc".
        spacing: How the timesteps are chosen, as in ``sample``.
        interval: Range of t / 1000 in which guidance is used.
        cache: The unconditional branch of guidance is evaluated in every ``cache``-th step, as in
            ``sample``; 1: in every step.
    """

    steps: int
    guidance: float
    power: float
    seed: int = 0
    solver: str = "ddim"
    spacing: str = "linspace"
    interval: tuple[float, float] = (0.0, 1.0)
    cache: int = 1


#: the paper's sampling (sec. 4.1; power 0.01 for the best SSIM and LPIPS, 1.0 for the best FID)
PAPER = SamplingConfig(50, 2.0, 0.01)


class Sampler:
    """An XMDPT with its noise schedule, on one device and in one precision.

    Latents in, latents out: ``XMDPTPipeline`` adds the encoders. ``metadata``: what the model
    folder stores beside the weights, with the sampling defaults.
    """

    def __init__(self, model: XMDPT, schedule: Schedule, metadata: dict[str, Any]) -> None:
        self.model, self.schedule = model.eval().requires_grad_(False), schedule
        self.metadata = metadata
        self.folder: Path | None = None  #: the model folder it was loaded from
        self._compiled_for = 0

    @classmethod
    def load(
        cls, folder: str | Path, device: str | torch.device = "cpu", precision: str = "auto"
    ) -> Sampler:
        """Load a model folder (``model/checkpoint.py``). Raises XmdptError for any other folder.

        ``precision``: "fp32", "bf16" or "auto": bf16 on a GPU, fp32 on a CPU, where bf16 is slower.
        """
        if precision == "auto":
            precision = "bf16" if torch.device(device).type == "cuda" else "fp32"
        if precision not in PRECISIONS:
            raise ConfigError(f"precision is auto, {' or '.join(PRECISIONS)}, not {precision!r}")
        folder = find_model(Path(folder))
        model, metadata = load_model(folder, "cpu")
        sampler = cls(model, Schedule(metadata["schedule"], metadata["prediction"]), metadata)
        _ = sampler.identity  # computed before the weights are cast
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
        """sha256 over the stored weights: identifies the model in records of its samples."""
        digest = hashlib.sha256()
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def compile(self, count: int) -> None:
        """Use torch.compile for batches of ``count`` images; smaller batches are padded to
        ``count``, since each batch size is compiled separately."""
        compile_sampling(self.model)
        self._compiled_for = count

    @property
    def compiled(self) -> bool:
        return self._compiled_for > 0

    def stored_model(self) -> XMDPT:
        """The model in the precision that its folder stores: bf16 for sampling loses digits."""
        if self.dtype == torch.float32 or self.folder is None:
            return self.model
        return load_model(self.folder)[0]

    def described(self, config: SamplingConfig, vae: Decoder) -> dict[str, Any]:
        """JSON-ready: what determines an image besides its conditions and the number of its noise.

        Stored in samples.json and in the PNG metadata, where the caller adds the pair, or the
        digest of the inputs and the number of the image. Batch size, torch.compile and device are
        not stored: they change only the rounding.
        """
        return {
            "sampling": {**asdict(config), "interval": list(config.interval)},
            "model": self.identity,
            "vae": vae.describe()["sha256"],
            "precision": str(self.dtype).removeprefix("torch."),
            "trained_steps": self.metadata["trained_steps"],
            "toy": bool(self.metadata["toy"]),
        }

    def sampling_config(self, **given: Any) -> SamplingConfig:
        """The model's defaults, overridden by the fields of ``SamplingConfig`` that are not None.

        The spacing follows the solver unless it is given. Raises ConfigError for an unknown
        solver, and for settings that a distilled model cannot sample with.
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
                f"the model's sampling defaults are not understood ({err})", "correct xmdpt.json"
            ) from None
        for name in ("guidance", "power"):
            if not math.isfinite(getattr(config, name)):
                raise ConfigError(f"{name} is a number, not {getattr(config, name)}")
        check_cache(config.cache)
        if config.cache > 1 and config.guidance == 1:
            raise ConfigError(
                "a cache saves nothing with guidance 1, which evaluates no unconditional branch",
                "leave the cache out",
            )
        check_student(config, self.metadata.get("distilled"))
        return config

    @torch.no_grad()
    def latents(
        self,
        noise: Tensor,
        conditions: Conditions,
        config: SamplingConfig,
        callback: Callable[[StepResult], None] | None = None,
    ) -> Tensor:
        """Noise (N, C, h, w) -> scaled latents of the same shape, on the model's device.

        The condition vectors of several views of a person are averaged; with token conditioning
        attention reads the tokens of all views. ``callback`` is called after each step. Raises
        XmdptError if the latents are not finite.
        """
        count = len(noise)
        if count < self._compiled_for:
            rows = [min(i, count - 1) for i in range(self._compiled_for)]
            noise, conditions = noise[rows], conditions.rows(rows)
        try:
            found = self._latents(noise, conditions, config, callback)[:count]
        except RuntimeError as err:
            if is_out_of_memory(err):
                self._compiled_for = 0  # the caller retries with a smaller batch
            raise
        if not bool(found.isfinite().all()):  # would be decoded to a black image
            raise XmdptError(
                "the model generates values that are not finite",
                "its weights are damaged, or its training diverged; try an earlier checkpoint",
            )
        return found

    def _latents(
        self,
        noise: Tensor,
        conditions: Conditions,
        config: SamplingConfig,
        callback: Callable[[StepResult], None] | None,
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
            cache=config.cache,
            tokens=TokenConditions.join(tokens) if tokens else None,
            schedule=self.schedule,
            callback=callback,
        )

    def encoded(self, conditions: Conditions) -> tuple[list[Tensor], list[TokenConditions]]:
        """Each view's condition vector (N, D), and its token conditions if the model uses them."""
        model, inputs = self.model, conditions.to(self.device)
        sources = inputs.source_latents.to(self.dtype)
        vectors = [
            model.condition(inputs.pose_tokens, tokens, latents)
            for tokens, latents in zip(inputs.source_tokens, sources, strict=True)
        ]
        if model.conditioning != "tokens":
            return vectors, []
        pose_map, source_maps = inputs.pose_map, inputs.source_pose_map
        assert pose_map is not None
        assert source_maps is not None
        return vectors, [
            model.token_conditions(latents, pose_map, source_map)
            for latents, source_map in zip(sources, source_maps, strict=True)
        ]
