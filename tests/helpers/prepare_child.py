"""A preparation in a process of its own, for tests that kill it or run several.

``python prepare_child.py ROOT OUT WORKERS STALL``: rank and world from the environment. Before
encoder call number STALL (-1: never) it says "here" and waits to be killed.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch
from fake_dataset import FakeEncoder
from numpy.typing import NDArray

from xmdpt_cli.datasets.find import find_dataset
from xmdpt_cli.prepare.pipeline import prepare_dataset
from xmdpt_cli.storage import ranks


class Stalling(FakeEncoder):
    def __init__(self, stall: int) -> None:
        super().__init__()
        self.stall = stall

    def encode(
        self, images: NDArray[np.uint8], poses: NDArray[np.uint8]
    ) -> dict[str, torch.Tensor]:
        if len(self.calls) == self.stall:
            print("here", flush=True)
            time.sleep(120)
        return super().encode(images, poses)


if __name__ == "__main__":
    root, out, workers, stall = sys.argv[1:]
    ranks._POLL_REMOTE = 0.2
    prepare_dataset(
        find_dataset(Path(root)), out, size=32, encoder=Stalling(int(stall)),
        items_per_shard=2, batch_size=4, workers=int(workers), world=ranks.World.from_environment(),
    )  # fmt: skip
    print("done", flush=True)
