"""PSNR, L1 and MAE of a generated image and its ground truth.

Two arrays of one shape (``pixels.Pixels``) are compared as float32 on [0, 1] (grey level / 255),
as the published codes do; sums are taken in float64.
"""

from __future__ import annotations

import math

import numpy as np

from xmdpt_cli.metrics.base import PairMetric, check_sizes
from xmdpt_cli.metrics.pixels import Pixels, unit


def psnr(a: Pixels, b: Pixels) -> float:
    """10 log10(1 / MSE), in dB; +inf for equal images.

    Scikit-image's value on float32 input: float32 difference and square, float64 mean.
    """
    check_sizes(a, b)
    error = float(np.mean((unit(a) - unit(b)) ** 2, dtype=np.float64))
    return math.inf if error == 0 else float(10 * np.log10(1.0 / error))


def l1(a: Pixels, b: Pixels) -> float:
    """mean |a - b|, in [0, 1]."""
    check_sizes(a, b)
    return float(np.mean(np.abs(unit(a) - unit(b)), dtype=np.float64))


def mae(a: Pixels, b: Pixels) -> float:
    """sum |a - b| / sum (a + b), in [0, 1]: GFLA's and PIDM's "MAE". NaN for two black images."""
    check_sizes(a, b)
    x, y = unit(a), unit(b)
    total = float(np.sum(x, dtype=np.float64) + np.sum(y, dtype=np.float64))
    return float(np.sum(np.abs(x - y), dtype=np.float64)) / total if total else math.nan


class PSNR(PairMetric):
    """Peak signal-to-noise ratio in dB (``psnr``): of each pair, then the mean over the pairs.

    Equal images have an infinite PSNR, which the mean leaves out. torchmetrics' own PSNR pools
    the squared errors of all images, which is another number.
    """

    name = "psnr"
    higher_is_better = True
    decimals = 2

    def measure(self, generated: Pixels, ground_truth: Pixels) -> float:
        return psnr(generated, ground_truth)


class L1(PairMetric):
    """Mean absolute difference on [0, 1] (``l1``)."""

    name = "l1"
    higher_is_better = False

    def measure(self, generated: Pixels, ground_truth: Pixels) -> float:
        return l1(generated, ground_truth)


class MAE(PairMetric):
    """GFLA's and PIDM's "MAE" (``mae``), a share of the images' brightness."""

    name = "mae"
    higher_is_better = False

    def measure(self, generated: Pixels, ground_truth: Pixels) -> float:
        return mae(generated, ground_truth)
