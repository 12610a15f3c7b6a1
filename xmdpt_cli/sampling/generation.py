"""Requests -> images, in batches: noise and conditions, sampler, VAE, pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from xmdpt_cli.diffusion import StepResult, start_noise
from xmdpt_cli.encoders.decoder import Decoder
from xmdpt_cli.errors import ConfigError
from xmdpt_cli.images import ImageArray, unsquash
from xmdpt_cli.sampling.batch_size import batch_size, in_batches
from xmdpt_cli.sampling.conditioning import Conditions, encode_conditions
from xmdpt_cli.sampling.inputs import Pose, View
from xmdpt_cli.sampling.sampler import Sampler, SamplingConfig

if TYPE_CHECKING:
    from xmdpt_cli.sampling.pipeline import XMDPTPipeline

T = TypeVar("T")

#: called after each step: (steps done, steps, a function that decodes the current estimate, by the
#: tiny decoder if there is one)
Callback = Callable[[int, int, Callable[[], Image.Image]], None]


@dataclass(frozen=True)
class ImageRequest:
    """One image to generate. Requests that share one ``views`` object are of one person, whose
    views are encoded once."""

    views: Sequence[View]
    pose: Pose
    seed: int
    number: int = 0  # among the images of one pose: each has its own noise
    noise: Tensor | None = None  # (C, h, w); None: from ``seed`` and ``number``

    def start_noise(self, shape: tuple[int, int, int]) -> Tensor:
        """The noise (C, h, w) that sampling starts from."""
        if self.noise is not None:
            return self.noise
        return start_noise(shape, self.seed, [self.number])[0]

    def inputs_digest(self) -> str:
        """sha256 of everything that the model reads of the views and the pose."""
        digest = hashlib.sha256(np.ascontiguousarray(self.pose.keypoints).tobytes())
        for view in self.views:
            digest.update(view.image.tobytes())
            if view.keypoints is not None:
                digest.update(np.ascontiguousarray(view.keypoints).tobytes())
        return digest.hexdigest()


def pose_requests(
    views: Sequence[View], poses: Sequence[Pose], num_images: int, seed: int
) -> list[ImageRequest]:
    """``num_images`` of one person in each pose, pose by pose."""
    if num_images < 1:
        raise ConfigError(f"num_images is at least 1, not {num_images}")
    return [ImageRequest(views, pose, seed, k) for pose in poses for k in range(num_images)]


def generate_batches(
    sampler: Sampler,
    vae: Decoder,
    items: Sequence[T],
    inputs_of: Callable[[Sequence[T]], tuple[Tensor, Conditions]],
    config: SamplingConfig,
    *,
    batch_size: int,
    on_step: Callable[[StepResult], None] | None = None,
    notify: Callable[[str], None] = lambda _: None,
) -> Iterator[tuple[T, ImageArray]]:
    """Yield (item, uint8 (S, S, 3)) of all items, in order. Every image is generated here.

    ``inputs_of(part)``: noise (n, C, h, w) and conditions of n consecutive items; a part that does
    not fit into memory is halved, so items may be requested twice. ``notify`` is called then.
    """

    def run(part: Sequence[T]) -> list[tuple[T, ImageArray]]:
        noise, conditions = inputs_of(part)
        latents = sampler.latents(noise, conditions, config, on_step)
        return list(zip(part, vae.decode(latents), strict=True))

    for generated in in_batches(items, batch_size, run, notify):
        yield from generated


def generate_images(
    pipe: XMDPTPipeline,
    requests: Sequence[ImageRequest],
    config: SamplingConfig,
    *,
    batch: int | None = None,
    square: bool = False,
    callback: Callback | None = None,
    notify: Callable[[str], None] = lambda _: None,
) -> Iterator[tuple[int, ImageArray]]:
    """Yield (index of the request, uint8 image), batch by batch.

    Requests of one person are processed together, so that each person is encoded once.
    ``config.seed`` is not used: each request has its own. ``batch``: images per batch; None:
    ``max_batch``, or the number that fits into the device's memory. ``notify`` is called when a
    batch did not fit.
    """
    if not requests:
        return
    order = _by_person(requests)
    conditions = _conditions(pipe, [requests[i] for i in order])
    if pipe.max_batch is not None:  # memory is limited: the DINOv2 networks are not needed any more
        pipe.encoders.release()
    shape = pipe.sampler.model.latent_shape

    def inputs_of(rows: Sequence[int]) -> tuple[Tensor, Conditions]:
        noise = [requests[order[row]].start_noise(shape) for row in rows]
        return torch.stack(noise), conditions.rows(list(rows))

    for row, image in generate_batches(
        pipe.sampler,
        pipe.encoders.decoder,
        range(len(order)),
        inputs_of,
        config,
        batch_size=batch or pipe.max_batch or batch_size(pipe.sampler),
        on_step=None if callback is None else _on_step(pipe, callback, square),
        notify=notify,
    ):
        yield order[row], image if square else unsquash(image)


def describe_image(
    pipe: XMDPTPipeline, request: ImageRequest, config: SamplingConfig, square: bool
) -> dict[str, Any]:
    """JSON-ready: what determines an image, without paths of this machine. Stored in its PNG and in
    ``image.info``."""
    settings = pipe.sampler.described(replace(config, seed=request.seed), pipe.encoders.decoder)
    if request.noise is not None:  # then the seed is not used
        settings["sampling"]["seed"] = None
    inputs = request.inputs_digest()
    return {"image": request.number, "inputs": inputs, "square": square, **settings}


def _by_person(requests: Sequence[ImageRequest]) -> list[int]:
    """Indices with each person's requests side by side, people in order of their first request."""
    first: dict[int, int] = {}
    for i, request in enumerate(requests):
        first.setdefault(id(request.views), i)
    return sorted(range(len(requests)), key=lambda i: first[id(requests[i].views)])


def _conditions(pipe: XMDPTPipeline, requests: Sequence[ImageRequest]) -> Conditions:
    """The conditions of all requests, which are sorted by person."""
    parts = []
    for _, group in groupby(requests, key=lambda request: id(request.views)):
        of_person = list(group)
        poses = [request.pose for request in of_person]
        parts.append(encode_conditions(pipe.sampler, pipe.encoders, of_person[0].views, poses))
    return Conditions.join(parts)


def _on_step(pipe: XMDPTPipeline, callback: Callback, square: bool) -> Callable[[StepResult], None]:
    def on_step(result: StepResult) -> None:
        def preview() -> Image.Image:
            decoder = pipe.encoders.tiny or pipe.encoders.decoder
            image = decoder.decode(result.clean[:1])[0]
            return Image.fromarray(image if square else unsquash(image))

        callback(result.done, result.steps, preview)

    return on_step
