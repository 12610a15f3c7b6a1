"""Reports of how many images a second go through something, with the share of the peak."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from xmdpt_cli.bench.machine import Work, copy, machine, matmul
from xmdpt_cli.bench.report import report
from xmdpt_cli.bench.timing import Spread, interleaved, precision, ratios
from xmdpt_cli.progress import Progress, silent


class Rated(NamedTuple):
    """A call that takes ``images`` images (or pairs) through ``flop`` FLOP in all."""

    run: Callable[[], object]
    images: int
    flop: float
    dtype: torch.dtype


def peak_works(device: torch.device, dtypes: set[torch.dtype]) -> dict[str, Work]:
    """What the machine can do, to be timed in the same rounds as all else."""
    ordered = sorted(dtypes, key=lambda dtype: -dtype.itemsize)
    found = {f"peak {precision(dtype)}": matmul(device, dtype) for dtype in ordered}
    return {**found, "copy": copy(device)}


def peaks_of(works: Mapping[str, Work], seconds: Mapping[str, list[float]]) -> dict[str, Any]:
    """FLOP or bytes a second, for the report."""
    return {
        name: Spread(tuple(work.amount / s for s in seconds[name])).plain()
        for name, work in works.items()
    }


def rate(
    kind: str,
    settings: Mapping[str, Any],
    device: torch.device,
    parts: Mapping[str, Rated],
    rounds: int,
    progress: Progress = silent,
) -> dict[str, Any]:
    """The report of ``kind`` with a row for every part; parts named ``model / implementation`` are
    compared to their model's first, by the rounds' ratios."""
    before = machine(device)
    works = peak_works(device, {part.dtype for part in parts.values()})
    calls = {name: part.run for name, part in parts.items()}
    calls |= {name: work.run for name, work in works.items()}
    seconds = interleaved(calls, rounds, device, progress)
    rows: list[dict[str, Any]] = []
    first: dict[str, str] = {}
    for name, part in parts.items():
        own, peak = seconds[name], f"peak {precision(part.dtype)}"
        spread = Spread(tuple(own))
        mfu = [
            part.flop / s / (works[peak].amount / p)
            for s, p in zip(own, seconds[peak], strict=True)
        ]
        base = first.setdefault(name.partition(" / ")[0], name)
        over = None if name == base else ratios(seconds[base], own).plain()
        rows.append({
            "key": name,
            "seconds": spread.plain(),
            "images": part.images,
            "images_per_second": part.images / spread.median,
            "gflop": part.flop / part.images / 1e9,
            "mfu": Spread(tuple(mfu)).plain(),
            "over_first": over,
        })  # fmt: skip
    best = peaks_of(works, seconds)
    return report(kind, {**settings, "rounds": rounds}, rows, machine=before, peak=best)
