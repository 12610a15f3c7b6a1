"""How much of the machine ``prepare`` uses: a part of ``xmdpt bench data``.

Everything but the networks (decode, squash, draw poses, compress, hash, write), against what the
same number of processes do by decoding and squashing alone; interleaved, in one run.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.datasets.listing import ImageFile, Item, Listing, Pair
from xmdpt_cli.images import resize_square
from xmdpt_cli.prepare.workers import Decoders

if TYPE_CHECKING:  # the decoder processes read this file too, and do without torch
    import torch


# A whole figure, fractions of width and height, in OpenPose's order.
STANDING = np.array([
    [0.50, 0.15], [0.50, 0.25], [0.40, 0.25], [0.36, 0.40], [0.35, 0.52], [0.60, 0.25],
    [0.64, 0.40], [0.65, 0.52], [0.44, 0.52], [0.44, 0.72], [0.44, 0.92], [0.56, 0.52],
    [0.56, 0.72], [0.56, 0.92], [0.48, 0.13], [0.52, 0.13], [0.45, 0.14], [0.55, 0.14],
])  # fmt: skip


class NoEncoder:
    """Stands where the networks stand and costs nothing."""

    def encode(
        self, images: NDArray[np.uint8], poses: NDArray[np.uint8]
    ) -> dict[str, torch.Tensor]:
        import torch

        return {"moments": torch.zeros(len(images), 1)}

    def describe(self) -> dict[str, Any]:
        return no_encoders("none")


def no_encoders(name: str) -> dict[str, Any]:
    """The record of encoders where features come from none: a toy's, which any recipe trains on."""
    known = {"kind": "toy", "id": name, "revision": None, "sha256": None, "toy": True}
    dino = {**known, "dtype": "bfloat16", "input_size": 224, "length": 257}
    vae = {**known, "dtype": "float32", "scale": 0.18215, "factor": 8, "channels": 4}
    source, pose = {**dino, "width": 1536}, {**dino, "width": 768}
    return {"vae": vae, "source": source, "pose": pose, "toy": True}


def decode_and_squash(item: Item, sizes: Sequence[int]) -> int:
    """What is compared with: nothing but the images, in memory, thrown away."""
    for ref in item.views.values():
        image = ref.load()
        for size in sizes:
            resize_square(image, size)
    return len(item.views)


def made_up(image: Path, items: int, views: int = 4) -> Listing:
    """The same image as ``items`` x ``views`` images, of somebody who never stands still."""
    rng = np.random.default_rng(0)
    names = [f"{number}_front" for number in range(views)]
    made = []
    for number in range(items):
        key = f"WOMEN-Dresses-id_{number:08d}-01"
        made.append(
            Item(
                key,
                "train",
                {name: ImageFile(f"{key}/{name}.jpg", image) for name in names},
                {name: STANDING + rng.normal(0, 0.02, (18, 2)) for name in names},
                [Pair(names[0], name, number * views + i) for i, name in enumerate(names[1:])],
            )
        )
    return Listing(image.parent, made)


def measure(
    image: Path, items: int, sizes: Sequence[int], workers: int, rounds: int
) -> list[tuple[float, float]]:
    """Each round's images a second: decoding and squashing alone, and all of ``prepare``."""
    from xmdpt_cli.prepare.pipeline import prepare_datasets

    listing = made_up(image, items)
    encoder, found = NoEncoder(), []
    for number in range(-1, rounds):  # the first round warms up
        with Decoders(workers, sizes, 32) as pool:
            list(pool.map(decode_and_squash, listing.items[: 4 * workers], [sizes] * 4 * workers))
            begun = time.perf_counter()
            sum(pool.map(decode_and_squash, listing.items, [sizes] * items))
            alone = listing.images() / (time.perf_counter() - begun)
        folder = Path(tempfile.mkdtemp(prefix="xmdpt-bench-"))
        moments: list[tuple[float, int]] = []  # (time, images done); the first when all are up

        def seen(stage: str, done: int, total: int, /, **info: Any) -> None:
            if done:
                moments.append((time.perf_counter(), done))  # noqa: B023 - called in this round

        try:
            outs = {size: folder / str(size) for size in sizes}
            encoders = dict.fromkeys(sizes, encoder)
            prepare_datasets(listing, outs, encoders, workers=workers, progress=seen)
            (begun, first), ended = moments[0], time.perf_counter()
            whole = (listing.images() - first) / (ended - begun)
        finally:
            shutil.rmtree(folder)
        if number >= 0:
            found.append((alone, whole))
    return found
