"""Measures of one prediction against its ground truth: SSIM twice, PSNR and L1.

The literature on pose-guided synthesis prints two different numbers as "SSIM", so both are
here, by name. They were fixed by the evaluation code of GFLA (Ren et al., CVPR 2020) and PIDM
(Bhunia et al., CVPR 2023), which later work reuses; common metric libraries have other defaults
and give other values.

All functions take two pictures: uint8 (H, W, 3), RGB, of one shape. The published code turns
them into float32 before anything else; the conversions below repeat that rounding, then SSIM
is computed in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.images import Picture

Floats = NDArray[np.float64]

SSIM_WINDOW = 51  # GFLA, PIDM: compare_ssim(win_size=51)
_K1, _K2 = 0.01, 0.03  # Wang et al. 2004, sec. III-C
_TRUNCATE = 3.5  # of the Gaussian window, in sigmas: 11 taps at 1.5, 9 at 1.2 (scikit-image)


def measure(pred: Picture, truth: Picture) -> dict[str, float | None]:
    """All measures of this file by name; None where a window is larger than the pictures, or
    where the value is undefined."""
    smallest = min(truth.shape[:2])
    gaussian = ssim_256(pred, truth) if smallest >= 2 * _radius(1.5) + 1 else math.nan
    return {
        "ssim_w51": ssim_w51(pred, truth) if smallest >= SSIM_WINDOW else None,
        "ssim_256": None if math.isnan(gaussian) else gaussian,
        "psnr": psnr(pred, truth),
        "l1": l1(pred, truth),
    }


def ssim_w51(a: Picture, b: Picture) -> float:
    """SSIM with a uniform 51 x 51 window on [0, 1], sample covariance, border left out.

    Symmetric; 1 for equal pictures. Raises XmdptError for pictures under 51 px on a side.
    """
    _check_shapes(a, b, SSIM_WINDOW)
    x, y = (_unit(p).astype(np.float64) for p in (a, b))

    def window_mean(values: Floats) -> Floats:
        return cv2.boxFilter(values, cv2.CV_64F, (SSIM_WINDOW, SSIM_WINDOW))

    samples = SSIM_WINDOW**2
    return _ssim(x, y, window_mean, SSIM_WINDOW // 2, samples / (samples - 1), data_range=1.0)


def ssim_256(pred: Picture, truth: Picture, sigma: float = 1.5) -> float:
    """SSIM with a Gaussian window on [0, 255], population covariance, border left out.

    NOT symmetric: the data range is the *prediction's* own (max - min), as in the published
    code, so a flat prediction is judged more harshly. ``sigma`` is 1.5 in GFLA, PoCoLD and
    CFLD, 1.2 in PIDM and PCDMs. NaN for a prediction of a single colour: without a data range
    the formula becomes 0/0. Raises XmdptError for pictures smaller than the window.
    """
    radius = _radius(sigma)
    _check_shapes(pred, truth, 2 * radius + 1)
    # float32 times 255, then float64: the rounding of the published code
    x32, y32 = (_unit(p) * np.float32(255) for p in (pred, truth))
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    taps /= taps.sum()

    def window_mean(values: Floats) -> Floats:
        return cv2.sepFilter2D(values, cv2.CV_64F, taps, taps)

    x, y = x32.astype(np.float64), y32.astype(np.float64)
    data_range = float(x32.max() - x32.min())
    if data_range == 0:
        return math.nan
    return _ssim(x, y, window_mean, radius, 1.0, data_range)


def psnr(a: Picture, b: Picture) -> float:
    """Peak signal-to-noise ratio in dB on [0, 1] of one pair; +inf for equal pictures."""
    _check_shapes(a, b, 1)
    # float32 difference and square, float64 mean: scikit-image on float32 input
    error = float(np.mean((_unit(a) - _unit(b)) ** 2, dtype=np.float64))
    return math.inf if error == 0 else float(10 * np.log10(1.0 / error))


def l1(a: Picture, b: Picture) -> float:
    """Mean absolute difference on [0, 1]."""
    _check_shapes(a, b, 1)
    return float(np.mean(np.abs(_unit(a) - _unit(b)), dtype=np.float64))


def _radius(sigma: float) -> int:
    return int(_TRUNCATE * sigma + 0.5)


def _unit(picture: Picture) -> NDArray[np.float32]:
    return picture.astype(np.float32) / np.float32(255)


def _ssim(
    x: Floats,  # (H, W, 3)
    y: Floats,
    window_mean: Callable[[Floats], Floats],
    border: int,
    covariance_factor: float,  # sample covariance over population covariance
    data_range: float,
) -> float:
    """Wang et al. 2004, eq. 13, per channel and pixel; the mean over all whole windows."""
    inner = (slice(border, x.shape[0] - border), slice(border, x.shape[1] - border))
    ux, uy = window_mean(x)[inner], window_mean(y)[inner]
    squares, product = ux * ux + uy * uy, ux * uy
    # the two variances are only needed as a sum: one window mean less
    variances = covariance_factor * (window_mean(x * x + y * y)[inner] - squares)
    covariance = covariance_factor * (window_mean(x * y)[inner] - product)
    c1, c2 = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
    numerator = (2 * product + c1) * (2 * covariance + c2)
    denominator = (squares + c1) * (variances + c2)
    return float(np.mean(numerator / denominator))


def _check_shapes(a: Picture, b: Picture, smallest: int) -> None:
    if a.shape != b.shape:
        raise XmdptError(
            f"pictures of different sizes cannot be compared: {_size(a)} and {_size(b)}",
            "choose a protocol that brings both to one size, for example cfld",
        )
    if min(a.shape[:2]) < smallest:
        raise XmdptError(
            f"a picture of {_size(a)} is smaller than the {smallest} px window of this SSIM",
            f"evaluate pictures of at least {smallest} x {smallest} px",
        )


def _size(picture: Picture) -> str:
    return f"{picture.shape[1]} x {picture.shape[0]} px"
