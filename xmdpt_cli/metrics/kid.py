"""Kernel distance between two sets of features: Binkowski et al., ICLR 2018 ("KID").

torchmetrics' KernelInceptionDistance has the same kernel (equal to 1e-15 on the same features) but
stores the features of the reference set in its state, samples its subsets from torch's global
generator and refuses sets smaller than a subset: 48,674 images would be read again for every row,
and two runs would give two values.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from xmdpt_cli.metrics.fid import FeatureMetric

SUBSETS, SUBSET_SIZE, SEED = 100, 1000, 0


def kernel_distance(a: NDArray[np.float32], b: NDArray[np.float32]) -> tuple[float, float]:
    """Mean and standard deviation, over SUBSETS random subsets of at most SUBSET_SIZE of each, of
    the unbiased squared MMD with the kernel (x y / D + 1)^3; (N, D) and (M, D), N and M >= 2.

    Unbiased, so unlike FID it needs no thousands of images; it may be slightly negative.
    """
    size = min(SUBSET_SIZE, len(a), len(b))
    rng = np.random.default_rng(SEED)
    found = []
    for _ in range(SUBSETS):
        x, y = (
            np.asarray(part[np.sort(rng.choice(len(part), size, replace=False))], dtype=np.float64)
            for part in (a, b)
        )
        found.append(_mmd(x, y))
        if size == len(a) == len(b):
            break  # there is one subset
    return float(np.mean(found)), float(np.std(found))


def _mmd(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    n, width = x.shape
    xx, yy, xy = ((p @ q.T / width + 1) ** 3 for p, q in ((x, x), (y, y), (x, y)))
    within = (xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)) / (n * (n - 1))
    return float(within - 2 * xy.mean())


class KID(FeatureMetric):
    """Kernel distance of the generated images' features from the reference set's; about 0 for
    equal distributions, possibly slightly below. ``name`` includes the network, as in FID."""

    decimals = 5

    def compute(self) -> Tensor:
        """float64 (): the mean over the subsets; NaN with fewer than two images in either set."""
        own, reference = self.own_features(), self.reference_distribution()
        reference_features = None if reference is None else reference.features
        if len(own) < 2 or reference_features is None:
            return self._scalar(math.nan)
        return self._scalar(kernel_distance(own, reference_features)[0])
