"""A distilled model and a tiny decoder: four evaluations an image, each of one branch."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from xmdpt_cli.bench.gpu_check.rows import Ready, Row, Setting, at_most, holds, speed
from xmdpt_cli.bench.gpu_check.sampling import (
    IMAGES,
    finished,
    in_fp32,
    median,
    random_inputs,
    rounding,
)
from xmdpt_cli.bench.random_networks import random_student, random_tiny_decoder


def few_steps(setting: Setting, size: str, most_seconds: float) -> Iterator[Row | Ready]:
    """Random weights of the real shapes, in bf16. ``most_seconds``: 8 images, decoded."""
    size, pixels = setting.size(size), setting.pick(256, 64)
    sampler = random_student(size, pixels, setting.where, torch.bfloat16)
    conditions, noise, _ = random_inputs(sampler)
    config = sampler.sampling_config()
    latents = partial(sampler.latents, noise, conditions, config)
    exact, eager = in_fp32(sampler).latents(noise, conditions, config), latents()
    decoder = random_tiny_decoder(setting.where, setting.pick(1, 4))
    decoded = decoder.decode(eager)
    decoder.decode_dtype = torch.bfloat16
    if setting.compile:
        decoder.compile_decoder(IMAGES)
        sampler.compile(IMAGES)
    decoder.decode(eager)  # compiles
    found = finished(setting, latents)
    yield Ready()
    name = f"{size} distilled"
    yield rounding(name, exact, eager, found)
    yield holds(f"{name}: a later call gives the same bits", torch.equal(latents(), found), "same")
    error = float(abs(decoder.decode(eager).astype(int) - decoded.astype(int)).mean())
    check = f"{name}: {IMAGES} images by the tiny decoder in bf16 - in fp32, mean"
    yield at_most(check, error, 1.0, "of 255", note="random weights")
    seconds = median(setting, lambda: decoder.decode(eager))
    yield speed(setting, f"{name}: {IMAGES} images by the tiny decoder", seconds, "s")
    seconds = median(setting, latents)
    steps = f"{config.steps} steps"
    yield speed(setting, f"{name}: {IMAGES} images, {steps}, latents", seconds, "s")
    seconds = median(setting, lambda: decoder.decode(latents()))
    yield speed(
        setting,
        f"{name}: {IMAGES} images, {steps}, tiny decoder",
        seconds,
        "s",
        most=most_seconds,
        note=f"{IMAGES / seconds:.3g} images/s",
    )
