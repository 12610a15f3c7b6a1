"""Untrained models at 32 px whose images depend on every input, and a person as their input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from stick_people import FIGURE

from xmdpt_cli.encoders.bundle import Encoders
from xmdpt_cli.model import XMDPT
from xmdpt_cli.model.checkpoint import save_model
from xmdpt_cli.toy.encoders import toy_encoders

SIZE = 32
FORMS: dict[str, dict[str, Any]] = {
    "vector": {},
    "keys": {"conditioning": "tokens"},
}


def make_encoders(folder: Path) -> Path:
    toy_encoders(SIZE).save(folder)
    return folder


def make_model(folder: Path, encoders: Path, form: str = "keys", **more: Any) -> Path:
    """A model folder with random weights; nothing of it is zero, so that every input counts."""
    made = Encoders.load(encoders).describe()
    tokens = {"length": made["source"]["length"], "width": made["source"]["width"]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = XMDPT(
            depth=3, width=32, heads=2, latent_size=SIZE // 4, predictor="none", vae_factor=4,
            pose_length=tokens["length"], pose_width=tokens["width"],
            source_length=tokens["length"], source_width=tokens["width"], **FORMS[form],
        )  # fmt: skip
        for weight in model.parameters():
            if not weight.any():
                torch.nn.init.normal_(weight, std=0.1)
    known = {
        "schedule": "cosine",
        "prediction": "v",
        "sampling": {"steps": 3, "guidance": 1.5, "power": 0.01},
        "resolution": SIZE,
        "encoders": made,
        "toy": True,
        "trained_steps": 7,
        "trained_on": {"items": 4, "images": 12, "pairs": 24},
        "data": str(encoders.parent),
    }
    save_model(folder, model, {**known, **more})
    return folder


def person(hue: int = 0, width: int = 88, height: int = 128) -> Image.Image:
    """An image of a person in the pose ``FIGURE``, in a shirt of one hue."""
    image = Image.new("RGB", (width, height), (200, 205, 210))
    draw = ImageDraw.Draw(image)
    at = [tuple(map(float, point)) for point in FIGURE * (width, height)]
    shirt = [(200, 40, 40), (40, 60, 200), (30, 160, 60)][hue]
    draw.polygon([at[2], at[5], at[11], at[8]], fill=shirt)
    for a, b in ((2, 3), (3, 4), (5, 6), (6, 7), (8, 9), (9, 10), (11, 12), (12, 13)):
        draw.line([at[a], at[b]], fill=(90, 60, 50), width=5)
    draw.ellipse([at[0][0] - 9, at[0][1] - 11, at[0][0] + 9, at[0][1] + 11], fill=(230, 190, 160))
    return image


def leaning(amount: float) -> NDArray[np.float64]:
    """``FIGURE`` with its upper half moved aside: fractions (18, 2)."""
    points = FIGURE.copy()
    points[:, 0] += amount * (1 - points[:, 1])
    return points


def write_pose(path: Path, points: NDArray[np.float64], size: tuple[int, int] = (88, 128)) -> Path:
    """Our own form, in pixels of an image of (width, height)."""
    rows = (points * size).tolist()
    data = {"keypoints": rows, "width": size[0], "height": size[1]}
    path.write_text(json.dumps(data), encoding="utf-8")
    return path
