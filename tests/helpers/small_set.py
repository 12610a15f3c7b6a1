"""A prepared test set of synthetic people at 32 px and a model with random weights that fits it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.datasets.find import find_dataset
from xmdpt_cli.encoders.vae import VAE
from xmdpt_cli.model import XMDPT
from xmdpt_cli.model.checkpoint import save_model
from xmdpt_cli.prepare.pipeline import prepare_dataset
from xmdpt_cli.sampling.dataset_images import generate
from xmdpt_cli.sampling.sampler import Sampler, SamplingConfig
from xmdpt_cli.toy.encoders import toy_encoders
from xmdpt_cli.toy.synthetic import make_synthetic

SIZE = 32
CONFIG = SamplingConfig(steps=2, guidance=2.0, power=0.01, seed=3)


@dataclass
class Small:
    root: Path  # holds data/ and model/

    def __post_init__(self) -> None:
        self.sampler = Sampler.load(self.root / "model")
        self.dataset = PairDataset(self.root / "data", "test")
        self.vae = VAE.load(self.root / "data/encoders/vae")

    def generate(self, out: Path, config: SamplingConfig = CONFIG, **more: Any) -> dict[str, Any]:
        return generate(self.sampler, self.dataset, self.vae, out, config, **more)


def make_small(root: Path) -> Small:
    make_synthetic(root / "raw", people_train=1, people_test=6, views=3, height=64, workers=1)
    encoders = toy_encoders(SIZE)
    prepare_dataset(find_dataset(root / "raw"), root / "data", size=SIZE, encoder=encoders)
    encoders.vae.save(root / "data/encoders/vae")
    make_model(root)
    return Small(root)


def make_model(root: Path, folder: str = "model", seed: int = 0) -> None:
    manifest = PairDataset(root / "data", "test").manifest
    source, pose = (manifest["encoders"][part] for part in ("source", "pose"))
    torch.manual_seed(seed)
    model = XMDPT.from_size(
        "tiny",
        latent_size=SIZE // 4,
        predictor="none",
        source_length=source["length"],
        source_width=source["width"],
        pose_length=pose["length"],
        pose_width=pose["width"],
    )
    with torch.no_grad():
        for parameter in model.parameters():  # zero layers would hide the conditions
            parameter.add_(torch.randn_like(parameter), alpha=0.03)
    metadata = {
        "schedule": "linear",
        "prediction": "v",
        "sampling": {"steps": 2, "guidance": 2.0, "power": 0.01},
        "resolution": SIZE,
        "encoders": manifest["encoders"],
        "toy": True,
        "trained_steps": 0,
    }
    save_model(root / folder, model, metadata)


def images(out: Path) -> dict[str, bytes]:
    """The generated PNGs' bytes by name, without the sheet."""
    return {p.name: p.read_bytes() for p in sorted(out.glob("*.png")) if p.name != "sheet.png"}


def pixels(out: Path) -> dict[str, np.ndarray]:
    return {name: np.asarray(Image.open(out / name)).astype(int) for name in images(out)}


def within_a_level(one: Path, other: Path) -> bool:
    a, b = pixels(one), pixels(other)
    return a.keys() == b.keys() and all(abs(a[k] - b[k]).max() <= 1 for k in a)
