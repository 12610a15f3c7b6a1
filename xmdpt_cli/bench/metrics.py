"""SSIM (both), PSNR and L1, ours against scikit-image: ``python -m xmdpt_cli.bench.metrics``.

Drawn pictures of 176 x 256. "scikit-image" calls its functions pair by pair, as the public codes
do; "ours" measures as ``xmdpt evaluate`` does, a few pairs at once. The digits are compared before
anything is timed.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import torch

from xmdpt_cli.bench.timing import Spread, interleaved, ratios
from xmdpt_cli.images import Picture
from xmdpt_cli.metrics.pairwise import measure
from xmdpt_cli.metrics.pictures import unit

SIZE = (256, 176)
NAMES = ("ssim_w51", "ssim_256", "psnr", "l1")
PAIRS = 8570  # of DeepFashion's test list


def pictures(count: int) -> list[Picture]:
    """Blotches of colour."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 16, 11, 3), dtype=np.uint8)
    return [cv2.resize(one, SIZE[::-1], interpolation=cv2.INTER_CUBIC) for one in coarse]


def ours(preds: list[Picture], truths: list[Picture]) -> np.ndarray:
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        found = list(pool.map(measure, preds, truths))
    return np.array([[values[name] for name in NAMES] for values in found], dtype=np.float64)


def scikit_image(preds: list[Picture], truths: list[Picture]) -> np.ndarray:
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    rows = []
    for pred, truth in zip(preds, truths, strict=True):
        x, y = unit(pred), unit(truth)
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
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m xmdpt_cli.bench.metrics")
    parser.add_argument("--pairs", type=int, default=100, help="of a round")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args(arguments)
    drawn = pictures(2 * args.pairs)
    preds, truths = drawn[::2], drawn[1::2]
    ways = {"scikit-image": scikit_image, "ours": ours}
    found = {name: way(preds, truths) for name, way in ways.items()}
    difference = float(np.abs(found["ours"] - found["scikit-image"]).max())
    assert difference < 1e-9, difference
    print(f"{args.pairs} pairs of {SIZE[1]}x{SIZE[0]} a round, values differ by {difference:.1e}")
    calls = {name: (lambda way=way: way(preds, truths)) for name, way in ways.items()}
    times = interleaved(calls, args.rounds, torch.device("cpu"))
    for name, seconds in times.items():
        took, over = Spread(tuple(seconds)), ratios(times["scikit-image"], seconds)
        print(
            f"{name}: {took.median:.2f} s ({took.low:.2f} to {took.high:.2f}), "
            f"{over.median:.2f}x ({over.low:.2f} to {over.high:.2f})"
        )


if __name__ == "__main__":
    main()
