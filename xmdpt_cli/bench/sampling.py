"""``xmdpt bench``: the paper's speed tables (Tables 2f and 3) on this machine.

The time of an image is the sum of its parts: what is computed once, its steps, and the VAE's
decoder where latents are generated. All steps cost the same, so a slow machine times only a few.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from xmdpt_cli.bench.baselines import BASELINES, BRANCHES, PAPER_SECONDS, fit
from xmdpt_cli.bench.flops import flops
from xmdpt_cli.bench.implementations import (
    DECODERS,
    Implementation,
    Setting,
    baseline_implementations,
    xmdpt_implementations,
)
from xmdpt_cli.bench.machine import Machine
from xmdpt_cli.bench.measure import Timed, peak_memory, time_calls
from xmdpt_cli.bench.report import Report, Row, times
from xmdpt_cli.bench.timing import precision, ratios
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.progress import Progress, silent
from xmdpt_cli.report.tables import Table

IMAGES = 8  # as in the paper's table
_EQUAL = {torch.float32: 1e-4, torch.bfloat16: 0.1}  # of the largest value


def measure_sampling(
    sizes: Sequence[str],
    setting: Setting,
    *,
    rounds: int = 10,
    measured_steps: int = 50,
    baselines: bool = True,
    only: Sequence[str] | None = None,
    progress: Progress = silent,
) -> Report:
    """Measure the implementations of X-MDPT of each size, and the baselines.

    ``only``: names of X-MDPT's implementations, None for all. ConfigError for an unknown name;
    XmdptError if implementations that should give the same result do not.
    """
    machine = Machine.here(setting.device)
    with _enough_compilations():
        impls = list(baseline_implementations(setting)) if baselines else []
        for number, size in enumerate(sizes):
            progress("build", number, len(sizes))
            impls += _chosen(list(xmdpt_implementations(size, setting)), only)
        progress("build", len(sizes), len(sizes))
        states = _checked_setups(impls, min(2, measured_steps), progress)
        calls: dict[str, Callable[[], object]] = {}
        flop: dict[str, float] = {}  # of each call
        for impl in impls:
            once, steps = f"{impl.key} / once", f"{impl.key} / steps"
            generate, count = partial(impl.generate, states[impl.key]), impl.timed(measured_steps)
            calls[once], flop[once] = impl.setup, flops(impl.setup)
            calls[steps] = partial(generate, count)
            once_each = count if impl.whole else 1  # steps that differ are counted together
            flop[steps] = count / once_each * flops(partial(generate, once_each))
        for impl in impls:
            name = _decode_name(impl)
            if name and name not in calls:
                calls[name] = _decoding(setting, impl)
                flop[name] = flops(calls[name])
        dtypes = {impl.dtype for impl in impls}
        timed = time_calls(calls, dtypes, setting.device, rounds, progress)
        rows = [_row(impl, setting, flop, timed, measured_steps) for impl in impls]
        _compare(impls, rows, timed, measured_steps)
        for done, (impl, row) in enumerate(zip(impls, rows, strict=True), start=1):
            row.peak_memory = _memory(impl, setting.device)
            progress("memory", done, len(impls))
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
    title = f"seconds for {IMAGES} images of {setting.pixels} px"
    notes = _notes(setting, rows)
    return Report("sampling", title, settings, machine, rows, timed.peak_spreads(), notes)


def _enough_compilations() -> AbstractContextManager[Any]:
    """Let torch.compile compile the code that all models share more often than eight times, after
    which it would run the rest uncompiled."""
    config = torch._dynamo.config
    name = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    patched: AbstractContextManager[Any] = config.patch({name: 64})
    return patched


def _chosen(impls: list[Implementation], only: Sequence[str] | None) -> list[Implementation]:
    names = [impl.name for impl in impls]
    for name in only or ():
        if name not in names:  # some names have a comma
            hint = f"choose from {'; '.join(names)}"
            raise ConfigError(f"no implementation is called {name!r}", hint)
    return [impl for impl in impls if only is None or impl.name in only]


def _checked_setups(
    impls: Sequence[Implementation], steps: int, progress: Progress
) -> dict[str, Any]:
    """The result of every setup, after implementations of equal results were compared."""
    states: dict[str, Any] = {}
    seen: dict[tuple[str, str], tuple[Tensor, str]] = {}
    for done, impl in enumerate(impls):
        progress("compile, check", done, len(impls))
        state = states[impl.key] = impl.setup()
        if not impl.same:
            continue
        out = impl.generate(state, steps).float()
        first, name = seen.setdefault((impl.model, impl.same), (out, impl.key))
        error = float((out - first).abs().max() / first.abs().max())
        if not error <= _EQUAL[impl.dtype]:
            raise XmdptError(
                f"{impl.key} differs from {name} by {error:.1e} of the largest value",
                "this is a bug: nothing was timed",
            )
    progress("compile, check", len(impls), len(impls))
    return states


def _decode_name(impl: Implementation) -> str:
    """Of the call that decodes: ``decode fp32``; empty for an implementation without a decoder."""
    return f"{impl.decoder} {precision(impl.dtype)}" if impl.decoder else ""


def _decoding(setting: Setting, impl: Implementation) -> Callable[[], object]:
    torch.manual_seed(0)
    vae = DECODERS[impl.decoder](setting.device, impl.dtype, narrow=4 if setting.tiny else 1)
    side = setting.pixels // 8
    latents = torch.randn(setting.batch, 4, side, side).to(setting.device, impl.dtype)
    decode: Callable[[], object] = torch.no_grad()(lambda: vae.decode(latents).sample)
    return decode


def _memory(impl: Implementation, device: torch.device) -> int | None:
    held = sum(p.numel() * p.element_size() for p in impl.network.parameters())
    return peak_memory(lambda: impl.generate(impl.setup(), 1), device, held)


def _row(
    impl: Implementation,
    setting: Setting,
    flop: dict[str, float],
    timed: Timed,
    measured_steps: int,
) -> Row:
    steps = impl.timed(measured_steps)
    times = {f"{impl.key} / once": 1.0, f"{impl.key} / steps": impl.steps / steps}  # by part
    if impl.decoder:
        times[_decode_name(impl)] = 1.0
    scale = IMAGES / setting.batch
    seconds = {name: [scale * n * s for s in timed.seconds[name]] for name, n in times.items()}
    return Row.of(
        impl.key,
        [sum(of_round) for of_round in zip(*seconds.values(), strict=True)],
        IMAGES,
        flop=sum(n * flop[name] for name, n in times.items()) / setting.batch,
        peak=timed.peak[f"peak {precision(impl.dtype)}"],
        gain=impl.gain,
        precision=precision(impl.dtype),
        steps=impl.steps,
        steps_timed=steps,
        forwards=round(impl.steps * impl.branches),
        parameters=impl.parameters[0],
        parameters_inference=impl.parameters[1],
        parts={name: statistics.median(values) for name, values in seconds.items()},
    )


def _compare(
    impls: Sequence[Implementation], rows: Sequence[Row], timed: Timed, measured_steps: int
) -> None:
    """Compare each row with the first baseline, with its model's published implementation, and
    with the row that it adds a gain to, by the ratios of the rounds."""
    known = {row.key: row for row in rows}
    pidm = {row.implementation: row for row in rows if row.model.startswith("PIDM")}

    def denoising(impl: Implementation) -> list[float]:
        """Seconds of all steps of a batch, in each round."""
        scale = impl.steps / impl.timed(measured_steps)
        return [scale * s for s in timed.seconds[f"{impl.key} / steps"]]

    published = {impl.model: impl for impl in impls if impl.name == "published"}
    for impl, row in zip(impls, rows, strict=True):
        row.compare_to(pidm.get("D-CFG"), "PIDM-style")
        row.compare_to(pidm.get("D-CFG, compiled"), "PIDM-style, compiled")
        row.compare_to(known.get(f"{impl.model} / published"), "published")
        row.compare_to(known.get(f"{impl.model} / {impl.base}"), "base")
        if "published" in row.speedup:
            alone = ratios(denoising(published[impl.model]), denoising(impl))
            row.speedup["published, steps alone"] = alone


def _notes(setting: Setting, rows: Sequence[Row]) -> list[str]:
    counts = sorted({row.steps_timed or 0 for row in rows})
    few = f"{' or '.join(map(str, counts))} of the steps timed, the others assumed to take as long"
    complete = all(row.steps_timed == row.steps for row in rows)
    notes = [
        f"{'all steps timed' if complete else few}; the time includes decoding by the VAE, not the "
        "encoders of the conditions (DINOv2, VAE); random weights"
    ]
    if setting.tiny:
        notes.append("TINY networks: nothing here can be compared with the paper's table")
    return notes


def fit_table() -> Table:
    """Parameters and work of the baselines' networks, the originals' in brackets."""

    def beside(found: float | None, original: float | None) -> str:
        return f"{found:.1f} ({'not known' if original is None else f'{original:.1f}'})"

    rows = []
    for make in BASELINES.values():
        baseline = make()
        found, known = fit(baseline), baseline.original
        assert known is not None
        rows.append([
            f"{baseline.name}-style",
            beside(found.parameters / 1e6, known.parameters / 1e6),
            beside(found.gflop, known.gflop),
            beside(found.encoder_gflop, known.encoder_gflop),
        ])  # fmt: skip
    title = f"the baselines, the originals in brackets; {BRANCHES} forwards a step in both"
    return Table(title, ["", "M parameters", "GFLOP per forward", "encoder, once"], rows)


def paper_table(report: Report) -> Table | None:
    """The paper's seconds and ratios beside ratios of this run; None without PIDM's baseline."""
    measured = {(row.model, row.implementation): row for row in report.rows}
    if not any(model == "PIDM-style" for model, _ in measured):
        return None

    def ratio(model: str, over: str, *implementations: str) -> str:
        """The speedup of the first of ``implementations`` that was measured."""
        rows = (measured.get((model, name)) for name in implementations)
        row = next(filter(None, rows), None)
        return "-" if row is None else times(row.speedup.get(over))

    rows = [
        [
            name,
            f"{seconds:.3f}",
            f"{PAPER_SECONDS['PIDM-style'] / seconds:.3g}x",
            ratio(name, "PIDM-style", "published", "D-CFG"),
            # the fastest with the published result in as many steps
            ratio(name, "PIDM-style", "compiled", "oneDNN", "attention"),
            ratio(name, "PIDM-style, compiled", "D-CFG, compiled", "compiled"),
        ]
        for name, seconds in PAPER_SECONDS.items()
    ]
    header = ["", "paper, A100, s", "over PIDM", "here as published", "here, fast", "both compiled"]
    return Table("the paper's table beside this run: 8 images, 50 steps", header, rows)
