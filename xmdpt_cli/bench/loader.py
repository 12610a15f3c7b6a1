"""The speed of the loader on a dataset of random numbers, for ``xmdpt bench data``.

The dataset has features in the sizes of 256 px images (VAE moments, DINOv2-G and -B tokens, both
orientations). Shuffled, swapped, mirrored pairs are read from it in interleaved rounds.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.data.fp8 import SCALE, quantise_tokens
from xmdpt_cli.data.index import FLIP
from xmdpt_cli.data.loader import THREADS, Batch, TrainLoader
from xmdpt_cli.data.prefetch import Loader
from xmdpt_cli.data.sampler import LoaderConfig
from xmdpt_cli.data.stream_loader import StreamLoader
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.prepare.dataset_folder import make_manifest
from xmdpt_cli.prepare.shard_writer import ShardWriter, ViewData
from xmdpt_cli.progress import Progress, silent
from xmdpt_cli.storage.stores import LocalStore

ITEMS_PER_SHARD = 16
# one view: both orientations of (8, 32, 32) in fp16, (257, 1536) and (257, 768) in bf16, an image
VIEW_BYTES = 2 * (16_384 + 789_504 + 394_752) + 100_000
VIEWS = (3, 4)  # views of items in turn; all ordered pairs: 2.6 pairs a view, as in the lists


def make_dataset(folder: Path, size: int, fp8: bool = False, items: int | None = None) -> None:
    """Write shards of ``items`` items (``ITEMS_PER_SHARD``), about ``size`` bytes in all.

    XmdptError if the disk lacks the space.
    """
    items = items or ITEMS_PER_SHARD
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder).free < 1.5 * size:
        raise XmdptError(
            f"{folder} has no room for {size / 1e9:.1f} GB",
            "make room, or set TMPDIR to a larger disk",
        )
    store, rng = LocalStore(folder), np.random.Generator(np.random.PCG64(0))
    indexes, position = [], 0
    for shard in range(max(1, round(size / (VIEW_BYTES * sum(VIEWS) / 2 * items)))):
        with ShardWriter(store, f"train-{shard:06d}.tar", "train") as writer:
            for number in range(items):
                names = [f"{view}_view" for view in range(VIEWS[number % 2])]
                pairs = [(a, b) for a in names for b in names if a != b]
                rows = [(a, b, position + i) for i, (a, b) in enumerate(pairs)]
                position += len(pairs)
                key = f"MEN-Random-id_{shard:06d}{number:02d}-01"
                writer.add(key, {name: _view(rng, fp8) for name in names}, rows)
            indexes.append(writer.finish([]))
    make_manifest(store, indexes, [], 256, no_encoders("random numbers"))


def _view(rng: np.random.Generator, fp8: bool) -> ViewData:
    features = {}
    for suffix in ("", FLIP):
        tokens = torch.from_numpy(rng.standard_normal((257, 2304), dtype=np.float32)).bfloat16()
        source = tokens[:, :1536].contiguous()
        name = f"source_tokens{suffix}"
        if fp8:
            features[name], features[name + SCALE] = quantise_tokens(source)
        else:
            features[name] = source
        features[f"pose_tokens{suffix}"] = tokens[:, 1536:].contiguous()
        moments = rng.standard_normal((8, 32, 32), dtype=np.float32)
        features[f"moments{suffix}"] = torch.from_numpy(moments).half()
    return ViewData("random.jpg", rng.bytes(100_000), rng.uniform(0, 256, (18, 2)), features)


def no_encoders(name: str) -> dict[str, Any]:
    """The record of encoders in a dataset of random features: a toy dataset, which any
    configuration trains on."""
    known = {"kind": "toy", "id": name, "revision": None, "sha256": None, "toy": True}
    dino = {**known, "dtype": "bfloat16", "input_size": 224, "length": 257}
    vae = {**known, "dtype": "float32", "scale": 0.18215, "factor": 8, "channels": 4}
    source, pose = {**dino, "width": 1536}, {**dino, "width": 768}
    return {"vae": vae, "source": source, "pose": pose, "toy": True}


def measure_loader(
    dataset: PairDataset,
    url: str | None,
    batch: int,
    steps: int,
    rounds: int,
    buffer_bytes: int = 512 << 20,
    progress: Progress = silent,
) -> dict[str, list[float]]:
    """Seconds a pair in each round: with one thread, with all, and streamed from ``url``."""
    config = LoaderConfig(batch, seed=0)
    local = TrainLoader(dataset, config)
    alone = TrainLoader(dataset, config, threads=1)
    out = [local.batch(0), local.batch(1)]
    for step in range(len(dataset) // batch + 1):  # map all pages
        local.batch(step, out[0])

    def seconds(loader: Loader[Batch], first: int) -> float:
        start = time.perf_counter()
        for step in range(first, first + steps):
            loader.batch(step, out[step % 2])
        return (time.perf_counter() - start) / (steps * batch)

    readers: dict[str, Callable[[int], float]] = {
        "loader / local, 1 thread": lambda number: seconds(alone, number * steps),
        f"loader / local, {THREADS} threads": lambda number: seconds(local, number * steps),
    }
    if url is not None:
        stream = StreamLoader(PairDataset(url), config, buffer_bytes=buffer_bytes)

        def streamed(number: int) -> float:
            first = number * (steps + 1)
            stream.batch(first, out[0])  # fills the buffer, which a long run does once
            found = seconds(stream, first + 1)
            stream.close()  # or it would read ahead while the others are measured
            return found

        readers[f"loader / streamed from {url}"] = streamed
    found: dict[str, list[float]] = {name: [] for name in readers}
    for number in range(rounds):
        for name, read in readers.items():
            found[name].append(read(number))
        progress("rounds of the loader", number + 1, rounds)
    return found
