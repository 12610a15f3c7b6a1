"""``xmdpt bench latency``: one image, from the keypoints of its pose to the bytes of a PNG.

The source is encoded already, as in the page of ``xmdpt ui`` after the first image of a person.
Each part has a row, and so has the whole, in the functions that ``xmdpt sample`` calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from xmdpt_cli.bench.flops import flops
from xmdpt_cli.bench.machine import Machine
from xmdpt_cli.bench.measure import time_calls
from xmdpt_cli.bench.random_networks import (
    Inputs,
    random_dino,
    random_sampler,
    random_student,
    random_tiny_decoder,
    random_vae,
)
from xmdpt_cli.bench.report import Report, Row
from xmdpt_cli.bench.timing import precision
from xmdpt_cli.diffusion import start_noise
from xmdpt_cli.diffusion.solvers import POLICY
from xmdpt_cli.encoders.bundle import pose_tokens_of
from xmdpt_cli.encoders.decoder import Decoder
from xmdpt_cli.encoders.dino import Dino
from xmdpt_cli.images import ImageArray, fast_png_bytes, unsquash
from xmdpt_cli.pose.drawing import draw_pose
from xmdpt_cli.pose.keypoints import Keypoints
from xmdpt_cli.progress import Progress, silent
from xmdpt_cli.sampling.conditioning import Conditions
from xmdpt_cli.sampling.png_writer import png_text
from xmdpt_cli.sampling.sampler import Sampler, SamplingConfig

#: a standing person, as fractions of the image: x and y of the 18 joints of ``pose.keypoints``
STANDING = (
    (0.50, 0.12), (0.50, 0.22), (0.41, 0.22), (0.37, 0.36), (0.36, 0.49), (0.59, 0.22),
    (0.63, 0.36), (0.64, 0.49), (0.44, 0.50), (0.43, 0.70), (0.43, 0.90), (0.56, 0.50),
    (0.57, 0.70), (0.57, 0.90), (0.48, 0.10), (0.52, 0.10), (0.45, 0.11), (0.55, 0.11),
)  # fmt: skip

WHOLE = "PNG"  # begins the name of a row that times everything
Calls = dict[str, Callable[[], object]]


@dataclass(frozen=True)
class Pipeline:
    """What generates the image, as ``XMDPTPipeline`` holds it, for one person."""

    dino: Dino  # of the pose
    sampler: Sampler
    config: SamplingConfig
    decoder: Decoder
    conditions: Conditions  # with the person's encoded source
    noise: Tensor  # (1, C, h, w)

    @classmethod
    def of(cls, dino: Dino, sampler: Sampler, decoder: Decoder) -> Pipeline:
        """With the sampler's default settings and a random person."""
        inputs = Inputs.random(sampler.model, 1)
        conditions = Conditions(inputs.pose, inputs.source[None], inputs.latents[None])
        noise = start_noise(sampler.model.latent_shape, 0, [0])
        return cls(dino, sampler, sampler.sampling_config(), decoder, conditions, noise)

    def latents(self, pose_tokens: Tensor) -> Tensor:
        """CANet and all steps: (1, L, 768) -> (1, C, h, w)."""
        known = self.conditions
        given = Conditions(pose_tokens, known.source_tokens, known.source_latents)
        return self.sampler.latents(self.noise, given, self.config)

    def image(self, keypoints: Keypoints, pixels: int) -> bytes:
        """Keypoints (18, 2) in pixels -> the PNG file."""
        pose_image = draw_pose(keypoints, pixels)
        latents = self.latents(pose_tokens_of(self.dino, pose_image[None]))
        return png_of(self.decoder.decode(latents)[0])


def png_of(image: ImageArray) -> bytes:
    """The PNG file of a square image, in the shape of DeepFashion's."""
    return fast_png_bytes(unsquash(image), png_text({"toy": True}))


def measure_latency(
    sizes: Sequence[str],
    device: torch.device,
    dtype: torch.dtype,
    pixels: int = 256,
    *,
    compiled: bool = False,
    rounds: int = 10,
    progress: Progress = silent,
) -> Report:
    """Measure one image of each size, whole and in parts; random weights.

    ``compiled``: CANet and steps by torch.compile, on a GPU the decoder as well.
    """
    machine = Machine.here(device)
    calls: Calls = {}
    for number, size in enumerate(sizes):
        progress("build", number, len(sizes))
        for name, call in _calls(size, device, dtype, pixels, compiled):
            calls.setdefault(name, call)  # what several models share is measured once
    flop = {name: flops(call) for name, call in calls.items()}
    timed = time_calls(calls, {dtype}, device, rounds, progress)
    peak = timed.peak[f"peak {precision(dtype)}"]
    rows = [
        Row.of(name, timed.seconds[name], 1, flop=flop[name] or None, peak=peak) for name in calls
    ]
    rows.sort(key=lambda row: row.model.startswith("X-MDPT"))  # what models share comes first
    _compare_whole(rows)
    settings = {
        "pixels": pixels,
        "precision": precision(dtype),
        "compiled": compiled,
        "rounds": rounds,
    }
    title = f"latency: one image of {pixels} px, from its pose to a PNG file"
    notes = [
        "the source is encoded already; all networks have random weights",
        f'"{WHOLE}, ...": the whole, by an ordinary model (solver unipc) with the VAE decoder and '
        f"by a distilled one (solver {POLICY}) with the tiny decoder",
    ]
    return Report("latency", title, settings, machine, rows, timed.peak_spreads(), notes)


def _compare_whole(rows: Sequence[Row]) -> None:
    """Add to the whole of each distilled model its speedup over the ordinary one."""
    ordinary: dict[str, Row] = {}
    for row in rows:
        if row.implementation.startswith(f"{WHOLE},"):
            row.compare_to(ordinary.setdefault(row.model, row), "base")


def _calls(
    size: str, device: torch.device, dtype: torch.dtype, pixels: int, compiled: bool
) -> Iterator[tuple[str, Callable[[], object]]]:
    """Names of the rows and what they time: the parts, and the whole, of an ordinary model and of a
    distilled one with a tiny decoder."""
    narrow, shared = (4, "small encoders") if size == "tiny" else (1, "encoders, files")
    keypoints = np.array(STANDING) * pixels
    pose_image = draw_pose(keypoints, pixels)
    dino = random_dino("thin" if size == "tiny" else "base", device)
    if device.type == "cuda":  # as in ``LazyEncoders``
        dino.autocast = torch.bfloat16
    yield f"{shared} / pose image", lambda: draw_pose(keypoints, pixels)
    yield f"{shared} / DINOv2-B of the pose", lambda: pose_tokens_of(dino, pose_image[None])
    for sampler, decoder, decoder_name in (
        (random_sampler(size, pixels, device, dtype), random_vae(device, narrow), "VAE decoder"),
        (random_student(size, pixels, device, dtype), random_tiny_decoder(device, narrow),
         "tiny decoder"),
    ):  # fmt: skip
        decoder.decode_dtype = dtype
        if compiled:
            sampler.compile(1)
            decoder.compile_decoder(1)
        pipe = Pipeline.of(dino, sampler, decoder)
        latents = torch.zeros(1, *sampler.model.latent_shape)
        model, steps = f"X-MDPT-{size}", f"{pipe.config.steps} steps"
        encoded = torch.no_grad()(partial(sampler.encoded, pipe.conditions))
        yield f"{shared} / {decoder_name}", partial(decoder.decode, latents)
        yield f"{shared} / PNG", partial(png_of, decoder.decode(latents)[0])
        yield f"{model} / CANet", encoded
        yield f"{model} / CANet + {steps}", partial(pipe.latents, pipe.conditions.pose_tokens)
        whole = f"{model} / {WHOLE}, {steps}, {decoder_name}"
        yield whole, partial(pipe.image, keypoints, pixels)
