"""Honest ratios: the same work done in several ways, in turn, in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

from xmdpt_cli.model import XMDPT


def randomise(model: XMDPT) -> None:
    """Weights that all matter: adaLN-Zero starts with blocks that do nothing."""
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=rng))


def measure(
    ways: Mapping[str, Callable[[], object]], rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """(seconds by the clock, of processors) of every way, once a round, in turn."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            began, worked = time.perf_counter(), time.process_time()
            way()
            found[name].append((time.perf_counter() - began, time.process_time() - worked))
    return found


def report(found: dict[str, list[tuple[float, float]]], baseline: str) -> None:
    """Medians, and the median of the ratios of each round: the machine's moods cancel.

    Processor time is what to look at where others work on the machine too.
    """
    for name, rounds in found.items():
        cells = []
        for part, kind in ((0, "s"), (1, "processor s")):
            seconds = [r[part] for r in rounds]
            base = [r[part] for r in found[baseline]]
            ratios = [a / b for a, b in zip(base, seconds, strict=True)]
            cells.append(
                f"{statistics.median(seconds):.2f} {kind} "
                f"({min(seconds):.2f} to {max(seconds):.2f}), "
                f"{statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"
            )
        print(f"{name}: " + "; ".join(cells))
