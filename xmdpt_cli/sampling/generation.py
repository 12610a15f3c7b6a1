"""From requests for images to images: batches of people in poses through model and VAE."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from xmdpt_cli.diffusion import Seen, start_noise
from xmdpt_cli.errors import ConfigError
from xmdpt_cli.images import ImageArray, unsquash
from xmdpt_cli.sampling.batch_size import batch_size, in_batches
from xmdpt_cli.sampling.conditioning import Conditions, encode_conditions
from xmdpt_cli.sampling.config import SamplingConfig
from xmdpt_cli.sampling.inputs import Pose, View
from xmdpt_cli.sampling.metadata import image_metadata

if TYPE_CHECKING:
    from xmdpt_cli.sampling.pipeline import XMDPTPipeline

#: called after every step: (steps done, steps, a function that decodes the current estimate)
Callback = Callable[[int, int, Callable[[], Image.Image]], None]


@dataclass(frozen=True)
class ImageRequest:
    """Requests with the same ``views`` object are of one person, which is then encoded once."""

    views: Sequence[View]
    pose: Pose
    seed: int
    number: int = 0  # among the images of one pose: each has its own noise
    noise: Tensor | None = None  # (C, h, w); None: from ``seed`` and ``number``

    def start_noise(self, shape: tuple[int, int, int]) -> Tensor:
        """(C, h, w)."""
        if self.noise is not None:
            return self.noise
        return start_noise(shape, self.seed, [self.number])[0]


def pose_requests(
    views: Sequence[View], poses: Sequence[Pose], num_images: int, seed: int
) -> list[ImageRequest]:
    """``num_images`` of one person in every pose, pose by pose."""
    if num_images < 1:
        raise ConfigError(f"num_images is at least 1, not {num_images}")
    return [ImageRequest(views, pose, seed, k) for pose in poses for k in range(num_images)]


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

    Requests of one person are put side by side, so that each person is
    encoded once; ``config.seed`` is not used, each request has its own.
    ``batch``: images per batch; None: ``max_batch``, or what fits into
    the device. ``notify`` is called when a batch did not fit.
    """
    if not requests:
        return
    order = _by_person(requests)
    conditions = _conditions(pipe, [requests[i] for i in order])
    if pipe.max_batch is not None:  # memory is limited: encode first, then denoise
        pipe.encoders.release()
    shape, vae = pipe.sampler.model.latent_shape, pipe.encoders.vae
    on_step = None if callback is None else _on_step(pipe, callback, square)

    def run(rows: Sequence[int]) -> list[ImageArray]:
        noise = torch.stack([requests[order[row]].start_noise(shape) for row in rows])
        latents = pipe.sampler.latents(noise, conditions.rows(list(rows)), config, on_step)
        return list(vae.decode(latents))

    size = batch or pipe.max_batch or batch_size(pipe.sampler)
    done = 0
    for images in in_batches(range(len(order)), size, run, notify):
        for image in images:
            yield order[done], image if square else unsquash(image)
            done += 1


def describe_image(
    pipe: XMDPTPipeline, request: ImageRequest, config: SamplingConfig, square: bool
) -> dict[str, Any]:
    """JSON-ready: what decides an image; its PNG and ``image.info`` carry it."""
    shared = pipe.sampler.described(replace(config, seed=request.seed), pipe.encoders.vae)
    if request.noise is not None:  # then the seed is not used
        shared["sampling"]["seed"] = None
    return image_metadata(shared, request.views, request.pose, request.number, square)


def _by_person(requests: Sequence[ImageRequest]) -> list[int]:
    """Indices with each person's requests side by side, people in the order of their first."""
    first: dict[int, int] = {}
    for i, request in enumerate(requests):
        first.setdefault(id(request.views), i)
    return sorted(range(len(requests)), key=lambda i: first[id(requests[i].views)])


def _conditions(pipe: XMDPTPipeline, requests: Sequence[ImageRequest]) -> Conditions:
    """Of all requests, in their order, which has each person's side by side."""
    parts = []
    for _, group in groupby(requests, key=lambda request: id(request.views)):
        own = list(group)
        poses = [request.pose for request in own]
        parts.append(encode_conditions(pipe.sampler, pipe.encoders, own[0].views, poses))
    return Conditions.join(parts)


def _on_step(pipe: XMDPTPipeline, callback: Callback, square: bool) -> Callable[[Seen], None]:
    def on_step(seen: Seen) -> None:
        def preview() -> Image.Image:
            image = pipe.encoders.vae.decode(seen.clean[:1])[0]
            return Image.fromarray(image if square else unsquash(image))

        callback(seen.done, seen.steps, preview)

    return on_step
