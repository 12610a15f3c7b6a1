"""Fréchet distance between two sets of features: Heusel et al., NeurIPS 2017, eq. 6."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]


class FrechetAccumulator:
    """Mean and covariance of a stream of features, in float64, in memory O(D^2).

    Sums are taken relative to the mean of the first batch: plain sums of squares would lose
    the covariance of features whose mean is large against their spread.
    """

    def __init__(self) -> None:
        self.count = 0
        self._origin = torch.zeros(0, dtype=torch.float64)
        self._sum = self._outer = self._origin

    def update(self, features: NDArray[Any]) -> None:
        """Take in ``features`` (N, D), any float type, N >= 1."""
        batch = torch.from_numpy(np.asarray(features, dtype=np.float64))
        if self.count == 0:
            width = batch.shape[1]
            self._origin = batch.mean(dim=0)
            self._sum = torch.zeros(width, dtype=torch.float64)
            self._outer = torch.zeros(width, width, dtype=torch.float64)
        batch = batch - self._origin
        self.count += len(batch)
        self._sum += batch.sum(dim=0)
        self._outer.addmm_(batch.T, batch)

    @property
    def mean(self) -> Floats:
        """(D,)"""
        return (self._origin + self._sum / self.count).numpy()

    @property
    def cov(self) -> Floats:
        """(D, D), divided by N - 1 as in np.cov; needs two features."""
        assert self.count > 1, "a covariance needs two features"
        centred = self._outer - torch.outer(self._sum, self._sum) / self.count
        return (centred / (self.count - 1)).numpy()


def frechet_distance(
    mu1: Floats, cov1: Floats, mu2: Floats, cov2: Floats, root2: Tensor | None = None
) -> float:
    """|mu1 - mu2|^2 + tr(cov1 + cov2 - 2 (cov1 cov2)^(1/2)); never below 0. ``root2``:
    ``factor(cov2)``, where it is known already.

    With cov = A A^T, tr (cov1 cov2)^(1/2) is the sum of the singular values of A1^T A2. That
    stays real and accurate for covariances of low rank (fewer pictures than features), where
    the matrix square root of the product does not exist or is noise.
    """
    cross = torch.linalg.svdvals(factor(cov1).T @ (factor(cov2) if root2 is None else root2)).sum()
    difference = mu1 - mu2
    distance = difference @ difference + np.trace(cov1) + np.trace(cov2) - 2 * float(cross)
    return max(float(distance), 0.0)


def factor(cov: Floats) -> Tensor:
    """A (D, rank) with A A^T = cov; eigenvalues that are rounding noise are left out."""
    # torch, not numpy: its threads are the ones that the program sets
    values, vectors = torch.linalg.eigh(torch.from_numpy(cov))
    noise = len(values) * torch.finfo(torch.float64).eps * values[-1].clamp(min=0)
    kept = values > noise
    return vectors[:, kept] * values[kept].sqrt()
