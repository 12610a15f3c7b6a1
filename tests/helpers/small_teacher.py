"""A random teacher that fits the dataset of ``small_data``, and a short distillation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.distillation.config import DistillConfig
from xmdpt_cli.model import XMDPT
from xmdpt_cli.model.checkpoint import save_model

SHORT = DistillConfig(
    stage="guidance", steps=4, batch_size=4, learning_rate=1e-3, warmup_steps=0, ema=0.5,
    checkpoint_every=2, log_every=1, precision="fp32",
)  # fmt: skip


def small_model(seed: int = 0, **settings: Any) -> XMDPT:
    """Nothing in it is zero, so that every input counts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = XMDPT(
            **{
                "depth": 3, "width": 32, "heads": 2, "latent_size": 8, "pose_length": 65,
                "pose_width": 3, "source_length": 65, "source_width": 3, "vae_factor": 4,
                **settings,
            }
        )  # fmt: skip
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.02 * torch.randn_like(parameter)
    return model


def make_teacher(
    folder: Path,
    dataset: Path,
    *,
    conditioning: str = "vector",
    prediction: str = "epsilon",
    model: dict[str, Any] | None = None,
    seed: int = 0,
    **metadata: Any,
) -> Path:
    """A model folder. ``model``: arguments of XMDPT; ``metadata``: other fields of xmdpt.json."""
    manifest = PairDataset(dataset).manifest
    known = {
        "schedule": "cosine",
        "prediction": prediction,
        "sampling": {"steps": 3, "solver": "ddim", "guidance": 1.5, "power": 0.5},
        "resolution": manifest["resolution"],
        "encoders": manifest["encoders"],
        "toy": True,
        "trained_steps": 7,
    }
    save_model(
        folder, small_model(seed, conditioning=conditioning, **(model or {})), {**known, **metadata}
    )
    return folder
