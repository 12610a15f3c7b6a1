"""The speed of ``prepare`` and of the loader, without networks: what ``xmdpt bench data`` measures.

All files are in the page cache: disks are not measured.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from xmdpt_cli.bench.decode import decode_and_resize
from xmdpt_cli.bench.loader import make_dataset, measure_loader, no_encoders
from xmdpt_cli.bench.machine import Machine
from xmdpt_cli.bench.report import Report, Row, compare_to_first
from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.datasets.listing import ImageFile, Item, Listing, Pair
from xmdpt_cli.prepare.pipeline import prepare_datasets
from xmdpt_cli.prepare.workers import Decoders
from xmdpt_cli.progress import Progress, silent
from xmdpt_cli.utils.devices import cores

PHOTOGRAPH = 750, 1101  # width and height in DeepFashion's full-size images
# A person of full height, fractions of width and height, in OpenPose's order.
STANDING = np.array([
    [0.50, 0.15], [0.50, 0.25], [0.40, 0.25], [0.36, 0.40], [0.35, 0.52], [0.60, 0.25],
    [0.64, 0.40], [0.65, 0.52], [0.44, 0.52], [0.44, 0.72], [0.44, 0.92], [0.56, 0.52],
    [0.56, 0.72], [0.56, 0.92], [0.48, 0.13], [0.52, 0.13], [0.45, 0.14], [0.55, 0.14],
])  # fmt: skip


def measure_data(
    batch: int = 64,
    *,
    image: Path | None = None,
    size: int = 256,
    items: int = 64,
    steps: int = 40,
    dataset_bytes: int = 500_000_000,
    rounds: int = 5,
    url: str | None = None,
    out: Path | None = None,
    progress: Progress = silent,
) -> Report:
    """Images a second of ``prepare`` beside decoding and resizing alone, pairs a second of the
    loader with one thread, with all, and streamed from ``url``, which serves ``out``.

    ``image``: the photograph that is prepared repeatedly; None: a synthetic one.
    """
    machine = Machine.here(torch.device("cpu"))
    with tempfile.TemporaryDirectory(prefix="xmdpt-bench-") as temporary:
        photograph = image or make_photograph(Path(temporary) / "photograph.jpg")
        seconds = measure_prepare(photograph, items, [size], cores(), rounds, progress)
        folder = out or Path(temporary) / "dataset"
        if not (folder / "dataset.json").is_file():
            make_dataset(folder, dataset_bytes)
        seconds |= measure_loader(PairDataset(folder), url, batch, steps, rounds, progress=progress)
    rows = [Row.of(name, values) for name, values in seconds.items()]
    compare_to_first(rows)
    settings = {
        "batch": batch,
        "size": size,
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
    image: Path,
    items: int,
    sizes: Sequence[int],
    workers: int,
    rounds: int,
    progress: Progress = silent,
) -> dict[str, list[float]]:
    """Seconds an image of decoding and resizing alone, and of all of ``prepare`` but the networks
    (decode, resize, render poses, compress, hash, write), by the same number of processes."""
    listing, alone, complete = repeat_image(image, items), [], []
    for number in range(rounds + 1):  # the first round warms up
        progress("rounds of prepare", number, rounds + 1)
        with Decoders(workers, sizes, 32) as pool:
            list(pool.map(decode_and_resize, listing.items[: 4 * workers], [sizes] * 4 * workers))
            start = time.perf_counter()
            list(pool.map(decode_and_resize, listing.items, [sizes] * items))
            alone.append((time.perf_counter() - start) / listing.images())
        complete.append(_seconds_per_image(listing, sizes, workers))
    progress("rounds of prepare", rounds + 1, rounds + 1)
    return {
        "prepare / decode and resize alone": alone[1:],
        "prepare / all without networks": complete[1:],
    }


def _seconds_per_image(listing: Listing, sizes: Sequence[int], workers: int) -> float:
    """Of ``prepare``, from its first progress report on, when all processes are running."""
    times: list[tuple[float, int]] = []  # (time, images done)

    def record(stage: str, done: int, total: int, /, **info: Any) -> None:
        if done:
            times.append((time.perf_counter(), done))

    folder = Path(tempfile.mkdtemp(prefix="xmdpt-bench-"))
    try:
        outs = {size: folder / str(size) for size in sizes}
        encoders = dict.fromkeys(sizes, NoEncoder())
        prepare_datasets(listing, outs, encoders, workers=workers, progress=record)
        (start, first), end = times[0], time.perf_counter()
    finally:
        shutil.rmtree(folder)
    return (end - start) / (listing.images() - first)


class NoEncoder:
    """Takes the place of the encoders and costs nothing."""

    def encode(
        self, images: NDArray[np.uint8], poses: NDArray[np.uint8]
    ) -> dict[str, torch.Tensor]:
        return {"moments": torch.zeros(len(images), 1)}

    def describe(self) -> dict[str, Any]:
        return no_encoders("none")


def repeat_image(image: Path, items: int, views: int = 4) -> Listing:
    """The same image as ``items`` x ``views`` images, each with other keypoints."""
    rng = np.random.default_rng(0)
    names = [f"{number}_front" for number in range(views)]
    repeated = []
    for number in range(items):
        key = f"WOMEN-Dresses-id_{number:08d}-01"
        repeated.append(
            Item(
                key,
                "train",
                {name: ImageFile(f"{key}/{name}.jpg", image) for name in names},
                {name: STANDING + rng.normal(0, 0.02, (18, 2)) for name in names},
                [Pair(names[0], name, number * views + i) for i, name in enumerate(names[1:])],
            )
        )
    return Listing(image.parent, repeated)
