"""How pictures are brought to one size before they are compared: part of every published number.

Ground truth and prediction take different paths, so a protocol has one for each. A score means
something only together with the name of its protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.images import Picture
from xmdpt_cli.metrics.fid import unit_tensor

HEIGHT, WIDTH = 256, 176  # the evaluated size of DeepFashion in the literature


@dataclass(frozen=True)
class Protocol:
    """``truth`` also serves the real set and the source pictures: all are photographs."""

    name: str
    truth: Callable[[Picture], Picture]
    prediction: Callable[[Picture], Picture]
    published: bool  # values compare with papers if the inputs are the papers' too


def _same(picture: Picture) -> Picture:
    return picture


def _pil_bicubic(picture: Picture) -> Picture:
    """Any size to (256, 176, 3), from the high-resolution photograph in one step."""
    if picture.shape[:2] == (HEIGHT, WIDTH):
        return picture
    resized = Image.fromarray(picture).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    return np.array(resized, dtype=np.uint8)


def _torch_bicubic(picture: Picture) -> Picture:
    """Any size to (256, 176, 3): antialiased bicubic on floats, then truncated, not rounded.

    Truncation darkens by half a grey level on average; the published numbers include it.
    """
    if picture.shape[:2] == (HEIGHT, WIDTH):
        return picture
    floats = F.interpolate(
        unit_tensor(picture), size=(HEIGHT, WIDTH), mode="bicubic", antialias=True
    )
    grey_levels = floats[0].clamp(0, 1).mul(255).to(torch.uint8)
    return np.ascontiguousarray(grey_levels.permute(1, 2, 0).numpy())


PROTOCOLS = {
    "cfld": Protocol("cfld", _pil_bicubic, _torch_bicubic, published=True),
    # pictures as they are: for sizes that no paper reports
    "native": Protocol("native", _same, _same, published=False),
}


def get_protocol(name: str) -> Protocol:
    """By name; ConfigError for one that does not exist."""
    if name not in PROTOCOLS:
        raise ConfigError(f"no such protocol: {name}", f"choose one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def mean_picture(pictures: Iterable[Picture], protocol: str | Protocol) -> Picture:
    """The mean of photographs after the protocol's resize, rounded to uint8.

    Raises XmdptError where there are none, or where they keep different sizes.
    """
    chosen = get_protocol(protocol) if isinstance(protocol, str) else protocol
    total: NDArray[np.float64] | None = None
    count = 0
    for picture in map(chosen.truth, pictures):
        if total is None:
            total = np.zeros(picture.shape)
        if total.shape != picture.shape:
            raise XmdptError(
                "no mean of pictures of different sizes", "use a protocol that resizes them: cfld"
            )
        total += picture
        count += 1
    if total is None:
        raise XmdptError("no mean image: there are no pictures")
    return np.rint(total / count).astype(np.uint8)
