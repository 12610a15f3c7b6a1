"""Sampling as ``xmdpt sample`` runs it: compiled equal to eager, seconds for eight images, and
memory at 512 px."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from xmdpt_cli.bench.gpu_check.goldens import relative
from xmdpt_cli.bench.gpu_check.rows import Ready, Row, Setting, at_most, holds, speed
from xmdpt_cli.bench.random_networks import Inputs, random_sampler, random_vae
from xmdpt_cli.bench.roof import sampling_parts
from xmdpt_cli.bench.timing import clock, synchronize
from xmdpt_cli.diffusion import start_noise
from xmdpt_cli.encoders.decoder import Decoder
from xmdpt_cli.sampling.batch_size import fit_memory
from xmdpt_cli.sampling.conditioning import Conditions
from xmdpt_cli.sampling.sampler import PRECISIONS, Sampler, SamplingConfig
from xmdpt_cli.training.flops import peak_flops
from xmdpt_cli.utils.devices import peak_memory

IMAGES = 8  # as in the paper's table
#: limits of compiled against eager, in fp32 and in bf16: largest difference / largest value
EXACT, ROUNDED = 1e-3, 0.05
#: compiled bf16 may differ from eager fp32 by this many times what eager bf16 does, plus a little
TIMES, LITTLE = 2.0, 5e-3


def sampling(
    setting: Setting, size: str, most_seconds: float | None = None, precision: str = "bf16"
) -> Iterator[Row | Ready]:
    """Random weights of the real shapes. ``most_seconds``: 50 steps, decoding included."""
    size, pixels = setting.size(size), setting.pick(256, 64)
    sampler = random_sampler(size, pixels, setting.where, PRECISIONS[precision])
    conditions, noise, other_noise = random_inputs(sampler)
    paper = sampler.sampling_config(steps=setting.pick(50, 3), solver="ddim")

    def latents(noise: Tensor = noise, config: SamplingConfig = paper) -> Tensor:
        return sampler.latents(noise, conditions, config)

    eager, eager_other = latents(), latents(other_noise)
    bf16, name = precision == "bf16", f"{size}, {precision}"
    cached = sampler.sampling_config(steps=setting.pick(20, 4), cache=2)
    eager_cached = None if bf16 else latents(config=cached)
    if bf16:
        exact = in_fp32(sampler).latents(noise, conditions, paper)
        vae = random_vae(setting.where, setting.pick(1, 4))
        decoded = vae.decode(eager)
        vae.decode_dtype = torch.bfloat16
        if setting.compile:
            vae.compile_decoder(IMAGES)
        vae.decode(eager)  # compiles
    if setting.compile:
        start = time.perf_counter()
        sampler.compile(IMAGES)
        compiled = finished(setting, latents)
        compiled_at = time.perf_counter()
        compiled_other = finished(setting, partial(latents, other_noise))
        sampling_alone = time.perf_counter() - compiled_at
        first_call = compiled_at - start - sampling_alone
    yield Ready()
    if setting.compile:
        note = "beside the other parts of its wave"
        yield speed(setting, f"{name}: torch.compile, first call", first_call, "s", note=note)
        if bf16:
            yield rounding(name, exact, eager, compiled)
        else:
            note = "largest difference / largest value"
            error = relative(compiled, eager)
            yield at_most(f"{name}: compiled - eager", error, EXACT, note=note)
        error, note = relative(compiled_other, eager_other), "the graph reads its new inputs"
        limit = ROUNDED if bf16 else EXACT
        yield at_most(f"{name}: compiled - eager, other noise", error, limit, note=note)
        same = torch.equal(latents(), compiled)
        yield holds(f"{name}: a later call gives the same bits", same, "same bits")
        if eager_cached is not None:
            error = relative(latents(config=cached), eager_cached)
            yield at_most(f"{name}: compiled - eager, with a cache across steps", error, EXACT)
    if not bf16:
        return
    error = float(abs(vae.decode(eager).astype(int) - decoded.astype(int)).mean())
    check = f"{size}: {IMAGES} images decoded in bf16 - in fp32, mean"
    yield at_most(check, error, 1.0, "of 255", note="random weights")
    seconds = median(setting, lambda: vae.decode(eager))
    yield speed(setting, f"{size}: {IMAGES} images decoded in bf16", seconds, "s")
    default = sampler.sampling_config(steps=setting.pick(sampler.sampling_config().steps, 2))
    ways = {f"{paper.steps} DDIM steps": paper}
    ways[f"{default.steps} steps of {default.solver}"] = default
    for steps, config in ways.items():
        seconds = median(setting, partial(latents, config=config))
        yield speed(setting, f"{size}: {IMAGES} images, {steps}, latents", seconds, "s")
    for steps, config in ways.items():
        name, most = f"{size}: {IMAGES} images, {steps}", most_seconds if config is paper else None
        generate = partial(latents, config=config)
        yield from _decoded(setting, name, size, pixels, config.steps, generate, vae, most)


def _decoded(
    setting: Setting,
    name: str,
    size: str,
    pixels: int,
    steps: int,
    latents: Callable[[], Tensor],
    vae: Decoder,
    most_seconds: float | None,
) -> Iterator[Row]:
    """Seconds of images, decoding included, and the MFU on a GPU with a known peak."""
    seconds = median(setting, lambda: vae.decode(latents()))
    note = f"{IMAGES / seconds:.3g} images/s; decoder in bf16, compiled"
    yield speed(setting, f"{name}, decoded", seconds, "s", most=most_seconds, note=note)
    peak = peak_flops(setting.where, autocast=True)
    if peak is not None:
        parts = sampling_parts(size, IMAGES, steps, pixels)
        work = sum(part.times * part.flop for part in parts)
        note = f"{work / 1e12:.3g} TFLOP of {peak / 1e12:.0f} TFLOP/s (bf16, published)"
        yield speed(setting, f"{name}, decoded, MFU", 100 * work / seconds / peak, "%", note=note)


def in_fp32(sampler: Sampler) -> Sampler:
    """A sampler with the same (rounded) weights that computes in fp32."""
    return Sampler(copy.deepcopy(sampler.model).float(), sampler.schedule, sampler.metadata)


def rounding(name: str, exact: Tensor, eager: Tensor, compiled: Tensor) -> Row:
    """Compiled bf16 against fp32, judged by the error of eager bf16."""
    eager_error = relative(eager, exact)
    note = f"directly {relative(compiled, eager):.2g}; eager bf16 - eager fp32: {eager_error:.2g}"
    limit = TIMES * eager_error + LITTLE
    return at_most(f"{name}: compiled - eager fp32", relative(compiled, exact), limit, note=note)


def memory(setting: Setting, size: str, gib: float) -> Iterator[Row | Ready]:
    """Large models at 512 px within ``--max-memory``: as many images at once as ``xmdpt sample``
    chooses, decoded, eager and compiled. On a CPU the memory of the whole process counts."""
    size, pixels, device = setting.size(size), setting.pick(512, 64), setting.where
    sampler = random_sampler(size, pixels, device, torch.bfloat16)
    vae = random_vae(device, setting.pick(1, 4))
    count = min(fit_memory(sampler, vae, int(gib * 2**30), pixels), IMAGES)
    conditions, noise, _ = random_inputs(sampler)
    conditions, noise = conditions.rows(list(range(count))), noise[:count]
    config = sampler.sampling_config(steps=setting.pick(20, 2))

    def generate() -> object:
        return vae.decode(sampler.latents(noise, conditions, config))

    peaks = {}
    for way in ("eager", "compiled") if setting.compile else ("eager",):
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        if way == "compiled":
            sampler.compile(count)
        generate()
        peaks[way] = peak_memory(device)
    yield Ready()
    name = f"{size} at {pixels} px, {count} images at once"
    note = f"--max-memory {gib:g}GB; weights included"
    for way, peak in peaks.items():
        if peak is not None:
            yield at_most(f"{name}, {way}: memory", peak / 2**30, gib, "GiB", note)
    if device.type == "cuda":
        reserved = torch.cuda.max_memory_reserved(device) / 2**30
        yield speed(setting, f"{name}: reserved by PyTorch", reserved, "GiB")
    seconds = median(setting, generate)
    note = f"{count / seconds:.3g} images/s"
    yield speed(setting, f"{name}, {config.steps} steps, decoded", seconds, "s", note=note)


def random_inputs(sampler: Sampler) -> tuple[Conditions, Tensor, Tensor]:
    """Conditions of ``IMAGES`` images, and two different start noises."""
    inputs = Inputs.random(sampler.model, IMAGES)
    conditions = Conditions(inputs.pose, inputs.source[None], inputs.latents[None])
    shape, places = sampler.model.latent_shape, list(range(IMAGES))
    return conditions, start_noise(shape, 0, places), start_noise(shape, 1, places)


def median(setting: Setting, call: Callable[[], object]) -> float:
    """Median seconds of a call, after one that warms up."""
    timed = clock(setting.where)
    timed(call)
    return statistics.median(timed(call) for _ in range(setting.pick(7, 1)))


def finished(setting: Setting, call: Callable[[], Tensor]) -> Tensor:
    found = call()
    synchronize(setting.where)
    return found
