"""SSIM, PSNR and L1 against values of the published evaluation codes and against scikit-image."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from pair_values import pair_values as measure
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.images import ImageArray
from xmdpt_cli.metrics.pixel_metrics import l1, mae, psnr
from xmdpt_cli.metrics.ssim import ssim, ssim_256, ssim_w51

Shared = Callable[[str], Path]


def image(seed: int, size: tuple[int, int] = (96, 70), contrast: int = 255) -> ImageArray:
    """Smooth blotches of colour."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, contrast + 1, (9, 7, 3), dtype=np.uint8)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)


def noisy(clean: ImageArray, seed: int, sigma: float = 20) -> ImageArray:
    noise = np.random.default_rng(seed).normal(0, sigma, clean.shape)
    return np.clip(clean + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("size", [(96, 70), (51, 64), (64, 64)])
def test_ssim_w51_equals_scikit_image_with_a_uniform_window(size: tuple[int, int]) -> None:
    a = image(1, size)
    b = noisy(a, 2)
    x, y = (p.astype(np.float32) / np.float32(255) for p in (a, b))
    expected = structural_similarity(
        x.astype(np.float64), y.astype(np.float64), win_size=51, data_range=1.0, channel_axis=2
    )
    assert ssim_w51(a, b) == pytest.approx(expected, abs=1e-11)
    assert ssim_w51(a, b) == pytest.approx(ssim_w51(b, a), abs=1e-13)


@pytest.mark.parametrize("sigma", [1.2, 1.5])
def test_ssim_256_uses_the_data_range_of_the_generated_image(sigma: float) -> None:
    ground_truth, pred = image(3), image(4, contrast=90)
    spans = [float(p.max()) - float(p.min()) for p in (pred, ground_truth)]
    assert spans[0] < spans[1] / 2
    right, wrong = (
        structural_similarity(
            ground_truth.astype(np.float64),
            pred.astype(np.float64),
            gaussian_weights=True,
            use_sample_covariance=False,
            sigma=sigma,
            data_range=span,
            channel_axis=2,
        )
        for span in spans
    )
    assert ssim_256(pred, ground_truth, sigma) == pytest.approx(right, abs=1e-6)
    assert abs(ssim_256(pred, ground_truth, sigma) - wrong) > 1e-4


def test_ssim_of_wang_equals_scikit_image() -> None:
    a = image(11)
    b = noisy(a, 12)
    x, y = (p.astype(np.float64) / 255 for p in (a, b))
    expected = structural_similarity(
        x, y, gaussian_weights=True, use_sample_covariance=False, data_range=1, channel_axis=2
    )
    assert ssim(a, b) == pytest.approx(expected, abs=1e-7)
    assert ssim(b, a) == pytest.approx(ssim(a, b), abs=1e-13)


def test_float_grey_levels_are_not_rounded() -> None:
    """As PIDM's and PCDMs' resizes leave them, also beyond 0 and 255."""
    a, b = image(13), image(14)
    floats = [p.astype(np.float32) for p in (a, b)]
    assert measure(*floats) == measure(a, b)
    half = floats[0] + np.float32(0.5)
    assert l1(half, floats[0]) == pytest.approx(0.5 / 255, rel=1e-5)
    assert ssim_w51(a, b) != measure(half, floats[1])["ssim_w51"]


def test_mae_is_relative_to_the_brightness() -> None:
    black, grey = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 50, np.uint8)
    assert mae(black, grey) == 1.0
    assert mae(grey, grey * 3) == pytest.approx(0.5)
    assert math.isnan(mae(black, black))
    assert measure(black, black)["mae"] is None


def test_psnr_equals_scikit_image() -> None:
    a = image(5)
    b = noisy(a, 6)
    x, y = (p.astype(np.float32) / np.float32(255) for p in (a, b))
    assert psnr(a, b) == pytest.approx(peak_signal_noise_ratio(x, y, data_range=1), abs=1e-9)
    exact = np.abs(a.astype(np.float64) - b).mean() / 255
    assert l1(a, b) == pytest.approx(exact, abs=1e-8)


def test_equal_images() -> None:
    a = image(7)
    equal = {"psnr": math.inf, "l1": 0.0, "mae": 0.0}
    assert measure(a, a.copy()) == {"ssim_w51": 1.0, "ssim_256": 1.0, **equal}
    assert measure(a, a.copy(), wang=True) == {"ssim": 1.0, **equal}


def test_black_against_white() -> None:
    black, white = np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 255, np.uint8)
    c1 = 0.01**2
    assert ssim_w51(black, white) == pytest.approx(c1 / (1 + c1), rel=1e-9)  # only luminance
    assert (psnr(black, white), l1(black, white)) == (0.0, 1.0)


def test_undefined_values_and_small_images_give_none() -> None:
    flat, ground_truth = np.full((64, 64, 3), 90, np.uint8), image(8, (64, 64))
    assert math.isnan(ssim_256(flat, ground_truth))
    assert measure(flat, ground_truth)["ssim_256"] is None
    small = measure(image(9, (32, 32)), image(10, (32, 32)))
    assert small["ssim_w51"] is None
    assert small["ssim_256"] is not None
    assert measure(image(9, (8, 8)), image(10, (8, 8)))["ssim_256"] is None


def test_images_of_other_sizes_are_refused() -> None:
    with pytest.raises(XmdptError, match="64x50 px is smaller than the 51 px window"):
        ssim_w51(image(1, (50, 64)), image(2, (50, 64)))
    for function in (ssim_w51, ssim_256, psnr, l1):
        with pytest.raises(XmdptError, match="64x70 and 70x64"):
            function(image(1, (70, 64)), image(2, (64, 70)))
