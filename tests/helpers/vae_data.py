"""Shared by the tests of VAE training: images, a tiny prepared dataset, and reading results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from xmdpt_cli.datasets.find import find_dataset
from xmdpt_cli.encoders.bundle import Encoders
from xmdpt_cli.encoders.vae import VAE
from xmdpt_cli.prepare.pipeline import prepare_dataset
from xmdpt_cli.toy.encoders import toy_dino, toy_vae
from xmdpt_cli.toy.synthetic import make_synthetic

WEIGHTS = "diffusion_pytorch_model.safetensors"
SIZE = 32


def blobs(count: int, size: int, seed: int = 0) -> np.ndarray:
    """Coloured discs and bars on a plain background: uint8 (count, size, size, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    out = np.empty((count, size, size, 3), dtype=np.uint8)
    for image in out:
        image[:] = rng.integers(190, 256, 3)
        image[(abs(x - 0.5) < 0.2) & (y > 0.4) & (y < 0.9)] = rng.integers(0, 256, 3)
        cx, cy = rng.uniform(0.3, 0.7), rng.uniform(0.2, 0.4)
        image[(x - cx) ** 2 + (y - cy) ** 2 < 0.02] = rng.integers(0, 256, 3)
    return out


def make_dataset(root: Path) -> Path:
    """``root/data``: 12 training and 6 test images, its VAE in ``root/vae``, no toy by its mark.

    The VAE is a toy's network saved by diffusers alone, as a real one comes.
    """
    make_synthetic(root / "raw", people_train=4, people_test=2, views=3, height=64, workers=1)
    made = toy_vae(SIZE, seed=5)
    made.net.register_to_config(scaling_factor=0.9)
    made.net.save_pretrained(root / "vae")
    encoders = Encoders(VAE.load(root / "vae"), toy_dino("source", SIZE), toy_dino("pose", SIZE))
    prepare_dataset(find_dataset(root / "raw"), root / "data", size=SIZE, encoder=encoders)
    return root / "data"


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / WEIGHTS)


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def is_encoder(name: str) -> bool:
    return name.startswith(("encoder.", "quant_conv."))
