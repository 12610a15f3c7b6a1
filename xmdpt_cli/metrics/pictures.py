"""Pictures as the protocols hand them to the measures, and as tensors."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.images import Picture

#: (H, W, 3), RGB: uint8, or float32 in grey levels of 0 to 255, which a protocol that resizes
#: floats does not round (a cubic leaves that range by a few levels at edges)
Pixels: TypeAlias = "NDArray[np.uint8] | NDArray[np.float32]"


def checked(picture: Picture, whose: str) -> Picture:
    """``picture`` if it is one; XmdptError that begins with ``whose`` for floats, whose scale
    nobody knows and which may hold NaN, and for anything but three channels."""
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise XmdptError(
            f"{whose} is {picture.dtype} {picture.shape}, not a uint8 array of (H, W, 3)",
            "floats in [0, 1] become pictures by (x * 255).round().astype(numpy.uint8)",
        )
    return picture


def unit(picture: Pixels) -> NDArray[np.float32]:
    """float32, 1 is white: the conversion that all published codes begin with."""
    return np.asarray(picture, dtype=np.float32) / np.float32(255)


def unit_tensor(picture: Pixels) -> Tensor:
    """``unit`` as float32 (1, 3, H, W)."""
    chw = np.ascontiguousarray(np.asarray(picture, dtype=np.float32).transpose(2, 0, 1))
    return torch.from_numpy(chw)[None] / 255


def size_of(picture: Pixels) -> str:
    """``176x256``: width, then height."""
    return f"{picture.shape[1]}x{picture.shape[0]}"
