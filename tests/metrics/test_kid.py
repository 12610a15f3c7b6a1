"""The kernel distance against torchmetrics, and that it is unbiased."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from xmdpt_cli.metrics.kid import kernel_distance


def features(seed: int, count: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, (count, 16)).astype(np.float32)


def test_kernel_distance_equals_torchmetrics() -> None:
    from torchmetrics.image.kid import poly_mmd

    a, b = features(0, 80), features(1, 80, 0.3)
    expected = poly_mmd(torch.from_numpy(a).double(), torch.from_numpy(b).double())
    mean, deviation = kernel_distance(a, b)
    assert mean == pytest.approx(float(expected), rel=1e-9)
    assert deviation == 0.0


def test_kernel_distance_is_unbiased() -> None:
    """About 0 for equal distributions, also for few images, where a biased estimate is large."""
    few = [kernel_distance(features(2 * i, 20), features(2 * i + 1, 20))[0] for i in range(60)]
    assert abs(np.mean(few)) < 3 * np.std(few) / np.sqrt(60)
    shifted = kernel_distance(features(0, 1500, 0.5), features(1, 1200))
    assert shifted[0] > 10 * shifted[1] > 0


def test_the_same_features_give_the_same_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xmdpt_cli.metrics.kid.SUBSET_SIZE", 30)  # so that subsets are random
    a, b = features(0, 80, 0.5), features(1, 60)
    assert kernel_distance(a, b)[1] > 0
    assert kernel_distance(a, b) == kernel_distance(a, b)
