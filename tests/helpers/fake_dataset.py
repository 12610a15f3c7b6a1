"""A small synthetic dataset in the raw layout, and an encoder without a network, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from encoder_records import encoder_records
from numpy.typing import NDArray
from PIL import Image

VIEWS = ("1_front", "2_side", "7_additional")
SIZE = (88, 128)  # width, height: half of the annotation frame


class FakeEncoder:
    """Features are simple functions of the pixels; ``calls`` records the calls."""

    def __init__(self, name: str = "fake") -> None:
        self.name = name
        self.calls: list[int] = []

    def encode(
        self, images: NDArray[np.uint8], poses: NDArray[np.uint8]
    ) -> dict[str, torch.Tensor]:
        self.calls.append(len(images))
        blocks = images[:, ::8, ::8].astype(np.float32)  # (N, h, w, 3)
        moments = torch.from_numpy(np.concatenate([blocks, -blocks], axis=3)).permute(0, 3, 1, 2)
        return {
            "moments": moments.half(),
            "source_tokens": torch.from_numpy(blocks).flatten(1, 2).bfloat16(),
            "pose_tokens": torch.from_numpy(poses[:, ::8, ::8].astype(np.float32))
            .flatten(1, 2)
            .bfloat16(),
        }

    def describe(self) -> dict[str, Any]:
        return encoder_records(self.name)


def flat_name(gender: str, item: int, view: str) -> str:
    return f"fashion{gender}Tees_Tanksid{item:08d}01_{view.replace('_', '')}.jpg"


def tree_name(gender: str, item: int, view: str) -> str:
    return f"{gender}/Tees_Tanks/id_{item:08d}/01_{view}.jpg"


def joints(rng: np.random.Generator, missing: float = 0.2) -> NDArray[np.int64]:
    """Raw keypoints (18, 2) of the 256x176 frame, x and y, -1 missing."""
    points = np.stack((rng.integers(5, 171, 18), rng.integers(5, 250, 18)), axis=1)
    points[rng.random(18) < missing] = -1
    return points


def annotation_row(name: str, points: NDArray[np.int64]) -> str:
    return f"{name}: {json.dumps(points[:, 1].tolist())}: {json.dumps(points[:, 0].tolist())}"


def make_dataset(root: Path, train: int = 5, test: int = 2, seed: int = 0) -> Path:
    """``train`` + ``test`` items of three views; all ordered pairs train, one each tests."""
    rng = np.random.Generator(np.random.PCG64(seed))
    for split, first, count in (("train", 1, train), ("test", 501, test)):
        annotations, pairs = ["name:keypoints_y:keypoints_x"], ["from,to"]
        for item in range(first, first + count):
            gender = ("WOMEN", "MEN")[item % 2]
            for view in VIEWS:
                path = root / "img_highres" / tree_name(gender, item, view)
                path.parent.mkdir(parents=True, exist_ok=True)
                small = rng.integers(0, 256, (8, 6, 3), dtype=np.uint8)
                Image.fromarray(small).resize(SIZE).save(path, quality=90)
                annotations.append(annotation_row(flat_name(gender, item, view), joints(rng)))
            both = [(a, b) for a in VIEWS for b in VIEWS if a != b]
            pairs += [
                f"{flat_name(gender, item, a)},{flat_name(gender, item, b)}"
                for a, b in (both if split == "train" else both[:1])
            ]
        (root / f"fasion-resize-annotation-{split}.csv").write_text("\n".join(annotations) + "\n")
        (root / f"fasion-resize-pairs-{split}.csv").write_text("\n".join(pairs) + "\n")
    return root
