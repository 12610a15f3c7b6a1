"""``xmdpt bench data``: the speed of ``prepare`` and of the loader, without networks.

All files are in the page cache: disks are not measured.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from xmdpt_cli.bench.decode import decode_and_resize
from xmdpt_cli.bench.loader import make_dataset, measure_loader, no_encoders
from xmdpt_cli.bench.machine import Machine
from xmdpt_cli.bench.report import Report, Row, compare_to_first
from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.datasets.listing import ImageFile, ImageRef, Item, Listing, Pair
from xmdpt_cli.images import ImageArray
from xmdpt_cli.prepare.pipeline import prepare_datasets
from xmdpt_cli.prepare.workers import Decoders
from xmdpt_cli.progress import Progress, silent
from xmdpt_cli.utils.devices import cores

SIZE = 256  # pixels, of prepared images
STEPS = 40  # batches per round of the loader
PHOTOGRAPH = 750, 1101  # width and height of DeepFashion's full-size images
# a standing person: fractions of width and height, OpenPose's 18 joints
STANDING = np.array([
    [0.50, 0.15], [0.50, 0.25], [0.40, 0.25], [0.36, 0.40], [0.35, 0.52], [0.60, 0.25],
    [0.64, 0.40], [0.65, 0.52], [0.44, 0.52], [0.44, 0.72], [0.44, 0.92], [0.56, 0.52],
    [0.56, 0.72], [0.56, 0.92], [0.48, 0.13], [0.52, 0.13], [0.45, 0.14], [0.55, 0.14],
])  # fmt: skip


def measure_data(
    batch: int = 64,
    *,
    image: Path | None = None,
    items: int = 64,
    dataset_bytes: int = 500_000_000,
    rounds: int = 5,
    url: str | None = None,
    out: Path | None = None,
    progress: Progress = silent,
) -> Report:
    """Measure ``prepare`` beside decoding and resizing alone (images per second), and the loader
    with one thread, with all, and streamed from ``url``, which serves ``out`` (pairs per second).

    ``image``: the photograph that is prepared repeatedly; None: a synthetic one.
    """
    machine = Machine.here(torch.device("cpu"))
    with tempfile.TemporaryDirectory(prefix="xmdpt-bench-") as temporary:
        photograph = image or make_photograph(Path(temporary) / "photograph.jpg")
        seconds = measure_prepare(photograph, items, rounds, progress)
        folder = out or Path(temporary) / "dataset"
        if not (folder / "dataset.json").is_file():
            make_dataset(folder, dataset_bytes)
        seconds |= measure_loader(PairDataset(folder), url, batch, STEPS, rounds, progress=progress)
    rows = [Row.of(name, values) for name, values in seconds.items()]
    compare_to_first(rows)
    settings = {
        "batch": batch,
        "size": SIZE,
        "image": "synthetic" if image is None else image.name,
        "dataset_bytes": dataset_bytes,
        "rounds": rounds,
    }
    title = "images prepared, pairs read; seconds for one"
    return Report("data", title, settings, machine, rows)


def make_photograph(path: Path) -> Path:
    """Write a JPEG in DeepFashion's full size: smooth like a studio's background, with grain."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(40, 250, (24, 16, 3), np.uint8))
    smooth = np.asarray(coarse.resize(PHOTOGRAPH, Image.Resampling.BICUBIC), np.int16)
    grain = rng.integers(-6, 7, smooth.shape, np.int16)
    Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return path


def measure_prepare(
    image: Path, items: int, rounds: int, progress: Progress = silent
) -> dict[str, list[float]]:
    """Seconds an image of decoding and resizing alone, and of all of ``prepare`` but the networks
    (decode, resize, render poses, compress, hash, write), both by one process per core."""
    listing, workers = repeat_image(image, items), cores()
    alone, complete = [], []
    for number in range(rounds + 1):  # the first round warms up
        progress("rounds of prepare", number, rounds + 1)
        with Decoders(workers, [SIZE], 32) as pool:
            list(pool.map(decode_and_resize, listing.items[: 4 * workers], [SIZE] * 4 * workers))
            start = time.perf_counter()
            list(pool.map(decode_and_resize, listing.items, [SIZE] * items))
            alone.append((time.perf_counter() - start) / listing.images())
        complete.append(_seconds_per_image(listing, workers))
    progress("rounds of prepare", rounds + 1, rounds + 1)
    return {
        "prepare / decode and resize alone": alone[1:],
        "prepare / all without networks": complete[1:],
    }


def _seconds_per_image(listing: Listing, workers: int) -> float:
    """Seconds of ``prepare`` per image, from its first progress report on, when all processes are
    running."""
    reports: list[tuple[float, int]] = []  # (time, images done)

    def record(stage: str, done: int, total: int, /, **info: Any) -> None:
        if done:
            reports.append((time.perf_counter(), done))

    with tempfile.TemporaryDirectory(prefix="xmdpt-bench-") as folder:
        out, encoder = {SIZE: Path(folder) / "out"}, {SIZE: NoEncoder()}
        prepare_datasets(listing, out, encoder, workers=workers, progress=record)
        end = time.perf_counter()
    start, first = reports[0]
    return (end - start) / (listing.images() - first)


class NoEncoder:
    """Replaces the encoders: features that cost no time."""

    def encode(self, images: ImageArray, poses: ImageArray) -> dict[str, torch.Tensor]:
        return {"moments": torch.zeros(len(images), 1)}

    def describe(self) -> dict[str, Any]:
        return no_encoders("none")


def repeat_image(image: Path, items: int) -> Listing:
    """The same image as ``items`` items of four views, each with other keypoints."""
    rng = np.random.default_rng(0)
    names = [f"{number}_front" for number in range(4)]
    repeated = []
    for number in range(items):
        key = f"WOMEN-Dresses-id_{number:08d}-01"
        files: dict[str, ImageRef] = {name: ImageFile(f"{key}/{name}.jpg", image) for name in names}
        keypoints = {name: STANDING + rng.normal(0, 0.02, (18, 2)) for name in names}
        pairs = [Pair(names[0], name, 4 * number + i) for i, name in enumerate(names[1:])]
        repeated.append(Item(key, "train", files, keypoints, pairs))
    return Listing(image.parent, repeated)
