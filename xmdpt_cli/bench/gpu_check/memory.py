"""Large models at 512 px within ``--max-memory``."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from xmdpt_cli.bench.gpu_check.rows import Ready, Row, Setting, at_most, speed
from xmdpt_cli.bench.gpu_check.sampling import median, random_inputs, random_sampler, real_vae
from xmdpt_cli.sampling.batch_size import fit_memory
from xmdpt_cli.utils.devices import peak_memory


def memory(setting: Setting, size: str, gib: float) -> Iterator[Row | Ready]:
    """As ``xmdpt sample --max-memory``: as many images at once as it chooses, decoded, eager and
    compiled; what PyTorch allocated at the most. On a processor the whole process counts."""
    size, side, device = setting.size(size), setting.pick(512, 64), setting.where
    sampler, vae = random_sampler(setting, size, side, torch.bfloat16), real_vae(setting)
    count = min(fit_memory(sampler, vae, int(gib * 2**30), side), 8)
    conditions, noise, _ = random_inputs(sampler)
    conditions, noise = conditions.rows(list(range(count))), noise[:count]
    config = sampler.sampling_config(steps=setting.pick(20, 2))

    def generate() -> object:
        return vae.decode(sampler.latents(noise, conditions, config))

    _forget(device)
    generate()
    eager = peak_memory(device)
    _forget(device)
    if setting.compile:
        sampler.compile(count)
        generate()
    yield Ready()
    called = f"{size} at {side} px, {count} images at once"
    note = f"--max-memory {gib:g}GB; weights included"
    for way, bytes_ in (("eager", eager), ("compiled", peak_memory(device))):
        if bytes_ is not None and (way == "eager" or setting.compile):
            yield at_most(f"{called}, {way}: memory", bytes_ / 2**30, gib, "GiB", note)
    if device.type == "cuda":
        reserved = torch.cuda.max_memory_reserved(device) / 2**30
        yield speed(setting, f"{called}: reserved by PyTorch", reserved, "GiB")
    seconds = median(setting, generate)
    check = f"{called}, {config.steps} steps, decoded"
    yield speed(setting, check, seconds, "s", note=f"{count / seconds:.3g} images/s")


def _forget(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
