"""PIDM's numbers against a transcription of what its evaluator computes, written with other tools.

Ground truths and predictions are 256x256 PNGs: SSIM of both kinds, PSNR, MAE and L1 compare those;
LPIPS and FID compare them resized to 256x176 by OpenCV's bilinear on float grey levels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from xmdpt_cli.images import ImageArray, load_image
from xmdpt_cli.metrics.evaluate import ImagePair, Networks, evaluate
from xmdpt_cli.metrics.lpips_metric import LpipsNetwork
from xmdpt_cli.metrics.protocols import get_protocol


def square(seed: int, side: int = 256) -> ImageArray:
    """Blotches of colour with fine stripes, which a resize changes."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 200, (9, 7, 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC).astype(np.int64)
    smooth[:, ::2] += 40
    return np.clip(smooth + rng.integers(-12, 13, smooth.shape), 0, 255).astype(np.uint8)


def noisy(image: ImageArray, seed: int) -> ImageArray:
    noise = np.random.default_rng(100 + seed).normal(0, 20, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def reference(pred: ImageArray, ground_truth: ImageArray) -> dict[str, float]:
    """Of one pair of 256x256 images."""
    x, y = (image.astype(np.float32) / np.float32(255) for image in (pred, ground_truth))
    a, b = (np.float32(255) * image for image in (x, y))
    return {
        "psnr": peak_signal_noise_ratio(y, x, data_range=1),
        "ssim_w51": structural_similarity(
            x.astype(np.float64), y.astype(np.float64), win_size=51, data_range=1, channel_axis=2
        ),
        "ssim_256": structural_similarity(
            a.astype(np.float64),
            b.astype(np.float64),
            gaussian_weights=True,
            sigma=1.2,
            use_sample_covariance=False,
            data_range=float(a.max() - a.min()),
            channel_axis=2,
        ),
        "mae": float(np.abs(x - y).sum(dtype=np.float64) / (x + y).sum(dtype=np.float64)),
        "l1": float(np.abs(x - y).mean(dtype=np.float64)),
    }


def check(found: list[tuple[str, ImageArray, ImageArray]]) -> None:
    pairs = [ImagePair(pred, ground_truth, name=name) for name, pred, ground_truth in found]
    [report] = evaluate(pairs, [get_protocol("pidm")], intervals=False)
    expected = [reference(pred, ground_truth) for _, pred, ground_truth in found]
    for image, values in zip(report.images, expected, strict=True):
        assert set(image["rows"]["generated"]) == set(values)
        for metric, value in values.items():
            got = image["rows"]["generated"][metric]
            assert got == pytest.approx(value, rel=1e-6, abs=1e-9), (image["name"], metric)
    for metric in expected[0]:
        mean = np.mean([values[metric] for values in expected])
        assert report.rows["generated"][metric] == pytest.approx(mean, rel=1e-6), metric
    assert report.notes == []  # the sizes are PIDM's own
    assert report.sizes == ["176x256"]  # what LPIPS and FID see


def test_pixel_metrics_compare_the_squares() -> None:
    found = [(str(k), noisy(square(k), k), square(k)) for k in range(3)]
    check(found)
    # the resize would move them: 0.9 dB on photographs
    small = get_protocol("pidm").generated
    _, pred, ground_truth = found[0]
    x, y = (small(image) / np.float32(255) for image in (pred, ground_truth))
    resized = peak_signal_noise_ratio(y, x, data_range=1)
    assert abs(resized - reference(pred, ground_truth)["psnr"]) > 0.5


def test_published_samples(shared: Callable[[str], Path]) -> None:
    targets = sorted(shared("deepfashion_sample/official").glob("*_target256.png"))[:6]
    assert targets
    samples = [path.with_name(path.name.replace("target256", "sample_B")) for path in targets]
    check([
        (target.name, np.asarray(load_image(sample)), np.asarray(load_image(target)))
        for target, sample in zip(targets, samples, strict=True)
    ])  # fmt: skip


def test_photographs_are_first_resized_to_squares() -> None:
    """By PIL's bicubic, as PIDM's folders were made."""
    rng = np.random.default_rng(5)
    coarse = rng.integers(0, 256, (12, 8, 3), dtype=np.uint8)
    photograph = cv2.resize(coarse, (750, 1101), interpolation=cv2.INTER_CUBIC)
    made = square(3)
    [report] = evaluate([(made, photograph)], [get_protocol("pidm")], intervals=False)
    png = np.asarray(Image.fromarray(photograph).resize((256, 256), Image.Resampling.BICUBIC))
    for metric, value in reference(made, png).items():
        assert report.rows["generated"][metric] == pytest.approx(value, rel=1e-6), metric
    assert report.notes == []


def test_lpips_compares_the_resized_images() -> None:
    pred, ground_truth = square(1), square(2)
    lpips = LpipsNetwork("toy")
    [report] = evaluate(
        [(pred, ground_truth)], [get_protocol("pidm")], networks=Networks(lpips), intervals=False
    )
    small = [
        cv2.resize(image.astype(np.float32), (176, 256), interpolation=cv2.INTER_LINEAR)
        for image in (pred, ground_truth)
    ]
    expected = lpips.distance(small[0], small[1], True)
    got = report.rows["generated"]["lpips_alex_v0.1_toy"]
    assert got == pytest.approx(float(torch.tensor(expected)), rel=1e-6)
    assert got != pytest.approx(lpips.distance(pred, ground_truth, True), rel=1e-3)
