"""The public names have types: mypy checks this file, and nothing here is ``Any``.

assert_type fails where an expression has another type than the one written.
"""

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor
from typing_extensions import assert_type

from xmdpt_cli import (
    XMDPT,
    PairDataset,
    Sampler,
    Schedule,
    XmdptError,
    XMDPTPipeline,
    draw_pose,
    from_published,
    metrics,
    sample,
    save_png,
    training_loss,
)


def generate(folder: str) -> None:
    pipe = XMDPTPipeline.from_pretrained(folder, device="auto")
    assert_type(pipe, XMDPTPipeline)
    images = pipe(source="person.jpg", pose="pose.json", seed=1)
    assert_type(images, list[Image])
    save_png("generated.png", images[0])
    assert_type(pipe.to("cpu"), XMDPTPipeline)
    assert_type(pipe.resolution, int)
    assert_type(Sampler.load(folder), Sampler)


def train(data: str, noise: Tensor, timesteps: Tensor, latents: Tensor) -> None:
    model = XMDPT.from_size("S").eval()
    assert_type(model, XMDPT)
    assert_type(from_published("checkpoint.pt"), XMDPT)
    condition = model.condition(noise, noise, latents)
    assert_type(condition, Tensor)
    assert_type(sample(model, noise, condition, schedule=Schedule()), Tensor)
    assert_type(
        training_loss(model(latents, timesteps, condition), latents, timesteps, noise).total, Tensor
    )
    dataset = PairDataset(data, "train")
    assert_type(len(dataset), int)
    pair = dataset.pairs[0]
    assert_type(pair.position, int)
    assert_type(draw_pose(dataset.keypoints(pair.key, pair.target), 256), NDArray[np.uint8])


def evaluate() -> None:
    assert_type(metrics.protocol_metrics("cfld"), metrics.ProtocolMetrics)
    assert_type(metrics.SSIM256(), metrics.SSIM256)


def message(error: XmdptError) -> str:
    return assert_type(error.hint, str)
