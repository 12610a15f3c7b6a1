"""DINOv2 (transformers): pictures and pose pictures to tokens, CLS first.

Shapes: N batch, L tokens (257 at 224 px), D width (1536 giant, 768 base).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from xmdpt_cli.encoders import weights

if TYPE_CHECKING:  # loaded with a network: training from cached features does without
    from transformers import Dinov2Model
from xmdpt_cli.encoders.vae import channels_first

DEFAULT_SOURCE = "facebook/dinov2-giant"  # paper sec. 3; published code
DEFAULT_POSE = "facebook/dinov2-base"
INPUT_SIZE = 224  # at every picture size, 512 included (published code)
HINT = "give the folder as `--dino-source DIR` or `--dino-pose DIR`"
# DINOv2-G in float32 needs about 50 MB of activations a picture.
CHUNK = 16


def pose_input(poses: NDArray[np.uint8] | torch.Tensor) -> torch.Tensor:
    """Pose pictures uint8 (N, H, W, 3) -> float32 (N, 3, H, W) in [0, 1], each over its maximum.

    A pose without any joint is black and stays 0 (the published division gives NaN).
    """
    pixels = channels_first(poses)
    return pixels / pixels.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1.0)


@contextmanager
def _no_bars() -> Iterator[None]:
    """transformers draws a bar for every load and save; that is for a command to decide."""
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


class Dino:
    """One Dinov2Model, frozen, with its origin and the side its input is resized to."""

    def __init__(self, net: Dinov2Model, origin: weights.Origin) -> None:
        self.net = net.eval().requires_grad_(False)
        self.origin = origin
        # a toy is made at the side it works at; the real config says 518, its training's last
        self.input_size = int(net.config.image_size) if origin.toy else INPUT_SIZE

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        revision: str | None = None,
    ) -> Dino:
        """From a hub id or a local transformers folder. Raises XmdptError saying what to fetch."""
        from transformers import Dinov2Model

        origin = cls.find(source, revision)
        with _no_bars():
            net = weights.load_net(
                Dinov2Model, origin, what="DINOv2", key="model_type", value="dinov2", dtype=dtype
            )
        return cls(net.to(device), origin)

    @staticmethod
    def find(source: str | Path, revision: str | None = None) -> weights.Origin:
        """Where its files are, fetched if needed; nothing is read. XmdptError as ``load``."""
        return weights.find(source, what="DINOv2", stem="model", revision=revision, hint=HINT)

    @property
    def width(self) -> int:
        """Token width D."""
        return int(self.net.config.hidden_size)

    @property
    def length(self) -> int:
        """Tokens per picture L, CLS included."""
        return (self.input_size // int(self.net.config.patch_size)) ** 2 + 1

    @property
    def device(self) -> torch.device:
        return next(self.net.parameters()).device

    def to(self, device: str | torch.device) -> None:
        """Move the network to ``device``."""
        self.net.to(device)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.net.parameters()).dtype

    @torch.no_grad()
    def tokens(self, images: torch.Tensor) -> torch.Tensor:
        """Float (N, 3, H, W) -> float32 (N, L, D): the last layer after its norm, CLS first.

        Source pictures come in [-1, 1], not with ImageNet statistics, pose pictures in [0, 1];
        both are resized bicubic without antialiasing (published code).
        """
        size = (self.input_size, self.input_size)
        out = torch.empty(len(images), self.length, self.width, device=self.device)
        for start in range(0, len(images), CHUNK):
            part = images[start : start + CHUNK].to(self.device, torch.float32)
            part = F.interpolate(part, size=size, mode="bicubic", align_corners=False)
            hidden = self.net(pixel_values=part.to(self.dtype)).last_hidden_state  # (n, L, D)
            out[start : start + CHUNK] = hidden.float()
        return out

    def describe(self) -> dict[str, Any]:
        """What a manifest keeps, JSON-ready: Origin.describe, input_size, length and width."""
        return self.origin.describe(
            self.net, input_size=self.input_size, length=self.length, width=self.width
        )

    def save(self, folder: str | Path) -> None:
        """Write a transformers folder (whole or not at all); a toy stays marked as one."""
        toy_id = self.origin.id if self.origin.toy else None
        with _no_bars():
            weights.save_folder(folder, self.net.save_pretrained, toy_id=toy_id)
