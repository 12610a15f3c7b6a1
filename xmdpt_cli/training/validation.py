"""Validation: the EMA model generates the same held-out pairs and its losses are measured.

Training is not affected: validation has random numbers and data of its own and restores the
model's modes. Repeated after a kill, it gives the same images and numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xmdpt_cli.diffusion import start_noise
from xmdpt_cli.files import writing
from xmdpt_cli.images import ImageArray
from xmdpt_cli.model import XMDPT
from xmdpt_cli.progress import Say, silently
from xmdpt_cli.report.validation_sheet import COLUMNS, forget_after, write_step
from xmdpt_cli.training.logger import MetricsLogger
from xmdpt_cli.training.task import Task
from xmdpt_cli.training.validation_metrics import similarity
from xmdpt_cli.training.validation_pairs import (
    ValidationPairs,
    evenly,
    held_out,
    read_images,
    read_pairs,
    read_views,
)

#: Scaled latents (N, C, h, w) -> images, uint8 (N, H, W, 3): ``VAE.decode``.
Decode = Callable[[Tensor], NDArray[np.uint8]]

LOSS_PAIRS = 32  # pairs that the loss is measured on, each at four timesteps
ITEMS = 16  # items whose condition vectors are compared


def is_validation_step(every: int, steps: int, step: int) -> bool:
    """Whether validation follows step ``step`` of ``steps``: every ``every``-th and the last."""
    return every > 0 and step > 0 and (step % every == 0 or step == steps)


class Validator:
    """Validates on fixed pairs, evenly spaced over the test split.

    ``task`` samples and measures; its settings give the seed and the number of pairs. ``done``: the
    step the run resumes from; images of later steps are removed. Without ``decode``, three latent
    channels are shown as colours, and ``warn`` receives a message.
    """

    def __init__(
        self,
        out: Path,
        task: Task,
        *,
        done: int = 0,
        device: str | torch.device = "cpu",
        autocast: bool = False,
        decode: Decode | None = None,
        warn: Say = silently,
    ) -> None:
        self.folder, self.task = out / "samples", task
        self.device, self.autocast = torch.device(device), autocast
        self.decode, self.resolution = decode, task.dataset.resolution
        scale, tokens = task.scale, task.pose_maps
        test = held_out(task.dataset, warn)
        generated, measured = (
            evenly(len(test), task.config.validation_pairs),
            evenly(len(test), LOSS_PAIRS),
        )
        self.generated = read_pairs(test, generated, scale, tokens)
        self.inputs = read_images(test, generated)
        self.measured = read_pairs(test, measured, scale, tokens)
        self.views = read_views(test, measured, scale, ITEMS)
        if decode is None:
            warn("no VAE to decode with: samples/ shows three latent channels as colours")
        self.columns: tuple[str, ...] = COLUMNS
        teacher = self._images(task.reference)
        if teacher:
            self.columns = (*COLUMNS, "teacher")
            self.inputs = [[*row, new] for row, new in zip(self.inputs, teacher, strict=True)]
        self.folder.mkdir(parents=True, exist_ok=True)
        forget_after(self.folder, done)

    def validate(self, model: XMDPT, step: int, logger: MetricsLogger) -> dict[str, float]:
        """Generate images, measure losses, log both; returns the values.

        The values are logged last: once ``logger.has(step, "val_loss")``, the images exist, too.
        """
        with evaluating(model):
            images = self._images(partial(self.task.sample, model))
            values = self.task.losses(model, self.measured)
            if self.views is not None:
                values |= similarity(model, self.views, self.device)
            rows = [[*row, new] for row, new in zip(self.inputs, images, strict=True)]
            with writing(self.folder):
                sheet = write_step(self.folder, step, rows, self.columns)
            logger.log_image(step, "samples", sheet)
            logger.log(step, values)
        return values

    @torch.no_grad()
    def _images(
        self, sample: Callable[[ValidationPairs, Tensor], Tensor | None]
    ) -> list[ImageArray]:
        """The images of the latents that ``sample`` returns for pairs and start noise."""
        out: list[ImageArray] = []
        shape = tuple(self.generated.source.shape[1:])
        for pairs in self.generated.chunks(self.device):
            noise = start_noise(shape, self.task.config.seed, pairs.positions)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
                latents = sample(pairs, noise.to(self.device))
            if latents is None:
                return []
            out += list((self.decode or self._colours)(latents))
        return out

    def _colours(self, latents: Tensor) -> NDArray[np.uint8]:
        """Three latent channels as red, green and blue, -3 to 3 from dark to bright, enlarged."""
        three = latents[:, [i % latents.shape[1] for i in range(3)]].float().cpu()
        bytes_ = ((three / 6 + 0.5) * 255).round().clamp(0, 255).to(torch.uint8)
        enlarge = self.resolution // latents.shape[-1]
        pixels = bytes_.permute(0, 2, 3, 1).numpy()
        return pixels.repeat(enlarge, axis=1).repeat(enlarge, axis=2)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model in eval mode, and restore each module's mode afterwards."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training
