"""95 % confidence intervals over images.

Means use the bootstrap (Efron 1979, scipy's), the Fréchet distance a jackknife (Tukey 1958). They
measure the spread over images, not over datasets or training runs.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

Interval = tuple[float, float]

RESAMPLES = 1000  # of a mean
GROUPS = 20  # of a distance: each takes an eigendecomposition
SEED = 0
_BATCH = 50  # resamples at once: (_BATCH, N) indices
_NORMAL = 1.959963984540054  # 95 % of a normal distribution lie within so many deviations


def mean_interval(values: NDArray[np.float64]) -> Interval | None:
    """The interval of the mean of ``values`` (N,): percentiles 2.5 and 97.5 of 1,000 resamples.

    NaN and infinity are left out, as they are of the mean. None with fewer than two values.
    """
    from scipy.stats import bootstrap

    finite = values[np.isfinite(values)]
    if len(finite) < 2:
        return None
    found = bootstrap(
        (finite,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=_BATCH,
        method="percentile",
        random_state=np.random.default_rng(SEED),
    ).confidence_interval
    return float(found.low), float(found.high)


def frechet_deviation(
    features: NDArray[np.float32],
    mean: NDArray[np.float64],
    root: torch.Tensor,
) -> float | None:
    """Standard error of the Fréchet distance of ``features`` (N, D) from a reference set, by a
    jackknife over 20 groups of images. None for fewer than four images.

    ``mean`` (D,) of the reference set's features, ``root`` (D, r) with root root^T = their
    covariance.

    Not by bootstrap, and so not scipy's: a resample repeats images, so it has less variety than the
    set, and with fewer images than features its distances spread two to three times as wide as
    those of new sets. The jackknife's estimate lies within a third of that
    (tests/metrics/test_intervals.py).

    tr (cov cov_reference)^(1/2) is the sum of the square roots of the eigenvalues of
    root^T cov root; with fewer images than features a smaller matrix has the same ones.
    """
    count = len(features)
    if count < 4:
        return None
    x = torch.from_numpy(np.asarray(features, dtype=np.float64)) - torch.from_numpy(mean)
    squares, y = (x * x).sum(dim=1), x @ root  # (N,), (N, r)
    order = torch.from_numpy(np.random.default_rng(SEED).permutation(count))
    distances = []
    for left_out in order.tensor_split(min(GROUPS, count)):
        kept = torch.ones(count, dtype=torch.bool)
        kept[left_out] = False
        own, number = x[kept].mean(dim=0), int(kept.sum())
        trace = (squares[kept].sum() - number * (own @ own)) / (number - 1)
        part = y[kept] - y[kept].mean(dim=0)
        gram = part.T @ part if part.shape[0] > part.shape[1] else part @ part.T
        values = torch.linalg.eigvalsh(gram / (number - 1)).clamp(min=0)
        distances.append(float(own @ own + trace - 2 * values.sqrt().sum()))
    groups = len(distances)
    return float(np.std(distances) * np.sqrt(groups - 1))


def around(value: float, deviation: float) -> Interval:
    """The normal interval of a value that is never below 0."""
    return max(0.0, value - _NORMAL * deviation), value + _NORMAL * deviation
