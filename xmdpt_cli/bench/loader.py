"""How fast training's batches are read: a part of ``xmdpt bench data``.

Makes a dataset of random numbers in the sizes of 256 px features (VAE moments, DINOv2-G and -B
tokens, both orientations), and reads shuffled, swapped, mirrored pairs from it: from files,
with one thread and with several, and as a stream if a URL serves the same dataset.
Rounds are interleaved. Pages are warm: disks and networks are not measured.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from xmdpt_cli.bench.prepare import no_encoders
from xmdpt_cli.data import collate as batches
from xmdpt_cli.data.fp8 import SCALE, quantise_tokens
from xmdpt_cli.data.index import FLIP
from xmdpt_cli.data.loader import Batch, Loader, LoaderConfig, PairDataset, TrainLoader
from xmdpt_cli.data.stream_loader import StreamLoader
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.prepare.dataset_folder import make_manifest
from xmdpt_cli.prepare.shard_writer import ShardWriter, ViewData
from xmdpt_cli.storage.stores import LocalStore

ITEMS_PER_SHARD = 16
# one view: both orientations of (8, 32, 32) in fp16, (257, 1536) and (257, 768) in bf16, an image
VIEW_BYTES = 2 * (16_384 + 789_504 + 394_752) + 100_000
VIEWS = (3, 4)  # of every other item; all ordered pairs: 2.6 pairs a view, as the lists have


def make_dataset(folder: Path, size: int, fp8: bool = False, items: int | None = None) -> None:
    """Write shards of about ``size`` bytes, of ``items`` each (``ITEMS_PER_SHARD``);
    XmdptError if the disk lacks the room."""
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


def pairs_per_second(
    loader: Loader[Batch], begin: int, steps: int, size: int, out: list[Batch]
) -> float:
    """Rate of batches ``begin`` to ``begin + steps``, filled in turns into the two of ``out``."""
    began = time.perf_counter()
    for step in range(begin, begin + steps):
        loader.batch(step, out[step % 2])
    return steps * size / (time.perf_counter() - began)


def measure(
    dataset: PairDataset, url: str | None, size: int, steps: int, rounds: int, buffer_bytes: int
) -> dict[str, list[float]]:
    """Pairs per second of every reader, one value per round."""
    local = TrainLoader(dataset, LoaderConfig(size, seed=0))
    out = [local.batch(0), local.batch(1)]
    for step in range(len(dataset) // size + 1):  # all pages warm and mapped
        local.batch(step, out[0])
    threads = batches.copy_threads()

    def mapped(count: int) -> Callable[[int], float]:
        def run(number: int) -> float:
            batches.limit_threads(count)
            return pairs_per_second(local, number * steps, steps, size, out)

        return run

    readers = {"local, 1 thread": mapped(1), f"local, {threads} threads": mapped(threads)}
    if url is not None:
        stream = StreamLoader(
            PairDataset(url), LoaderConfig(size, seed=0), buffer_bytes=buffer_bytes
        )

        def streamed(number: int) -> float:
            batches.limit_threads(threads)
            begin = number * (steps + 1)
            stream.batch(begin, out[0])  # fills the buffer, which a long run does once
            rate = pairs_per_second(stream, begin + 1, steps, size, out)
            stream.close()  # or it would read ahead while the others are measured
            return rate

        readers[f"streamed from {url}"] = streamed
    found: dict[str, list[float]] = {name: [] for name in readers}
    for number in range(rounds):
        for name, read in readers.items():
            found[name].append(read(number))
    return found
