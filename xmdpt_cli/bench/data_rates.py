"""How fast images become a dataset, and a dataset batches: what ``xmdpt bench data`` measures.

Networks are left out of both; disks too, for pages are warm.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from xmdpt_cli.bench import loader as loading
from xmdpt_cli.bench import prepare as preparing
from xmdpt_cli.bench.machine import machine
from xmdpt_cli.bench.report import report
from xmdpt_cli.bench.timing import Spread, ratios
from xmdpt_cli.data.loader import PairDataset
from xmdpt_cli.utils.devices import cores

FULL_SIZE = 750, 1101  # of a photograph in DeepFashion, width and height
BUFFER = 512 << 20


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
) -> dict[str, Any]:
    """The report: images a second of ``prepare`` beside decoding alone, pairs a second of the
    loader with one thread, with all, and streamed from ``url``, which serves ``out``.

    ``image``: a photograph to prepare again and again, or one that is made up.
    """
    before = machine(torch.device("cpu"))
    with tempfile.TemporaryDirectory(prefix="xmdpt-bench-") as temporary:
        shown = image or made_up_photograph(Path(temporary) / "photograph.jpg")
        prepared = preparing.measure(shown, items, [size], cores(), rounds)
        folder = out or Path(temporary) / "dataset"
        if not (folder / "dataset.json").is_file():
            loading.make_dataset(folder, dataset_bytes)
        rates = loading.measure(PairDataset(folder), url, batch, steps, rounds, BUFFER)
    named = {
        "prepare: decode and squash alone": [alone for alone, _ in prepared],
        "prepare, without networks": [whole for _, whole in prepared],
        **{f"loader: {name}": found for name, found in rates.items()},
    }
    rows = []
    for name, found in named.items():
        group = "prepare" if name.startswith("prepare") else "loader"
        first = next(values for key, values in named.items() if key.startswith(group))
        rows.append({
            "key": name,
            "unit": "images" if group == "prepare" else "pairs",
            "seconds": Spread(tuple(1 / value for value in found)).plain(),
            "images_per_second": Spread(tuple(found)).median,
            "gflop": None,
            "mfu": None,
            "over_first": None if found is first else ratios(found, first).plain(),
        })  # fmt: skip
    settings = {
        "batch": batch,
        "size": size,
        "image": "made up" if image is None else image.name,
        "dataset_bytes": dataset_bytes,
        "rounds": rounds,
    }
    return report("data", settings, rows, machine=before)


def made_up_photograph(path: Path) -> Path:
    """A JPEG in DeepFashion's full size, soft like a studio's background, with some grain."""
    rng = np.random.default_rng(0)
    soft = Image.fromarray(rng.integers(40, 250, (24, 16, 3), np.uint8))
    large = np.asarray(soft.resize(FULL_SIZE, Image.Resampling.BICUBIC), np.int16)
    grain = rng.integers(-6, 7, large.shape, np.int16)
    Image.fromarray((large + grain).clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return path
