"""The paper's speed tables (Tables 2f and 3) on the machine at hand.

Every way (see ``ways``) runs once in each round, the machine's own peak too. A picture's time is
put together from its parts: what is made once, its steps, and the VAE's decoder where the way
draws latents. All steps cost the same, so a slow machine times a few and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xmdpt_cli.bench.flops import flops
from xmdpt_cli.bench.frozen import placed, sd_vae
from xmdpt_cli.bench.implementations import Setting, Way, baseline_ways, xmdpt_ways
from xmdpt_cli.bench.machine import Work, machine
from xmdpt_cli.bench.memory import peak_memory
from xmdpt_cli.bench.rates import peak_works, peaks_of
from xmdpt_cli.bench.report import report
from xmdpt_cli.bench.timing import Spread, interleaved, precision, ratios
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.progress import Progress, silent

PICTURES = 8  # the paper's table is of so many
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
    """The report, as JSON has it. ``only``: names of X-MDPT's ways. XmdptError where one is no
    way's name, or where ways that are to draw the same do not."""
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
    ways = list(baseline_ways(setting)) if baselines else []
    for number, size in enumerate(sizes):
        progress("build", number, len(sizes))
        ways += _chosen(list(xmdpt_ways(size, setting)), only)
    progress("build", len(sizes), len(sizes))
    progress("compile, check", 0, len(ways))
    states = _checked(ways, setting, measured_steps, progress)
    parts: dict[str, _Part] = {}
    for way in ways:
        steps = min(measured_steps, way.steps)
        parts[f"{way.key} / once"] = _Part(way.setup, float(flops(way.setup)))
        draw = _drawing(way, states[way.key], steps)
        one = _drawing(way, states[way.key], 1)
        parts[f"{way.key} / steps"] = _Part(draw, float(flops(one)) * steps)
    for dtype in {way.dtype: None for way in ways if way.latent}:
        decode = _decoding(setting, dtype)
        parts[f"decode {precision(dtype)}"] = _Part(decode, float(flops(decode)))
    peaks = peak_works(setting.device, {way.dtype for way in ways})
    calls = {name: part.run for name, part in parts.items()}
    calls |= {name: work.run for name, work in peaks.items()}
    seconds = interleaved(calls, rounds, setting.device, progress)
    memory = {}
    for done, way in enumerate(ways, start=1):
        memory[way.key] = _memory(way, states[way.key], setting)
        progress("memory", done, len(ways))
    rows = [
        _row(way, setting, parts, peaks, seconds, memory[way.key], measured_steps) for way in ways
    ]
    _compare(ways, rows)
    settings = {
        "batch": setting.batch,
        "pixels": setting.pixels,
        "precision": precision(setting.dtype),
        "compiled": setting.compiled,
        "tiny": setting.tiny,
        "rounds": rounds,
        "measured_steps": measured_steps,
        "pictures": PICTURES,
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


def _chosen(ways: list[Way], only: Sequence[str] | None) -> list[Way]:
    for name in only or ():
        if name not in [way.name for way in ways]:
            there = "; ".join(way.name for way in ways)  # some have a comma
            raise ConfigError(f"no way is called {name!r}", f"choose from {there}")
    return [way for way in ways if only is None or way.name in only]


def _row(
    way: Way,
    setting: Setting,
    parts: dict[str, _Part],
    peaks: dict[str, Work],
    seconds: dict[str, list[float]],
    memory: int | None,
    measured_steps: int,
) -> dict[str, Any]:
    """A way's line; ``seconds`` and ``denoising`` still as Spreads, to be compared."""
    steps = min(measured_steps, way.steps)
    pieces = {f"{way.key} / once": 1.0, f"{way.key} / steps": way.steps / steps}
    if way.latent:
        pieces[f"decode {precision(way.dtype)}"] = 1.0
    scale = PICTURES / setting.batch
    rounds = range(len(next(iter(seconds.values()))))
    total = [scale * sum(seconds[p][i] * times for p, times in pieces.items()) for i in rounds]
    flop = sum(parts[p].flop * times for p, times in pieces.items()) / setting.batch  # a picture
    peak = peaks[f"peak {precision(way.dtype)}"].amount
    peak_seconds = seconds[f"peak {precision(way.dtype)}"]
    mfu = [flop * PICTURES / s / (peak / p) for s, p in zip(total, peak_seconds, strict=True)]
    return {
        "key": way.key,
        "model": way.model,
        "way": way.name,
        "gain": way.gain,
        "base": way.base,
        "precision": precision(way.dtype),
        "steps": way.steps,
        "steps_timed": steps,
        "forwards": way.forwards,
        "parameters_training": way.parameters[0],
        "parameters_inference": way.parameters[1],
        "seconds": Spread(tuple(total)),
        "denoising": Spread(tuple(scale * way.steps / steps * s
                                  for s in seconds[f"{way.key} / steps"])),
        "parts": {p: scale * times * Spread(tuple(seconds[p])).median
                  for p, times in pieces.items()},
        "images_per_second": PICTURES / Spread(tuple(total)).median,
        "gflop": flop / 1e9,
        "mfu": Spread(tuple(mfu)).plain(),
        "peak_memory": memory,
    }  # fmt: skip


def _pidm(rows: list[dict[str, Any]], way: str) -> str | None:
    own = (row for row in rows if row["model"].startswith("PIDM") and row["way"] == way)
    return next((row["key"] for row in own), None)


def _compare(ways: Sequence[Way], rows: list[dict[str, Any]]) -> None:
    """Each row beside the first baseline, its own model's published way, and the way that it adds
    a gain to: by the ratios of the rounds. ``seconds`` and ``denoising`` are Spreads no more."""
    known = {row["key"]: row for row in rows}
    first, compiled = _pidm(rows, "D-CFG"), _pidm(rows, "D-CFG, compiled")
    for way, row in zip(ways, rows, strict=True):
        published = f"{way.model} / published"
        for name, base, what in (
            ("over_pidm", first, "seconds"),
            ("over_pidm_compiled", compiled, "seconds"),
            ("over_published", published, "seconds"),
            ("over_base", f"{way.model} / {way.base}", "seconds"),
            ("denoising_over_published", published, "denoising"),
        ):
            row[name] = None
            if base in known and base != way.key:
                row[name] = ratios(known[base][what].values, row[what].values).plain()
    for row in rows:
        row["seconds"], row["denoising"] = row["seconds"].plain(), row["denoising"].plain()


def _checked(
    ways: Sequence[Way], setting: Setting, steps: int, progress: Progress
) -> dict[str, Any]:
    """What every way's setup gives, after ways that are to agree have been seen to agree."""
    states: dict[str, Any] = {}
    seen: dict[tuple[str, str], tuple[Tensor, str]] = {}
    for done, way in enumerate(ways, start=1):
        state = states[way.key] = way.setup()
        if way.same:
            out = way.draw(state, min(2, steps)).float()
            first, name = seen.setdefault((way.model, way.same), (out, way.key))
            error = float((out - first).abs().max() / first.abs().max())
            if not error <= _EQUAL[way.dtype]:
                raise XmdptError(
                    f"{way.key} differs from {name} by {error:.1e} of the largest value",
                    "this is a bug: nothing was timed",
                )
        progress("compile, check", done, len(ways))
    return states


def _drawing(way: Way, state: Any, steps: int) -> Callable[[], Tensor]:
    return lambda: way.draw(state, steps)


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


def _memory(way: Way, state: Any, setting: Setting) -> int | None:
    held = sum(p.numel() * p.element_size() for p in way.network.parameters())
    return peak_memory(lambda: way.draw(way.setup(), 1), setting.device, held)
