"""The paper's speed tables (Tables 2f and 3) on the machine at hand.

Every implementation runs once in each round, the machine's own peak too. The time of an image is
the sum of its parts: what is computed once, its steps, and the VAE's decoder where the
implementation generates latents. All steps cost the same, so a slow machine times only a few.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xmdpt_cli.bench.flops import flops
from xmdpt_cli.bench.frozen import placed, sd_vae
from xmdpt_cli.bench.implementations import (
    Implementation,
    Setting,
    baseline_implementations,
    xmdpt_implementations,
)
from xmdpt_cli.bench.machine import Work, machine
from xmdpt_cli.bench.memory import peak_memory
from xmdpt_cli.bench.rates import peak_works, peaks_of
from xmdpt_cli.bench.report import report
from xmdpt_cli.bench.timing import Spread, interleaved, precision, ratios
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.progress import Progress, silent

IMAGES = 8  # the paper's table is of so many
TINY_CUT = 4  # of the VAE's widths, beside tiny models
_EQUAL = {torch.float32: 1e-4, torch.bfloat16: 0.1}  # of the largest value


class _Part(NamedTuple):
    """One thing that is timed, for a batch."""

    run: Callable[[], object]
    flop: float


def measure(
    sizes: Sequence[str],
    setting: Setting,
    *,
    rounds: int = 10,
    measured_steps: int = 50,
    baselines: bool = True,
    only: Sequence[str] | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """The report, as JSON has it. ``only``: names of X-MDPT's implementations.

    ConfigError for a name that is none; XmdptError where implementations that should agree do not.
    """
    with _enough_compilations():
        return _measure(sizes, setting, rounds, measured_steps, baselines, only, progress)


def _measure(
    sizes: Sequence[str],
    setting: Setting,
    rounds: int,
    measured_steps: int,
    baselines: bool,
    only: Sequence[str] | None,
    progress: Progress,
) -> dict[str, Any]:
    before = machine(setting.device)
    impls = list(baseline_implementations(setting)) if baselines else []
    for number, size in enumerate(sizes):
        progress("build", number, len(sizes))
        impls += _chosen(list(xmdpt_implementations(size, setting)), only)
    progress("build", len(sizes), len(sizes))
    progress("compile, check", 0, len(impls))
    states = _checked(impls, setting, measured_steps, progress)
    parts: dict[str, _Part] = {}
    for impl in impls:
        steps = min(measured_steps, impl.steps)
        parts[f"{impl.key} / once"] = _Part(impl.setup, float(flops(impl.setup)))
        draw = _drawing(impl, states[impl.key], steps)
        one = _drawing(impl, states[impl.key], 1)
        parts[f"{impl.key} / steps"] = _Part(draw, float(flops(one)) * steps)
    for dtype in {impl.dtype: None for impl in impls if impl.latent}:
        decode = _decoding(setting, dtype)
        parts[f"decode {precision(dtype)}"] = _Part(decode, float(flops(decode)))
    peaks = peak_works(setting.device, {impl.dtype for impl in impls})
    calls = {name: part.run for name, part in parts.items()}
    calls |= {name: work.run for name, work in peaks.items()}
    seconds = interleaved(calls, rounds, setting.device, progress)
    memory = {}
    for done, impl in enumerate(impls, start=1):
        memory[impl.key] = _memory(impl, states[impl.key], setting)
        progress("memory", done, len(impls))
    rows = [
        _row(impl, setting, parts, peaks, seconds, memory[impl.key], measured_steps)
        for impl in impls
    ]
    _compare(impls, rows)
    settings = {
        "batch": setting.batch,
        "pixels": setting.pixels,
        "precision": precision(setting.dtype),
        "compiled": setting.compiled,
        "tiny": setting.tiny,
        "rounds": rounds,
        "measured_steps": measured_steps,
        "images": IMAGES,
    }
    return report("drawing", settings, rows, machine=before, peak=peaks_of(peaks, seconds))


def _enough_compilations() -> AbstractContextManager[Any]:
    """All models share the code that is compiled: beyond eight variants of it, torch.compile would
    run the rest uncompiled."""
    config = torch._dynamo.config
    name = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    changed: dict[str, Any] = {name: 64}
    patched: AbstractContextManager[Any] = config.patch(changed)
    return patched


def _chosen(impls: list[Implementation], only: Sequence[str] | None) -> list[Implementation]:
    for name in only or ():
        if name not in [impl.name for impl in impls]:
            there = "; ".join(impl.name for impl in impls)  # some have a comma
            raise ConfigError(f"no implementation is called {name!r}", f"choose from {there}")
    return [impl for impl in impls if only is None or impl.name in only]


def _row(
    impl: Implementation,
    setting: Setting,
    parts: dict[str, _Part],
    peaks: dict[str, Work],
    seconds: dict[str, list[float]],
    memory: int | None,
    measured_steps: int,
) -> dict[str, Any]:
    """A row of the report; ``seconds`` and ``denoising`` still as Spreads, to be compared."""
    steps = min(measured_steps, impl.steps)
    pieces = {f"{impl.key} / once": 1.0, f"{impl.key} / steps": impl.steps / steps}
    if impl.latent:
        pieces[f"decode {precision(impl.dtype)}"] = 1.0
    scale = IMAGES / setting.batch
    rounds = range(len(next(iter(seconds.values()))))
    total = [scale * sum(seconds[p][i] * times for p, times in pieces.items()) for i in rounds]
    flop = sum(parts[p].flop * times for p, times in pieces.items()) / setting.batch  # an image
    peak = peaks[f"peak {precision(impl.dtype)}"].amount
    peak_seconds = seconds[f"peak {precision(impl.dtype)}"]
    mfu = [flop * IMAGES / s / (peak / p) for s, p in zip(total, peak_seconds, strict=True)]
    return {
        "key": impl.key,
        "model": impl.model,
        "implementation": impl.name,
        "gain": impl.gain,
        "base": impl.base,
        "precision": precision(impl.dtype),
        "steps": impl.steps,
        "steps_timed": steps,
        "forwards": impl.forwards,
        "parameters_training": impl.parameters[0],
        "parameters_inference": impl.parameters[1],
        "seconds": Spread(tuple(total)),
        "denoising": Spread(tuple(scale * impl.steps / steps * s
                                  for s in seconds[f"{impl.key} / steps"])),
        "parts": {p: scale * times * Spread(tuple(seconds[p])).median
                  for p, times in pieces.items()},
        "images_per_second": IMAGES / Spread(tuple(total)).median,
        "gflop": flop / 1e9,
        "mfu": Spread(tuple(mfu)).plain(),
        "peak_memory": memory,
    }  # fmt: skip


def _pidm(rows: list[dict[str, Any]], impl: str) -> str | None:
    own = (row for row in rows if row["model"].startswith("PIDM") and row["implementation"] == impl)
    return next((row["key"] for row in own), None)


def _compare(impls: Sequence[Implementation], rows: list[dict[str, Any]]) -> None:
    """Compare each row to the first baseline, to its model's published implementation, and to the
    one that it adds a gain to, by the ratios of the rounds. ``seconds`` and ``denoising`` become
    JSON-ready."""
    known = {row["key"]: row for row in rows}
    first, compiled = _pidm(rows, "D-CFG"), _pidm(rows, "D-CFG, compiled")
    for impl, row in zip(impls, rows, strict=True):
        published = f"{impl.model} / published"
        for name, base, what in (
            ("over_pidm", first, "seconds"),
            ("over_pidm_compiled", compiled, "seconds"),
            ("over_published", published, "seconds"),
            ("over_base", f"{impl.model} / {impl.base}", "seconds"),
            ("denoising_over_published", published, "denoising"),
        ):
            row[name] = None
            if base in known and base != impl.key:
                row[name] = ratios(known[base][what].values, row[what].values).plain()
    for row in rows:
        row["seconds"], row["denoising"] = row["seconds"].plain(), row["denoising"].plain()


def _checked(
    impls: Sequence[Implementation], setting: Setting, steps: int, progress: Progress
) -> dict[str, Any]:
    """What every setup gives, after implementations of equal results were compared."""
    states: dict[str, Any] = {}
    seen: dict[tuple[str, str], tuple[Tensor, str]] = {}
    for done, impl in enumerate(impls, start=1):
        state = states[impl.key] = impl.setup()
        if impl.same:
            out = impl.generate(state, min(2, steps)).float()
            first, name = seen.setdefault((impl.model, impl.same), (out, impl.key))
            error = float((out - first).abs().max() / first.abs().max())
            if not error <= _EQUAL[impl.dtype]:
                raise XmdptError(
                    f"{impl.key} differs from {name} by {error:.1e} of the largest value",
                    "this is a bug: nothing was timed",
                )
        progress("compile, check", done, len(impls))
    return states


def _drawing(impl: Implementation, state: Any, steps: int) -> Callable[[], Tensor]:
    return lambda: impl.generate(state, steps)


def _decoding(setting: Setting, dtype: torch.dtype) -> Callable[[], Tensor]:
    torch.manual_seed(0)
    vae = placed(sd_vae(TINY_CUT if setting.tiny else 1), setting.device, dtype)
    side = setting.pixels // 8
    latents = torch.randn(setting.batch, 4, side, side).to(setting.device, dtype)

    @torch.no_grad()
    def decode() -> Tensor:
        out: Tensor = vae.decode(latents).sample
        return out

    return decode


def _memory(impl: Implementation, state: Any, setting: Setting) -> int | None:
    held = sum(p.numel() * p.element_size() for p in impl.network.parameters())
    return peak_memory(lambda: impl.generate(impl.setup(), 1), setting.device, held)
