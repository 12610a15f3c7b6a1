"""Bootstrap intervals against statistics that are known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest

from xmdpt_cli.metrics.fid import FeatureStatistics, factor, frechet_distance
from xmdpt_cli.metrics.intervals import around, frechet_deviation, mean_interval


def test_the_interval_of_a_mean_is_close_to_the_normal_interval() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    found = mean_interval(values)
    assert found is not None
    low, high = found
    half = 1.96 * values.std(ddof=1) / math.sqrt(400)
    assert (high + low) / 2 == pytest.approx(values.mean(), abs=0.1 * half)
    assert (high - low) / 2 == pytest.approx(half, rel=0.1)
    assert mean_interval(values) == found  # the same again


def test_intervals_cover_the_true_mean_95_percent_of_the_time() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        found = mean_interval(rng.exponential(1.0, 60))
        assert found is not None
        held += found[0] <= 1.0 <= found[1]
    assert 0.88 <= held / 200 <= 0.99


def test_images_without_a_value_are_left_out() -> None:
    values = np.array([1.0, 2.0, np.nan, 4.0, np.inf])
    found = mean_interval(values)
    assert found is not None
    assert 1.0 <= found[0] < 7 / 3 < found[1] <= 4.0
    assert mean_interval(np.full(5, np.nan)) is None
    assert mean_interval(np.array([np.nan, 7.0, np.nan, np.inf, np.nan])) is None
    assert mean_interval(np.zeros(0)) is None
    assert mean_interval(np.ones(4)) == (1.0, 1.0)


def statistics(features: np.ndarray) -> FeatureStatistics:
    found = FeatureStatistics()
    found.update(features)
    return found


@pytest.mark.parametrize(("count", "width"), [(300, 6), (40, 64), (200, 64)])
def test_frechet_deviation_equals_the_spread_of_new_sets(count: int, width: int) -> None:
    """Compared with the distances of newly sampled sets, also with fewer images than features."""
    rng = np.random.default_rng(2)
    real = statistics(rng.normal(size=(2000, width)))

    def sampled() -> np.ndarray:
        return rng.normal(0.4, 1.3, size=(count, width)).astype(np.float32)

    distances = []
    for _ in range(60):
        own = statistics(sampled())
        distances.append(frechet_distance(own.mean, own.cov, real.mean, real.cov))
    estimates = [frechet_deviation(sampled(), real.mean, factor(real.cov)) for _ in range(8)]
    assert 0.75 < np.mean(estimates) / np.std(distances) < 1.4


def test_frechet_deviation_needs_four_images() -> None:
    real = statistics(np.random.default_rng(3).normal(size=(50, 4)))
    assert frechet_deviation(np.ones((3, 4), np.float32), real.mean, factor(real.cov)) is None
    same = frechet_deviation(np.ones((9, 4), np.float32), real.mean, factor(real.cov))
    assert same == pytest.approx(0.0, abs=1e-9)
    assert around(1.0, 10.0)[0] == 0.0
