"""Sampling as ``xmdpt sample`` computes it: compiled equal to eager, seconds for eight images."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xmdpt_cli.bench.gpu_check.goldens import relative
from xmdpt_cli.bench.gpu_check.rows import Ready, Row, Setting, at_most, holds, speed
from xmdpt_cli.bench.random_networks import Inputs, random_xmdpt, sd_vae
from xmdpt_cli.bench.roof import sampling_parts
from xmdpt_cli.bench.timing import clock
from xmdpt_cli.diffusion import Schedule, start_noise
from xmdpt_cli.encoders.vae import VAE
from xmdpt_cli.encoders.weights import Origin
from xmdpt_cli.model.checkpoint import published_metadata
from xmdpt_cli.sampling.conditioning import Conditions
from xmdpt_cli.sampling.sampler import PRECISIONS, Sampler, SamplingConfig
from xmdpt_cli.training.flops import peak_flops

IMAGES = 8  # the paper's table is of so many
#: of compiled and eager, in fp32 and in bf16, over the largest value
EXACT, ROUNDED = 1e-3, 0.05
#: compiled bf16 may be so many times as far from eager fp32 as eager bf16 is, and a little
TIMES, LITTLE = 2.0, 5e-3


def sampling(
    setting: Setting, size: str, most_seconds: float | None, precision: str = "bf16"
) -> Iterator[Row | Ready]:
    """Random weights of the real shapes. ``most_seconds``: 50 steps, decoding included."""
    size, pixels = setting.size(size), setting.pick(256, 64)
    sampler = random_sampler(setting, size, pixels, PRECISIONS[precision])
    conditions, noise, other = random_inputs(sampler)
    paper = sampler.sampling_config(steps=setting.pick(50, 3), solver="ddim")

    def latents(noise: Tensor = noise, config: SamplingConfig = paper) -> Tensor:
        return sampler.latents(noise, conditions, config)

    eager, eager_other = latents(), latents(other)
    exact = eager if precision == "fp32" else _in_fp32(sampler).latents(noise, conditions, paper)
    called = f"{size}, {precision}"
    if precision == "bf16":
        vae = real_vae(setting)
        in_fp32 = vae.decode(eager)
        vae.decode_dtype = torch.bfloat16
        if setting.compile:
            vae.compile_decoder(IMAGES)
        vae.decode(eager)  # compiles
    if setting.compile:
        start = time.perf_counter()
        sampler.compile(IMAGES)
        compiled = _done(setting, latents)
        first = time.perf_counter() - start
        again = time.perf_counter()
        compiled_other = _done(setting, lambda: latents(other))
        first -= time.perf_counter() - again
        yield Ready()
        note = "beside the other parts of its wave"
        yield speed(setting, f"{called}: torch.compile, first call", first, "s", note=note)
        yield from _equal(called, precision, exact, eager, compiled)
        yield at_most(
            f"{called}: compiled - eager, other noise", relative(compiled_other, eager_other),
            EXACT if precision == "fp32" else ROUNDED, note="the graph reads its new inputs",
        )  # fmt: skip
        same = torch.equal(latents(), compiled)
        yield holds(f"{called}: a later call gives the same bits", same, "same bits")
    else:
        yield Ready()
    if precision == "bf16":
        yield from _decoding(setting, size, vae, eager, in_fp32)
        yield from _timed(setting, size, pixels, most_seconds, sampler, latents, vae)


def _equal(
    called: str, precision: str, exact: Tensor, eager: Tensor, compiled: Tensor
) -> Iterator[Row]:
    direct = relative(compiled, eager)
    check = f"{called}: compiled - eager"
    if precision == "fp32":
        yield at_most(check, direct, EXACT, note="largest difference / largest value")
        return
    own = relative(eager, exact)
    note = f"directly {direct:.2g}; eager {precision} - eager fp32: {own:.2g}"
    limit = TIMES * own + LITTLE
    yield at_most(f"{called}: compiled - eager fp32", relative(compiled, exact), limit, note=note)


def _timed(
    setting: Setting,
    size: str,
    pixels: int,
    most_seconds: float | None,
    sampler: Sampler,
    latents: Callable[..., Tensor],
    vae: VAE,
) -> Iterator[Row]:
    steps = setting.pick(50, 3)
    own = sampler.sampling_config(steps=setting.pick(sampler.sampling_config().steps, 2))
    configs = {f"{steps} DDIM steps": sampler.sampling_config(steps=steps, solver="ddim")}
    configs[f"{own.steps} steps of {own.solver}"] = own
    for name, config in configs.items():
        seconds = median(setting, partial(latents, config=config))
        yield speed(setting, f"{size}: {IMAGES} images, {name}, latents", seconds, "s")

    def images(config: SamplingConfig) -> object:
        return vae.decode(latents(config=config))

    for name, config in configs.items():
        seconds = median(setting, partial(images, config))
        most = most_seconds if config is not own else None
        check = f"{size}: {IMAGES} images, {name}, decoded"
        note = f"{IMAGES / seconds:.3g} images/s; decoder in bf16, compiled"
        yield speed(setting, check, seconds, "s", most=most, note=note)
        yield from _mfu(setting, f"{check}, MFU", size, config.steps, pixels, seconds)


def _decoding(
    setting: Setting, size: str, vae: VAE, latents: Tensor, in_fp32: NDArray[np.uint8]
) -> Iterator[Row]:
    off = float(abs(vae.decode(latents).astype(int) - in_fp32.astype(int)).mean())
    check = f"{size}: {IMAGES} images decoded in bf16 - in fp32, mean"
    yield at_most(check, off, 1.0, "of 255", note="random weights")
    seconds = median(setting, lambda: vae.decode(latents))
    yield speed(setting, f"{size}: {IMAGES} images decoded in bf16", seconds, "s")


def _mfu(
    setting: Setting, check: str, size: str, steps: int, pixels: int, seconds: float
) -> Iterator[Row]:
    peak = peak_flops(setting.where, autocast=True)
    if peak is None:
        return
    work = sum(part.times * part.flop for part in sampling_parts(size, IMAGES, steps, pixels))
    note = f"{work / 1e12:.3g} TFLOP of {peak / 1e12:.0f} TFLOP/s (bf16, published)"
    yield speed(setting, check, 100 * work / seconds / peak, "%", note=note)


def random_sampler(setting: Setting, size: str, pixels: int, dtype: torch.dtype) -> Sampler:
    """A sampler with random weights, none of them zero."""
    model = random_xmdpt(size, pixels)
    metadata = published_metadata(model, pixels)
    sampler = Sampler(model, Schedule(metadata["schedule"], metadata["prediction"]), metadata)
    sampler.model.to(setting.where, dtype)
    return sampler


def random_inputs(sampler: Sampler) -> tuple[Conditions, Tensor, Tensor]:
    """Conditions of ``IMAGES`` images, and two different start noises."""
    inputs = Inputs.random(sampler.model, IMAGES)
    conditions = Conditions(inputs.pose, inputs.source[None], inputs.latents[None])
    shape, places = sampler.model.latent_shape, list(range(IMAGES))
    return conditions, start_noise(shape, 0, places), start_noise(shape, 1, places)


def real_vae(setting: Setting) -> VAE:
    """sd-vae-ft-mse's shape (narrower in a dry run) with random weights, in fp32."""
    torch.manual_seed(0)
    net = sd_vae(setting.where, narrow=4 if setting.small else 1)
    return VAE(net, Origin("local", "random weights"))


def median(setting: Setting, call: Callable[[], object]) -> float:
    """Seconds, after a call that warms up."""
    timed = clock(setting.where)
    timed(call)
    return statistics.median(timed(call) for _ in range(setting.pick(7, 1)))


def _in_fp32(sampler: Sampler) -> Sampler:
    """The same (rounded) weights, computed in fp32."""
    model = copy.deepcopy(sampler.model).float()
    return Sampler(model, sampler.schedule, sampler.metadata)


def _done(setting: Setting, call: Callable[[], Tensor]) -> Tensor:
    found = call()
    if setting.where.type == "cuda":
        torch.cuda.synchronize(setting.where)
    return found
