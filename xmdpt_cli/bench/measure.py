"""Calls timed in rounds, beside the machine's own peak in the same rounds; memory of a call."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from xmdpt_cli.bench.flops import flops
from xmdpt_cli.bench.machine import Machine, copy, matmul
from xmdpt_cli.bench.report import Report, Row, compare_to_first
from xmdpt_cli.bench.timing import Spread, interleaved, precision
from xmdpt_cli.progress import Progress, silent

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


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


def measure_calls(
    kind: str,
    title: str,
    settings: Mapping[str, Any],
    device: torch.device,
    dtype: torch.dtype,
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    gradients: bool = False,
    progress: Progress = silent,
) -> Report:
    """A report with a row for each call, which computes ``settings["batch"]`` images or pairs.

    ``calls``: named "model / implementation"; each is compared with the first of its model.
    ``gradients``: they run backward passes too.
    """
    machine, batch = Machine.here(device), int(settings["batch"])
    flop = {name: flops(call, gradients) / batch for name, call in calls.items()}
    timed = time_calls(calls, {dtype}, device, rounds, progress)
    peak = timed.peak[f"peak {precision(dtype)}"]
    rows = [Row.of(name, timed.seconds[name], batch, flop=flop[name], peak=peak) for name in calls]
    compare_to_first(rows)
    settings = {**settings, "precision": precision(dtype), "rounds": rounds}
    notes = ["random weights"]
    return Report(kind, title, settings, machine, rows, timed.peak_spreads(), notes)


def peak_memory(call: Callable[[], object], device: torch.device, held: int) -> int | None:
    """Peak bytes: ``held``, which the network and its inputs take, plus what ``call`` adds.

    On a GPU what PyTorch allocates; on a CPU the process's resident memory, with a few MB of noise
    (pages, memory that the allocator keeps). None on systems other than Linux.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return held + torch.cuda.max_memory_allocated(device) - before
    with suppress(OSError, AttributeError):  # freed memory must not be reused by the call
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    try:
        _CLEAR.write_text("5")  # resets the peak: proc(5)
        before = _resident("VmRSS")
        call()
        return held + max(0, _resident("VmHWM") - before)
    except OSError:
        return None


def _resident(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {name}")
