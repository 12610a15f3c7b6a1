"""95 % intervals over pictures: how far a number would move with others of their kind.

Of means by bootstrap (Efron 1979), of distances between sets by jackknife (Tukey 1958).

Drawn from the pictures that were measured, so they say nothing of another dataset or training.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from xmdpt_cli.metrics.frechet import Floats, factor

RESAMPLES = 1000  # of a mean
GROUPS = 20  # of a distance: each takes an eigendecomposition
SEED = 0
_CHUNK = 50  # resamples at once: their counts are a (_CHUNK, N) matrix
_NORMAL = 1.959963984540054  # of a normal distribution 95 % lie within so many deviations


def resampled_means(values: Sequence[Floats]) -> list[tuple[float, float] | None]:
    """Of several measures (N,) of the same pictures: the interval of each one's mean.

    NaN and infinity stand for pictures without a value, left out of the mean. None: fewer than two
    have one. The percentiles 2.5 and 97.5 of RESAMPLES means.
    """
    if not values:
        return []
    table = np.array(values, dtype=np.float64).reshape(len(values), -1)  # (M, N)
    known = np.isfinite(table)
    table = np.where(known, table, 0.0)
    count = table.shape[1]
    if not count:
        return [None] * len(table)
    rng = np.random.default_rng(SEED)
    means = []
    for _ in range(RESAMPLES // _CHUNK):
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=_CHUNK).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            means.append((drawn @ table.T) / (drawn @ known.T))
    drawn_means = np.concatenate(means)
    found: list[tuple[float, float] | None] = []
    for m in range(len(table)):
        if known[m].sum() < 2:
            found.append(None)
            continue
        low, high = np.nanpercentile(drawn_means[:, m], (2.5, 97.5))
        found.append((float(low), float(high)))
    return found


def frechet_deviation(
    features: NDArray[np.float32],
    real_mean: Floats,
    real_cov: Floats,
    real_root: torch.Tensor | None = None,
) -> float | None:
    """Standard error of the Fréchet distance of ``features`` (N, D), by a jackknife over GROUPS
    groups of pictures. None for fewer than four pictures. ``real_root``: ``factor(real_cov)``,
    where it is known already.

    Not by bootstrap: a resample repeats pictures, so it has less variety than the set, and of fewer
    pictures than features its distances spread two to three times as wide as those of new sets; the
    jackknife's estimate lies within a third of that (tests/metrics/test_intervals.py).

    With cov_real = F F^T, tr (cov cov_real)^(1/2) is the sum of the square roots of the eigenvalues
    of F^T cov F; of fewer pictures than features a smaller matrix has the same ones.
    """
    count = len(features)
    if count < 4:
        return None
    x = torch.from_numpy(np.asarray(features, dtype=np.float64)) - torch.from_numpy(real_mean)
    root = factor(real_cov) if real_root is None else real_root  # (D, r)
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


def around(value: float, deviation: float) -> tuple[float, float]:
    """The normal interval of a value that is never below 0."""
    return max(0.0, value - _NORMAL * deviation), value + _NORMAL * deviation
