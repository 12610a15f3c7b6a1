"""The dataset that the parts train on: random numbers in the sizes of 256 px features."""

from __future__ import annotations

import os
import shutil

from xmdpt_cli.bench.gpu_check.rows import Setting
from xmdpt_cli.bench.loader import ITEMS_PER_SHARD, make_dataset
from xmdpt_cli.data.dataset import PairDataset


def dataset(setting: Setting) -> PairDataset:
    """Made by the part that needs it first; parts of one wave may make it at the same time, and
    all use the first that is complete."""
    folder = setting.work / "data"
    if not folder.is_dir():
        own = setting.work / f"data.{os.getpid()}"
        items = setting.pick(ITEMS_PER_SHARD, 2)
        make_dataset(own, setting.pick(300_000_000, 1), items=items)
        try:
            own.rename(folder)
        except OSError:  # another part finished first
            shutil.rmtree(own)
    return PairDataset(folder, "train")
