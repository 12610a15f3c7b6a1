"""A preparation in a process of its own, for tests that kill it or run several."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from fake_dataset import FakeEncoder
from forked import Forked
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


def prepare(root: Path, out: Path | str, *, workers: int = 0, stall: int = -1) -> None:
    """Rank and world from the environment.

    Before encoder call number ``stall`` (-1: never) it prints "here" and waits to be killed.
    """
    ranks._POLL_REMOTE = 0.2
    prepare_dataset(
        find_dataset(root), out, size=32, encoder=Stalling(stall),
        items_per_shard=2, batch_size=4, workers=workers, world=ranks.World.from_environment(),
    )  # fmt: skip
    print("done", flush=True)


def start(
    root: Path, out: Path | str, *, rank: int = 0, world: int = 1, workers: int = 0,
    stall: int = -1, env: Mapping[str, str] | None = None,
) -> Forked:  # fmt: skip
    """``prepare`` as one rank of ``world``, in a process."""
    variables = {"RANK": str(rank), "WORLD_SIZE": str(world), **(env or {})}
    return Forked(partial(prepare, root, out, workers=workers, stall=stall), env=variables)


def ended_well(child: Forked) -> None:
    output, errors = child.communicate()
    assert child.returncode == 0, errors
    assert output.endswith("done\n")
