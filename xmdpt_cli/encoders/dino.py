"""DINOv2 (transformers): images and pose images -> tokens, CLS first.

Shapes: N batch, L tokens (257 at 224 px), D width (1536 giant, 768 base).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from xmdpt_cli.encoders import weights
from xmdpt_cli.encoders.identity import HUB, POSITION_TABLE, STORED, check_position_table
from xmdpt_cli.encoders.vae import channels_first
from xmdpt_cli.errors import XmdptError

if TYPE_CHECKING:  # imported in ``load``: training on stored features does not need it
    from transformers import Dinov2Model

DEFAULT_SOURCE = "facebook/dinov2-giant"  # paper sec. 3; published code
DEFAULT_POSE = "facebook/dinov2-base"
INPUT_SIZE = 224  # at every image size, 512 included (published code)
HINT = "give the folder as `--dino-source DIR` or `--dino-pose DIR`"
CHUNK = 16  # images per forward pass; each needs about 50 MB of activations (giant, float32)
OFFSET = 0.1  # torch.hub's interpolate_offset, in patches


def pose_input(poses: NDArray[np.uint8] | torch.Tensor) -> torch.Tensor:
    """Pose images uint8 (N, H, W, 3) -> float32 (N, 3, H, W) in [0, 1], each divided by its
    maximum. A pose without any joint is black and stays 0 (the published division gives NaN).
    """
    pixels = channels_first(poses)
    return pixels / pixels.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1.0)


def resize_table(table: torch.Tensor, grid: int) -> torch.Tensor:
    """Resize a position table (1, 1 + S * S, D), CLS first, to (1, 1 + grid * grid, D).

    A checkpoint has a table for 37 x 37 patches (518 px), an input of 224 px has 16 x 16 patches.
    The table is resized as in torch.hub's DINOv2, which the published code calls: bicubically,
    without antialiasing, at the scale (16 + 0.1) / 37. transformers from 4.48 on samples it at
    16 / 37, which changes the tokens by 1.3 to 1.8 % (rms).

    The type and the CLS position are kept; a table of that grid is returned unchanged. Raises
    XmdptError for a table that is not square.
    """
    positions, width = table.shape[1] - 1, table.shape[2]
    side = math.isqrt(positions)
    if side * side != positions or positions < 1:
        raise XmdptError(
            f"this DINOv2 has {positions} patch positions, which is not a square grid",
            "use one of facebook/dinov2-small, -base, -large or -giant",
        )
    if side == grid:
        return table
    patches = table[:, 1:].float().reshape(1, side, side, width).permute(0, 3, 1, 2)
    # output position i is read at (i + 0.5) / scale - 0.5; floor(side * scale) of them: grid
    scale = (grid + OFFSET) / side
    patches = F.interpolate(patches, scale_factor=(scale, scale), mode="bicubic")
    patches = patches.permute(0, 2, 3, 1).reshape(1, grid * grid, width).to(table.dtype)
    return torch.cat((table[:, :1], patches), dim=1)


@contextmanager
def _no_bars() -> Iterator[None]:
    """Without the progress bars that transformers prints for every load and save."""
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _type(name: object) -> torch.dtype:
    """The number type of that name in a record; XmdptError if there is none."""
    found = getattr(torch, str(name), None)
    if not isinstance(found, torch.dtype):
        raise XmdptError(
            f"the record of a DINOv2 names an unknown number type: {name!r}",
            "copy the dataset's or the model's folder again",
        )
    return found


class Dino(weights.FrozenNetwork):
    """A frozen Dinov2Model. Input images are resized to ``input_size``, and the position table to
    the patches of that input (``resize_table``).

    ``autocast``: the autocast type. Under autocast the residual stream stays in the type of the
    weights, as in the published code: the tokens of 40 layers lose 5.8e-3 (rms), with weights in
    bfloat16 1.5e-2.
    """

    net: Dinov2Model

    def __init__(
        self,
        net: Dinov2Model,
        origin: weights.Origin,
        *,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.net = net.eval().requires_grad_(False)
        self.origin, self.autocast = origin, autocast
        # a toy's config has its input size; the published config has 518, of the last training
        self.input_size = int(net.config.image_size) if origin.toy else INPUT_SIZE
        self._stored = net.embeddings.position_embeddings  # written by ``save``
        table = resize_table(self._stored, self.grid)
        self._position_table = STORED if table is self._stored else HUB
        # of the right grid: transformers does not resize it
        net.embeddings.position_embeddings = torch.nn.Parameter(table, requires_grad=False)

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        revision: str | None = None,
        autocast: torch.dtype | None = None,
    ) -> Dino:
        """Load from a hub id or a local transformers folder. XmdptError with what to fetch."""
        from transformers import Dinov2Model

        origin = cls.find(source, revision)
        with _no_bars():
            net = weights.load_net(
                Dinov2Model, origin, what="DINOv2", key="model_type", value="dinov2", dtype=dtype
            )
        return cls(net.to(device), origin, autocast=autocast)

    @classmethod
    def load_recorded(
        cls,
        record: Mapping[str, Any],
        source: str | Path,
        *,
        device: str | torch.device = "cpu",
        revision: str | None = None,
    ) -> Dino:
        """Load from ``source``, to compute as when ``record`` (``describe``) was written. Raises
        XmdptError as ``load``, and for a record of a later version."""
        check_position_table(record)
        autocast = record.get("autocast")
        return cls.load(
            source,
            device=device,
            dtype=_type(record.get("dtype", "float32")),
            revision=revision,
            autocast=None if autocast is None else _type(autocast),
        )

    @staticmethod
    def find(source: str | Path, revision: str | None = None) -> weights.Origin:
        """Locate its files, downloading them if needed; no weights are read. XmdptError as
        ``load``."""
        return weights.find(source, what="DINOv2", stem="model", revision=revision, hint=HINT)

    @property
    def width(self) -> int:
        """Token width D."""
        return int(self.net.config.hidden_size)

    @property
    def length(self) -> int:
        """Tokens per image L, CLS included."""
        return self.grid**2 + 1

    @property
    def grid(self) -> int:
        """Patches per side of the input."""
        return self.input_size // int(self.net.config.patch_size)

    @torch.no_grad()
    def tokens(self, images: torch.Tensor) -> torch.Tensor:
        """Float (N, 3, H, W) -> float32 (N, L, D): the last layer after its norm, CLS first.

        Source images are in [-1, 1], without ImageNet statistics, pose images in [0, 1]; both are
        resized bicubically without antialiasing (published code).
        """
        size = (self.input_size, self.input_size)
        out = torch.empty(len(images), self.length, self.width, device=self.device)
        for start in range(0, len(images), CHUNK):
            part = images[start : start + CHUNK].to(self.device, torch.float32)
            part = F.interpolate(part, size=size, mode="bicubic", align_corners=False)
            with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
                hidden = self.net(pixel_values=part.to(self.dtype)).last_hidden_state  # (n, L, D)
            out[start : start + CHUNK] = hidden.float()
        return out

    def describe(self) -> dict[str, Any]:
        """JSON-ready record: ``Origin.describe``, input_size, length and width, the position table
        except of toys, and the autocast type if there is one."""
        more: dict[str, Any] = {}
        if not self.origin.toy:
            more[POSITION_TABLE] = self._position_table
        if self.autocast is not None:
            more["autocast"] = str(self.autocast).removeprefix("torch.")
        return self.origin.describe(
            self.net, input_size=self.input_size, length=self.length, width=self.width, **more
        )

    def save(self, folder: str | Path) -> None:
        """Write a transformers folder, atomically; a toy stays marked as one.

        The position table is written as it was read: the folder holds the same checkpoint.
        """
        state = self.net.state_dict()
        state["embeddings.position_embeddings"] = self._stored.detach()
        with _no_bars():
            weights.save_folder(
                folder, lambda part: self.net.save_pretrained(part, state_dict=state), self.origin
            )
