"""Calls timed in rounds, beside the machine's own peak in the same rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from xmdpt_cli.bench.machine import Machine, copy, matmul
from xmdpt_cli.bench.report import Report, Row, compare_to_first
from xmdpt_cli.bench.timing import Spread, interleaved, precision
from xmdpt_cli.progress import Progress, silent


class Timed(NamedTuple):
    """Rounds of all calls."""

    seconds: dict[str, list[float]]  # by call
    peak: dict[str, list[float]]  # "peak fp32", "peak bf16": FLOP/s; "copy": bytes/s

    def peak_spreads(self) -> dict[str, Spread]:
        return {name: Spread(tuple(rates)) for name, rates in self.peak.items()}


def time_calls(
    calls: Mapping[str, Callable[[], object]],
    dtypes: set[torch.dtype],
    device: torch.device,
    rounds: int,
    progress: Progress = silent,
) -> Timed:
    """Time ``calls`` and the device's peak in each of ``dtypes``, interleaved."""
    ordered = sorted(dtypes, key=lambda dtype: -dtype.itemsize)
    works = {f"peak {precision(dtype)}": matmul(device, dtype) for dtype in ordered}
    works["copy"] = copy(device)
    peaks = {name: work.run for name, work in works.items()}
    seconds = interleaved({**calls, **peaks}, rounds, device, progress)
    rates = {name: [work.amount / s for s in seconds.pop(name)] for name, work in works.items()}
    return Timed(seconds, rates)


class Call(NamedTuple):
    """A call that computes ``images`` images or pairs with ``flop`` FLOP in all."""

    run: Callable[[], object]
    images: int
    flop: float
    dtype: torch.dtype


def measure_calls(
    kind: str,
    title: str,
    settings: Mapping[str, Any],
    device: torch.device,
    calls: Mapping[str, Call],
    rounds: int,
    progress: Progress = silent,
) -> Report:
    """A report with a row for each call.

    Calls named "model / implementation" are compared with the first of their model.
    """
    machine = Machine.here(device)
    runs = {name: call.run for name, call in calls.items()}
    timed = time_calls(runs, {call.dtype for call in calls.values()}, device, rounds, progress)
    rows = [
        Row.of(
            name,
            timed.seconds[name],
            call.images,
            flop=call.flop / call.images,
            peak=timed.peak[f"peak {precision(call.dtype)}"],
        )
        for name, call in calls.items()
    ]
    compare_to_first(rows)
    settings = {**settings, "rounds": rounds}
    notes = ["random weights"]
    return Report(kind, title, settings, machine, rows, timed.peak_spreads(), notes)
