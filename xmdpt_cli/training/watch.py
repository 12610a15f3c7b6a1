"""Watching a run: every so many steps its EMA draws the same held-out pairs and is measured.

Nothing here touches the run: its own random numbers, its own reading of the data, the model's
modes put back, and what is done again after a kill comes out the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xmdpt_cli.data.loader import PairDataset
from xmdpt_cli.diffusion import Schedule, sample
from xmdpt_cli.files import writing
from xmdpt_cli.images import Picture
from xmdpt_cli.model import XMDPT
from xmdpt_cli.training.log import Log
from xmdpt_cli.training.watch_numbers import condition_of, similarity, validation_losses
from xmdpt_cli.training.watch_rows import (
    evenly,
    held_out,
    read_pictures,
    read_rows,
    read_views,
    row_noise,
)
from xmdpt_cli.training.watch_sheet import forget_after, write_step

#: Scaled latents (N, C, h, w) -> pictures, uint8 (N, H, W, 3): ``VAE.decode``.
Decode = Callable[[Tensor], NDArray[np.uint8]]

PICTURES = 8  # pairs that are drawn
LOSS_PAIRS = 32  # pairs that the loss is measured on, each at four timesteps
GARMENTS = 16  # whose condition vectors are compared


class Watch:
    """Fixed pairs of the test split, evenly spaced over it, and what becomes of them.

    ``every``: steps between validations; the last step is always one. ``done``: steps the run goes
    on from; later pictures are removed. ``sampling``: steps, guidance and power of the pictures.
    Without ``decode`` three latent channels are shown as colours, and ``say`` hears that.
    """

    def __init__(
        self,
        out: Path,
        dataset: PairDataset,
        schedule: Schedule,
        *,
        every: int,
        steps: int,
        done: int,
        sampling: tuple[int, float, float],
        conditioning: str,
        device: str | torch.device = "cpu",
        autocast: bool = False,
        seed: int = 0,
        pictures: int = PICTURES,
        decode: Decode | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.folder, self.schedule, self.every, self.steps = out / "samples", schedule, every, steps
        self.sampling, self.device, self.autocast = sampling, torch.device(device), autocast
        self.seed, self.decode, self.resolution = seed, decode, dataset.resolution
        test, tokens = held_out(dataset, say), conditioning == "tokens"
        scale = float(dataset.manifest["encoders"]["vae"]["scale"])
        drawn, measured = evenly(len(test), pictures), evenly(len(test), LOSS_PAIRS)
        self.drawn = read_rows(test, drawn, scale, tokens)
        self.inputs = read_pictures(test, drawn)
        self.measured = read_rows(test, measured, scale, tokens)
        self.views = read_views(test, measured, scale, GARMENTS)
        if decode is None:
            say("no VAE to decode with: samples/ shows three latent channels as colours")
        self.folder.mkdir(parents=True, exist_ok=True)
        forget_after(self.folder, done)

    def due(self, step: int) -> bool:
        """Whether ``step`` (from 1) ends with a validation: before its checkpoint is written, so
        that a checkpoint never lacks its validation."""
        return step % self.every == 0 or step == self.steps

    def missing(self, done: int, log: Log) -> bool:
        """Whether the run goes on from a step whose validation an interrupt cut off."""
        return done > 0 and self.due(done) and not log.has(done, "val_loss")

    def look(self, model: XMDPT, step: int, log: Log) -> dict[str, float]:
        """Draw, measure, write down: the pictures first, the numbers last. Returns the numbers."""
        with log.paused(), evaluating(model):
            pictures = self._draw(model)
            numbers = validation_losses(model, self.measured, self.schedule, self.device)
            if self.views is not None:
                numbers |= similarity(model, self.views, self.device)
            rows = [[*row, new] for row, new in zip(self.inputs, pictures, strict=True)]
            with writing(self.folder):
                sheet = write_step(self.folder, step, rows)
            log.picture(step, "samples", sheet)
            log.values(step, numbers)
        return numbers

    @torch.no_grad()
    def _draw(self, model: XMDPT) -> list[Picture]:
        steps, guidance, power = self.sampling
        out: list[Picture] = []
        for rows in self.drawn.chunks(self.device):
            noise = row_noise(tuple(rows.source.shape[1:]), self.seed, rows.positions)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
                condition, context = condition_of(model, rows)
                latents = sample(
                    model,
                    noise.to(self.device),
                    condition,
                    steps=steps,
                    guidance=guidance,
                    power=power,
                    context=context,
                    schedule=self.schedule,
                )
            out += list((self.decode or self._colours)(latents))
        return out

    def _colours(self, latents: Tensor) -> NDArray[np.uint8]:
        """Three channels as red, green and blue: -3 to 3 from dark to bright, enlarged."""
        three = latents[:, [i % latents.shape[1] for i in range(3)]].float().cpu()
        bytes_ = ((three / 6 + 0.5) * 255).round().clamp(0, 255).to(torch.uint8)
        enlarge = self.resolution // latents.shape[-1]
        pixels = bytes_.permute(0, 2, 3, 1).numpy()
        return pixels.repeat(enlarge, axis=1).repeat(enlarge, axis=2)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode; afterwards every module in the mode it was in."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training
