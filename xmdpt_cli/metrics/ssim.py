"""SSIM in three forms: with a uniform window of 51 pixels, ``ssim_256``, and that of Wang et al.

The literature on pose-guided synthesis reports two different numbers as "SSIM", so both are here,
by name. They were fixed by the evaluation code of GFLA (Ren et al., CVPR 2020) and PIDM (Bhunia et
al., CVPR 2023), which later work reuses. torchmetrics' StructuralSimilarityIndexMeasure gives none
of them: it does not crop the border, which moves SSIM by up to 0.16.

All functions take two arrays of one shape (``pixels.Pixels``). The published code turns them into
float32 before anything else; the conversions below repeat that rounding, then SSIM is computed in
float64.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.metrics.base import PairMetric, check_sizes
from xmdpt_cli.metrics.pixels import Pixels, unit

Floats = NDArray[np.float64]

SSIM_WINDOW = 51  # GFLA, PIDM: compare_ssim(win_size=51)
_K1, _K2 = 0.01, 0.03  # Wang et al. 2004, sec. III-C
_TRUNCATE = 3.5  # of the Gaussian window, in sigmas: 11 taps at 1.5, 9 at 1.2 (scikit-image)


def ssim_w51(a: Pixels, b: Pixels) -> float:
    """SSIM with a uniform 51 x 51 window on [0, 1], sample covariance, border left out.

    Symmetric; 1 for equal images. Raises XmdptError for images under 51 px on a side.
    """
    check_sizes(a, b, SSIM_WINDOW)

    def window_mean(values: Floats, into: Floats) -> None:
        cv2.boxFilter(values, cv2.CV_64F, (SSIM_WINDOW, SSIM_WINDOW), dst=into)

    samples = SSIM_WINDOW**2
    factor = samples / (samples - 1)
    return _ssim(unit(a), unit(b), window_mean, SSIM_WINDOW // 2, factor, data_range=1.0)


def ssim_256(generated: Pixels, ground_truth: Pixels, sigma: float = 1.5) -> float:
    """SSIM with a Gaussian window on [0, 255], population covariance, border left out.

    NOT symmetric: the data range is the *generated* image's own (max - min), as in the published
    code, so an image of low contrast gets a lower value. ``sigma`` is 1.5 in GFLA, PoCoLD and
    CFLD, 1.2 in PIDM and PCDMs. NaN for a generated image of a single colour: without a data range
    the formula becomes 0/0. Raises XmdptError for images smaller than the window.
    """
    # float32 times 255, then float64: the rounding of the published code
    x, y = (unit(p) * np.float32(255) for p in (generated, ground_truth))
    data_range = float(x.max() - x.min())
    check_sizes(generated, ground_truth, 2 * _radius(sigma) + 1)
    return math.nan if data_range == 0 else _gaussian_ssim(x, y, sigma, data_range)


def ssim(a: Pixels, b: Pixels) -> float:
    """SSIM as Wang et al. 2004 have it: Gaussian window of 11 (sigma 1.5), data range 1 on [0, 1],
    population covariance, border left out; the mean of the three channels. The value of
    scikit-image with ``gaussian_weights``; papers of this field do not report it."""
    check_sizes(a, b, 2 * _radius(1.5) + 1)
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


def _radius(sigma: float) -> int:
    return int(_TRUNCATE * sigma + 0.5)


class _Scratch(threading.local):
    """Reused buffers, one set per thread: page faults of new arrays of a megabyte cost more than
    the computation."""

    def __init__(self) -> None:
        self._shape: tuple[int, ...] = ()
        self._arrays: list[Floats] = []

    def arrays(self, shape: tuple[int, ...]) -> list[Floats]:
        """Seven uninitialized arrays of that shape."""
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
    """Wang et al. 2004, eq. 13, per channel and pixel; the mean over all complete windows."""
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
    # including the border: three times faster than the inner part alone
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


class SSIMW51(PairMetric):
    """SSIM with a uniform window of 51 px (``ssim_w51``), in [-1, 1]; NaN under 51 px a side.

    GFLA's and PIDM's ``compare_ssim(win_size=51)``: see ``ssim_w51``.
    """

    name = "ssim_w51"
    higher_is_better = True
    smallest = SSIM_WINDOW

    def measure(self, generated: Pixels, ground_truth: Pixels) -> float:
        return ssim_w51(generated, ground_truth)


class SSIM256(PairMetric):
    """SSIM with a Gaussian window (``ssim_256``), in [-1, 1]: probably the "SSIM" of recent papers.

    ``sigma``: 1.5 in GFLA, PoCoLD and CFLD, 1.2 in PIDM and PCDMs. NaN for a generated image of a
    single colour, and for images smaller than the window.
    """

    name = "ssim_256"
    higher_is_better = True

    def __init__(self, sigma: float = 1.5, **kwargs: Any) -> None:
        super().__init__(state=f"ssim_256_sigma_{sigma}_values", **kwargs)
        self.sigma = sigma
        self.smallest = 2 * _radius(sigma) + 1

    def measure(self, generated: Pixels, ground_truth: Pixels) -> float:
        return ssim_256(generated, ground_truth, self.sigma)


class SSIM(PairMetric):
    """SSIM as Wang et al. 2004 have it (``ssim``), in [-1, 1]; NaN under 11 px a side."""

    name = "ssim"
    higher_is_better = True
    smallest = 11

    def measure(self, generated: Pixels, ground_truth: Pixels) -> float:
        return ssim(generated, ground_truth)
