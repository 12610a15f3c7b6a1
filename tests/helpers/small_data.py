"""A small prepared dataset and a recipe that fits it, for tests of training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from encoder_records import encoder_records
from numpy.typing import NDArray
from safetensors.torch import load_file

from xmdpt_cli.datasets.find import find_dataset
from xmdpt_cli.prepare.pipeline import prepare_dataset
from xmdpt_cli.toy.synthetic import make_synthetic
from xmdpt_cli.training.config import TrainConfig

CONFIG = TrainConfig(
    size="tiny", steps=6, batch_size=4, learning_rate=1e-3, ema=0.9, ema_warmup=True,
    checkpoint_every=2, log_every=1, precision="fp32",
)  # fmt: skip


class PixelEncoder:
    """Features computed from the pixels, without a network."""

    def encode(
        self, images: NDArray[np.uint8], poses: NDArray[np.uint8]
    ) -> dict[str, torch.Tensor]:
        def blocks(batch: NDArray[np.uint8]) -> torch.Tensor:  # (N, 8, 8, 3) in [-1, 1]
            n, size = batch.shape[:2]
            small = batch.reshape(n, 8, size // 8, 8, size // 8, 3).mean(axis=(2, 4))
            return torch.from_numpy(small).float() / 127.5 - 1

        mean = blocks(images).permute(0, 3, 1, 2)
        mean = torch.cat([mean, mean.mean(dim=1, keepdim=True)], dim=1)
        tokens, pose = (blocks(p).flatten(1, 2).bfloat16() for p in (images, poses))
        tokens, pose = (torch.cat([t.mean(1, keepdim=True), t], dim=1) for t in (tokens, pose))
        moments = torch.cat([mean, torch.full_like(mean, -10.0)], dim=1)
        return {"moments": moments.half(), "source_tokens": tokens, "pose_tokens": pose}

    def describe(self) -> dict[str, Any]:
        return encoder_records("pixels", scale=1.5, factor=4, channels=4)


def make_data(root: Path) -> Path:
    """Synthetic people at 32 px, prepared below ``root``."""
    make_synthetic(root / "raw", people_train=4, people_test=2, views=3, height=64, workers=1)
    prepare_dataset(find_dataset(root / "raw"), root / "data", size=32, encoder=PixelEncoder())
    return root / "data"


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def logged(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
