"""How images are resized before they are compared, which is part of every published number.

Ground truth and generated image take different paths, which differ between the public
implementations of this field. A score is only meaningful with the name of its protocol:

``cfld``: photographs by PIL's bicubic from the high resolution in one step; generated images by
torch's, antialiased, truncated;
``pidm``: both by PIL's bicubic to a square PNG, which SSIM, PSNR, L1 and MAE compare; for LPIPS
and FID then by OpenCV's bilinear, not antialiased.
``pcdms``: as pidm, but OpenCV's bicubic, and LPIPS on [0, 1] (PCDMs, b3a46fb).
``clean``: for people outside this field: PIL's bicubic, antialiased, for all images, SSIM as Wang
et al. 2004 have it, and the TensorFlow Inception of the first FID.
``native``: images as they are, for sizes that no paper reports.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from xmdpt_cli.errors import ConfigError
from xmdpt_cli.images import ImageArray
from xmdpt_cli.metrics.base import Path, unchanged
from xmdpt_cli.metrics.pixels import Pixels, unit_tensor

#: the evaluated sizes of DeepFashion in the literature, (H, W), by their height
SIZES = {256: (256, 176), 512: (512, 352)}
LOWEST = min(SIZES)

#: read in PIDM's utils/metrics.py (f6499c2) and PCDMs' metrics.py (4861d2c)
PIDM_BATCHES = {"fid": 64, "lpips": 64}
PCDMS_BATCHES = {"fid": 128, "lpips": 64}


@dataclass(frozen=True)
class Protocol:
    """What is compared by which formulas. A ``Path`` is a function that resizes an image:
    uint8 (H, W, 3) -> (h, w, 3) on 0 to 255, uint8 or floats.

    Args:
        name: As in ``xmdpt evaluate --protocol``.
        size: (H, W) of what is compared; None: as the images are.
        ground_truth: Of the ground truth, the reference set and the source images.
        generated: Of the generated images.
        published: Values compare with papers if the inputs are the papers' too.
        square: The square PNG that the two paths start from.
        pixelwise: What all but LPIPS and FID compare; None: as above.
        sigma: Of ssim_256's Gaussian: 1.5 in GFLA, PoCoLD, CFLD; 1.2 in PIDM, PCDMs.
        wang: SSIM of Wang et al., instead of the two of this field.
        lpips_signed: LPIPS on [-1, 1], as it was trained; else on [0, 1].
        inception: FID's network: "torchvision" (ImageNet) or "tensorflow".
        batches: Kind of metric -> batch size of a published evaluator that leaves out a last
            partial batch.
    """

    name: str
    size: tuple[int, int] | None
    ground_truth: Path
    generated: Path
    published: bool
    square: Path | None = None
    pixelwise: Path | None = None
    sigma: float = 1.5
    wang: bool = False
    lpips_signed: bool = True
    inception: str = "torchvision"
    batches: Mapping[str, int] = field(default_factory=dict)


def _pil(size: tuple[int, int], image: ImageArray) -> ImageArray:
    """PIL's bicubic (antialiased, rounded) to (H, W)."""
    if image.shape[:2] == size:
        return image
    resized = Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC)
    return np.array(resized, dtype=np.uint8)


def _torch_bicubic(size: tuple[int, int], image: ImageArray) -> ImageArray:
    """Antialiased bicubic on floats to (H, W), then truncated, not rounded.

    Truncation darkens by half a grey level on average; the published numbers include it.
    """
    if image.shape[:2] == size:
        return image
    floats = F.interpolate(unit_tensor(image), size=size, mode="bicubic", antialias=True)
    grey_levels = floats[0].clamp(0, 1).mul(255).to(torch.uint8)
    return np.ascontiguousarray(grey_levels.permute(1, 2, 0).numpy())


def _square(size: tuple[int, int], image: ImageArray) -> ImageArray:
    """The square PNG of PIDM's folders, as high as (H, W)."""
    return _pil((size[0], size[0]), image)


def _through_square(size: tuple[int, int], method: int, image: ImageArray) -> Pixels:
    """The square PNG, then OpenCV on its float32 grey levels; float32 (H, W, 3)."""
    if image.shape[:2] == size:  # resized already
        return image
    floats = _square(size, image).astype(np.float32)
    return np.asarray(cv2.resize(floats, size[::-1], interpolation=method), dtype=np.float32)


def _protocols(size: tuple[int, int]) -> dict[str, Protocol]:
    pil, square = partial(_pil, size), partial(_square, size)
    linear = partial(_through_square, size, cv2.INTER_LINEAR)
    cubic = partial(_through_square, size, cv2.INTER_CUBIC)
    protocols = [
        Protocol("cfld", size, pil, partial(_torch_bicubic, size), True),
        Protocol("pidm", size, linear, linear, True, square, square, 1.2, batches=PIDM_BATCHES),
        Protocol(
            "pcdms", size, cubic, cubic, True, square,
            sigma=1.2, lpips_signed=False, batches=PCDMS_BATCHES,
        ),
        Protocol("clean", size, pil, pil, False, wang=True, inception="tensorflow"),
    ]  # fmt: skip
    return {protocol.name: protocol for protocol in protocols}


PROTOCOLS = _protocols(SIZES[LOWEST])
NATIVE = Protocol("native", None, unchanged, unchanged, published=False)
NAMES = (*PROTOCOLS, NATIVE.name)


def get_protocol(name: str, height: int = LOWEST) -> Protocol:
    """The protocol of that name, for images of 256x176 or 512x352 (by ``height``).

    ConfigError for another name or height.
    """
    if name == NATIVE.name:
        return NATIVE
    if name not in NAMES:
        raise ConfigError(f"no such protocol: {name}", f"choose one of {', '.join(NAMES)}")
    if height not in SIZES:
        raise ConfigError(
            f"no protocol is {height} px high", f"choose one of {', '.join(map(str, SIZES))}"
        )
    return _protocols(SIZES[height])[name]
