"""Measures of one prediction against its ground truth: SSIM in three ways, PSNR, L1 and MAE.

The literature on pose-guided synthesis prints two different numbers as "SSIM", so both are
here, by name. They were fixed by the evaluation code of GFLA (Ren et al., CVPR 2020) and PIDM
(Bhunia et al., CVPR 2023), which later work reuses; common metric libraries have other defaults
and give other values.

All functions take two pictures of one shape (``pictures.Pixels``). The published code turns
them into float32 before anything else; the conversions below repeat that rounding, then SSIM
is computed in float64.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.metrics.pictures import Pixels, size_of, unit

Floats = NDArray[np.float64]

SSIM_WINDOW = 51  # GFLA, PIDM: compare_ssim(win_size=51)
_K1, _K2 = 0.01, 0.03  # Wang et al. 2004, sec. III-C
_TRUNCATE = 3.5  # of the Gaussian window, in sigmas: 11 taps at 1.5, 9 at 1.2 (scikit-image)


def measure(
    pred: Pixels,
    truth: Pixels,
    *,
    sigma: float = 1.5,
    wang: bool = False,
) -> dict[str, float | None]:
    """All measures of this file by name; None where a window is larger than the pictures, or
    where the value is undefined.

    ``sigma``: of ``ssim_256``. ``wang``: ``ssim`` in the place of the two SSIMs of this field.
    """
    fits = min(truth.shape[:2]) >= 2 * _radius(1.5 if wang else sigma) + 1
    values: dict[str, float | None] = {}
    if wang:
        values["ssim"] = ssim(pred, truth) if fits else None
    else:
        wide = min(truth.shape[:2]) >= SSIM_WINDOW
        values["ssim_w51"] = ssim_w51(pred, truth) if wide else None
        gaussian = ssim_256(pred, truth, sigma) if fits else math.nan
        values["ssim_256"] = None if math.isnan(gaussian) else gaussian
    share = mae(pred, truth)
    return {
        **values,
        "psnr": psnr(pred, truth),
        "l1": l1(pred, truth),
        "mae": None if math.isnan(share) else share,
    }


def ssim_w51(a: Pixels, b: Pixels) -> float:
    """SSIM with a uniform 51 x 51 window on [0, 1], sample covariance, border left out.

    Symmetric; 1 for equal pictures. Raises XmdptError for pictures under 51 px on a side.
    """
    _check_shapes(a, b, SSIM_WINDOW)

    def window_mean(values: Floats, into: Floats) -> None:
        cv2.boxFilter(values, cv2.CV_64F, (SSIM_WINDOW, SSIM_WINDOW), dst=into)

    samples = SSIM_WINDOW**2
    factor = samples / (samples - 1)
    return _ssim(unit(a), unit(b), window_mean, SSIM_WINDOW // 2, factor, data_range=1.0)


def ssim_256(pred: Pixels, truth: Pixels, sigma: float = 1.5) -> float:
    """SSIM with a Gaussian window on [0, 255], population covariance, border left out.

    NOT symmetric: the data range is the *prediction's* own (max - min), as in the published
    code, so a flat prediction is judged more harshly. ``sigma`` is 1.5 in GFLA, PoCoLD and
    CFLD, 1.2 in PIDM and PCDMs. NaN for a prediction of a single colour: without a data range
    the formula becomes 0/0. Raises XmdptError for pictures smaller than the window.
    """
    # float32 times 255, then float64: the rounding of the published code
    x, y = (unit(p) * np.float32(255) for p in (pred, truth))
    data_range = float(x.max() - x.min())
    _check_shapes(pred, truth, 2 * _radius(sigma) + 1)
    return math.nan if data_range == 0 else _gaussian_ssim(x, y, sigma, data_range)


def ssim(a: Pixels, b: Pixels) -> float:
    """SSIM as Wang et al. 2004 have it: Gaussian window of 11 (sigma 1.5), data range 1 on [0, 1],
    population covariance, border left out; the mean of the three channels. What scikit-image gives
    with ``gaussian_weights``, and not what this field prints."""
    _check_shapes(a, b, 2 * _radius(1.5) + 1)
    return _gaussian_ssim(unit(a), unit(b), 1.5, 1.0)


def _gaussian_ssim(
    a: NDArray[np.float32], b: NDArray[np.float32], sigma: float, data_range: float
) -> float:
    radius = _radius(sigma)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    taps /= taps.sum()

    def window_mean(values: Floats, into: Floats) -> None:
        cv2.sepFilter2D(values, cv2.CV_64F, taps, taps, dst=into)

    return _ssim(a, b, window_mean, radius, 1.0, data_range)


def psnr(a: Pixels, b: Pixels) -> float:
    """Peak signal-to-noise ratio in dB on [0, 1] of one pair; +inf for equal pictures."""
    _check_shapes(a, b, 1)
    # float32 difference and square, float64 mean: scikit-image on float32 input
    error = float(np.mean((unit(a) - unit(b)) ** 2, dtype=np.float64))
    return math.inf if error == 0 else float(10 * np.log10(1.0 / error))


def l1(a: Pixels, b: Pixels) -> float:
    """Mean absolute difference on [0, 1]."""
    _check_shapes(a, b, 1)
    return float(np.mean(np.abs(unit(a) - unit(b)), dtype=np.float64))


def mae(a: Pixels, b: Pixels) -> float:
    """GFLA's and PIDM's "MAE": sum |a - b| over sum (a + b). NaN for two black pictures."""
    _check_shapes(a, b, 1)
    x, y = unit(a), unit(b)
    total = float(np.sum(x, dtype=np.float64) + np.sum(y, dtype=np.float64))
    return float(np.sum(np.abs(x - y), dtype=np.float64)) / total if total else math.nan


def _radius(sigma: float) -> int:
    return int(_TRUNCATE * sigma + 0.5)


class _Scratch(threading.local):
    """Arrays that are used again: new ones of a megabyte cost more than what is computed in them,
    for the system hands out their pages one by one. Each thread has its own."""

    def __init__(self) -> None:
        self._shape: tuple[int, ...] = ()
        self._arrays: list[Floats] = []

    def arrays(self, shape: tuple[int, ...]) -> list[Floats]:
        """Seven of that shape, with anything in them."""
        if shape != self._shape:
            self._shape, self._arrays = shape, [np.empty(shape) for _ in range(7)]
        return self._arrays


_scratch = _Scratch()


def _ssim(
    a: NDArray[np.float32],  # (H, W, 3)
    b: NDArray[np.float32],
    window_mean: Callable[[Floats, Floats], None],
    border: int,
    covariance_factor: float,  # sample covariance over population covariance
    data_range: float,
) -> float:
    """Wang et al. 2004, eq. 13, per channel and pixel; the mean over all whole windows."""
    x, y, ux, uy, variances, covariance, product = _scratch.arrays(a.shape)
    np.copyto(x, a)
    np.copyto(y, b)
    window_mean(x, ux)
    window_mean(y, uy)
    np.multiply(x, y, out=product)
    window_mean(product, covariance)
    # the two variances are only needed as a sum: one window mean less
    np.multiply(x, x, out=x)
    np.multiply(y, y, out=y)
    np.add(x, y, out=x)
    window_mean(x, variances)
    # of the whole picture, the border too: three times faster than of its inner part alone
    np.multiply(ux, uy, out=product)
    np.multiply(ux, ux, out=ux)
    np.multiply(uy, uy, out=uy)
    squares = np.add(ux, uy, out=ux)
    for moments, means in ((variances, squares), (covariance, product)):
        moments -= means
        moments *= covariance_factor
    c1, c2 = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
    for means in (product, covariance):
        means *= 2
    for part, constant in ((product, c1), (covariance, c2), (squares, c1), (variances, c2)):
        part += constant
    product *= covariance
    squares *= variances
    product /= squares
    return float(np.mean(product[border : a.shape[0] - border, border : a.shape[1] - border]))


def _check_shapes(a: Pixels, b: Pixels, smallest: int) -> None:
    if a.shape != b.shape:
        raise XmdptError(
            f"pictures of different sizes cannot be compared: {size_of(a)} and {size_of(b)}",
            "choose a protocol that brings both to one size, for example cfld",
        )
    if min(a.shape[:2]) < smallest:
        raise XmdptError(
            f"a picture of {size_of(a)} px is smaller than the {smallest} px window of this SSIM",
            f"evaluate pictures of at least {smallest} x {smallest} px",
        )
