"""SSIM, PSNR and L1 of xmdpt against scikit-image: ``python examples/experiments/metrics.py``.

Measures synthetic images of 176 x 256. "scikit-image" calls its functions for each pair, as the
public implementations do; "xmdpt" measures batches of pairs, as ``xmdpt evaluate`` does. The values
are compared before anything is timed.
"""

from __future__ import annotations

import argparse
from functools import partial

import cv2
import numpy as np
import torch

from xmdpt_cli.bench.timing import Spread, interleaved, ratios
from xmdpt_cli.images import ImageArray
from xmdpt_cli.metrics import L1, PSNR, SSIM256, SSIMW51
from xmdpt_cli.metrics.pixels import to_tensor, unit

SIZE = (256, 176)
BATCH = 16


def synthetic_images(count: int) -> list[ImageArray]:
    """Smooth random images (H, W, 3) uint8."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 16, 11, 3), dtype=np.uint8)
    return [cv2.resize(one, SIZE[::-1], interpolation=cv2.INTER_CUBIC) for one in coarse]


def xmdpt(generated: list[ImageArray], ground_truth: list[ImageArray]) -> np.ndarray:
    metrics = [SSIMW51(), SSIM256(), PSNR(), L1()]
    for start in range(0, len(generated), BATCH):
        batch = [to_tensor(images[start : start + BATCH]) for images in (generated, ground_truth)]
        for metric in metrics:
            metric.update(*batch)
    return np.stack([metric.per_image() for metric in metrics], axis=1)


def scikit_image(preds: list[ImageArray], ground_truths: list[ImageArray]) -> np.ndarray:
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    rows = []
    for pred, ground_truth in zip(preds, ground_truths, strict=True):
        x, y = unit(pred), unit(ground_truth)
        wide, narrow = ((p.astype(np.float64), q.astype(np.float64)) for p, q in (
            (y, x), (y * np.float32(255), x * np.float32(255))
        ))  # fmt: skip
        rows.append((
            structural_similarity(*wide, win_size=51, data_range=1.0, channel_axis=2),
            structural_similarity(
                *narrow, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
                data_range=narrow[1].max() - narrow[1].min(), channel_axis=2,
            ),
            peak_signal_noise_ratio(y, x, data_range=1),
            np.abs(x - y).mean(dtype=np.float64),
        ))  # fmt: skip
    return np.array(rows)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=100, help="pairs in a round")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args(arguments)
    images = synthetic_images(2 * args.pairs)
    preds, ground_truths = images[::2], images[1::2]
    implementations = {"scikit-image": scikit_image, "xmdpt": xmdpt}
    found = {name: run(preds, ground_truths) for name, run in implementations.items()}
    difference = float(np.abs(found["xmdpt"] - found["scikit-image"]).max())
    assert difference < 1e-9, difference
    print(f"{args.pairs} pairs of {SIZE[1]}x{SIZE[0]} a round, values differ by {difference:.1e}")
    calls = {name: partial(run, preds, ground_truths) for name, run in implementations.items()}
    times = interleaved(calls, args.rounds, torch.device("cpu"))
    for name, seconds in times.items():
        took, over = Spread(tuple(seconds)), ratios(times["scikit-image"], seconds)
        print(
            f"{name}: {took.median:.2f} s ({took.low:.2f} to {took.high:.2f}), "
            f"{over.median:.2f}x ({over.low:.2f} to {over.high:.2f})"
        )


if __name__ == "__main__":
    main()
