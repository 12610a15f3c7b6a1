"""Fréchet distance between two sets of features: Heusel et al., NeurIPS 2017, eq. 6 ("FID").

torchmetrics' FrechetInceptionDistance has other digits, so it is not used: on the same features in
float64 it differs by 2e-5 where there are fewer images than features, because it takes the
eigenvalues of the product of the covariances, and it sums plain squares, which lose the covariance
of features whose mean is large against their spread. It also keeps no features, so it has neither
a confidence interval nor images that can be left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from xmdpt_cli.metrics.base import ImageMetric, Path
from xmdpt_cli.metrics.features import FeatureExtractor, inception_features
from xmdpt_cli.metrics.intervals import Interval, around, frechet_deviation

Floats = NDArray[np.float64]

_CHUNK = 16  # features that are added to the sums at once


class FeatureStatistics:
    """Mean and covariance of a stream of features, in float64, in memory O(D^2).

    Sums are taken relative to the mean of the first batch: plain sums of squares would lose
    the covariance of features whose mean is large against their spread.
    """

    def __init__(self) -> None:
        self.count = 0
        self._origin = torch.zeros(0, dtype=torch.float64)
        self._sum = self._outer = self._origin

    def update(self, features: NDArray[Any]) -> None:
        """Add ``features`` (N, D), any float type, N >= 1."""
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
    stays real and accurate for covariances of low rank (fewer images than features), where
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


@dataclass(frozen=True, eq=False)
class FeatureDistribution:
    """Statistics of the features of a set of images, for FID and KID.

    Args:
        mean: (D,).
        cov: (D, D).
        features: (N, D), which only KID needs.
    """

    mean: Floats
    cov: Floats
    features: NDArray[np.float32] | None = None

    @classmethod
    def of(cls, features: NDArray[np.float32]) -> FeatureDistribution:
        """Compute the statistics of ``features`` (N, D), N >= 2."""
        statistics = FeatureStatistics()
        for start in range(0, len(features), _CHUNK):
            statistics.update(features[start : start + _CHUNK])
        return cls(statistics.mean, statistics.cov, features)

    @cached_property
    def root(self) -> Tensor:
        """``factor(cov)``: seconds for 2,048 features, so once for all rows of an evaluation."""
        return factor(self.cov)


class FeatureMetric(ImageMetric):
    """Base of FID and KID: keeps the features of every generated image, float32 (N, D).

    Without a ``reference`` the ground truth images of ``update`` are the reference set, and their
    features are kept too.
    """

    higher_is_better = False
    network: FeatureExtractor
    reference_features: list[Tensor]

    def __init__(
        self,
        network: FeatureExtractor | None = None,
        reference: FeatureDistribution | None = None,
        **kwargs: Any,
    ) -> None:
        """``network``: torchvision's published inception_v3 by default."""
        network = network or inception_features()
        self.name = f"{type(self).__name__.lower()}_{network.name}"
        super().__init__(state="features", **kwargs)
        self.network, self.reference = network, reference
        self.weights, self.toy = network.weights, network.toy
        if reference is None:
            self.add_state("reference_features", default=[], dist_reduce_fx="cat")

    def update(self, generated: Tensor, ground_truth: Tensor) -> None:
        """Add a batch of images, uint8 (N, 3, H, W)."""
        self._keep(self._features(self.resize.generated, generated))
        if self.reference is None:
            own = self._features(self.resize.ground_truth, ground_truth)
            self.reference_features.append(own)

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the features of all ranks."""
        if self.reference is None and not len(self.reference_features):
            self.reference_features.append(self._empty())
        super().sync(*args, **kwargs)

    def own_features(self) -> NDArray[np.float32]:
        """(N, D) of the generated images."""
        return self.rows().cpu().numpy()

    def reference_distribution(self) -> FeatureDistribution | None:
        """Of the reference set; None with fewer than two images."""
        if self.reference is not None:
            return self.reference
        kept = self.reference_features
        features = (dim_zero_cat(kept) if len(kept) else self._empty()).cpu().numpy()
        return FeatureDistribution.of(features) if len(features) > 1 else None

    def _features(self, path: Path, images: Tensor) -> Tensor:
        found = self.resize.once(self.network, self.resize.batch(path, images))
        return torch.from_numpy(found).to(self.device)

    def _empty(self) -> Tensor:
        return torch.zeros(0, self.network.num_features, device=self.device)


class FID(FeatureMetric):
    """Fréchet distance of the generated images' features from the reference set's, 0 or more.

    ``name`` includes the network: ``fid_tvinception`` is torchvision's ImageNet inception_v3, which
    this field uses; its values are not comparable with those of the original FID network.
    """

    def compute(self) -> Tensor:
        """float64 (); NaN with fewer than two images in either set."""
        features, reference = self.own_features(), self.reference_distribution()
        if len(features) < 2 or reference is None:
            return self._scalar(math.nan)
        own = FeatureDistribution.of(features)
        distance = frechet_distance(
            own.mean, own.cov, reference.mean, reference.cov, reference.root
        )
        return self._scalar(distance)

    def interval(self) -> Interval | None:
        """By jackknife over the generated images; None with fewer than four."""
        reference = self.reference_distribution()
        if reference is None:
            return None
        deviation = frechet_deviation(self.own_features(), reference.mean, reference.root)
        return None if deviation is None else around(float(self.compute()), deviation)
