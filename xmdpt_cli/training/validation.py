"""Watching a run: every so many steps its EMA draws the same held-out pairs and is measured.

Nothing here touches the run: its own random numbers, its own reading of the data, the model's
modes put back, and what is done again after a kill comes out the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xmdpt_cli.data.loader import PairDataset
from xmdpt_cli.diffusion import Schedule, sample, start_noise
from xmdpt_cli.files import writing
from xmdpt_cli.images import Picture
from xmdpt_cli.model import XMDPT
from xmdpt_cli.report.validation_sheet import forget_after, write_step
from xmdpt_cli.training.logger import Log
from xmdpt_cli.training.validation_metrics import condition_of, similarity, validation_losses
from xmdpt_cli.training.validation_pairs import (
    evenly,
    held_out,
    read_pictures,
    read_rows,
    read_views,
)

#: Scaled latents (N, C, h, w) -> pictures, uint8 (N, H, W, 3): ``VAE.decode``.
Decode = Callable[[Tensor], NDArray[np.uint8]]

PICTURES = 8  # pairs that are drawn
LOSS_PAIRS = 32  # pairs that the loss is measured on, each at four timesteps
GARMENTS = 16  # whose condition vectors are compared


def due(every: int, steps: int, step: int) -> bool:
    """Whether ``step`` of ``steps`` ends with a validation: each ``every``-th and the last one.

    It is made before the step's checkpoint is written: a checkpoint never lacks its validation.
    """
    return every > 0 and step > 0 and (step % every == 0 or step == steps)


class Watch:
    """Fixed pairs of the test split, evenly spaced over it, and what becomes of them.

    ``done``: steps the run goes on from; later pictures are removed. ``sampling``: arguments of
    ``diffusion.sample`` for the pictures; ``tokens``: whether the model wants pose maps. Without
    ``decode`` three latent channels are shown as colours, and ``say`` hears that.
    """

    def __init__(
        self,
        out: Path,
        dataset: PairDataset,
        schedule: Schedule,
        *,
        done: int,
        sampling: Mapping[str, Any],
        tokens: bool,
        device: str | torch.device = "cpu",
        autocast: bool = False,
        seed: int = 0,
        pictures: int = PICTURES,
        decode: Decode | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.folder, self.schedule = out / "samples", schedule
        self.sampling, self.device, self.autocast = sampling, torch.device(device), autocast
        self.seed, self.decode, self.resolution = seed, decode, dataset.resolution
        test = held_out(dataset, say)
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

    def look(self, model: XMDPT, step: int, log: Log) -> dict[str, float]:
        """Draw, measure, write down. Returns the numbers.

        They are written last: where they are (``log.has(step, "val_loss")``) all is.
        """
        with evaluating(model):
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
        out: list[Picture] = []
        for rows in self.drawn.chunks(self.device):
            noise = start_noise(tuple(rows.source.shape[1:]), self.seed, rows.positions)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
                condition, tokens = condition_of(model, rows)
                latents = sample(
                    model,
                    noise.to(self.device),
                    condition,
                    tokens=tokens,
                    schedule=self.schedule,
                    **self.sampling,
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
