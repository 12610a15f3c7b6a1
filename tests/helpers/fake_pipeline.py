"""A fake pipeline that renders its inputs and records its calls."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.pose.drawing import draw_pose
from xmdpt_cli.pose.keypoints import Keypoints, from_fractions
from xmdpt_cli.ui.poses import PRESETS

SIZE = (256, 176)  # height, width


@dataclass
class SamplingConfig:
    steps: int = 7
    guidance: float = 1.75
    power: float = 0.5
    solver: str = "dpm"
    seed: int = 3


class NoOpenPose:
    """The encoders of a machine without a keypoint estimator."""

    requested = 0
    tiny = None  # no tiny decoder

    @property
    def openpose(self) -> Any:
        self.requested += 1
        raise XmdptError("OpenPose is not on this machine", "fetch it: --openpose DIR")


class FakePipeline:
    resolution = 256
    toy = True
    solvers = ("ddim", "dpm")

    def __init__(self, pause: float = 0.0, conditioning: str = "vector") -> None:
        self.pause = pause
        model = SimpleNamespace(conditioning=conditioning)
        self.sampler = SimpleNamespace(model=model, metadata={}, folder=None)
        self.encoders: Any = NoOpenPose()
        self.info: dict[str, str] = {}
        self.calls: list[dict[str, Any]] = []
        self.steps_done = 0
        self.last_notes: list[str] = []
        self.fails: Exception | None = None

    def sampling_config(self) -> SamplingConfig:
        return SamplingConfig()

    def find_pose(self, image: Path) -> Keypoints:
        if np.asarray(Image.open(image)).std() < 1:
            raise XmdptError("no person in the image", "take one that shows a whole person")
        return PRESETS[5].keypoints()

    def __call__(
        self,
        source: list[Path],
        pose: Keypoints,
        *,
        steps: int | None = None,
        num_images: int = 1,
        callback: Callable[[int, int, Callable[[], Image.Image]], None] | None = None,
        **settings: Any,
    ) -> list[Image.Image]:
        if self.fails is not None:
            raise self.fails
        steps = steps or self.sampling_config().steps
        sources = [Image.open(path).convert("RGB") for path in source]
        self.calls.append(
            {"source": sources, "pose": pose, "steps": steps, "num_images": num_images, **settings}
        )
        height, width = SIZE
        pose_image = draw_pose(from_fractions(pose, SIZE), SIZE).astype(np.float64)
        person = np.asarray(sources[0].resize((width, height)), dtype=np.float64)
        result = np.where(pose_image.max(axis=2, keepdims=True) > 0, pose_image, 0.7 * person)
        noise = np.random.default_rng(0).uniform(0, 255, result.shape)
        for step in range(1, steps + 1):
            time.sleep(self.pause)
            self.steps_done += 1
            share = step / steps
            if callback is not None:
                callback(step, steps, lambda s=share: _image(s * result + (1 - s) * noise))
        self.last_notes = [f"cut {sources[0].width}x{sources[0].height} around the person"]
        images = [_image(result) for _ in range(num_images)]
        for image in images:
            image.info.update(self.info)
        return images


def _image(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
