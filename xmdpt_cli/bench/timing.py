"""Honest ratios: the same work done in several ways, in turn, in one run.

A machine has moods: clocks, neighbours, heat. So nothing is timed by itself: every way runs once in
each round, in an order that turns round, and what is compared are the ratios of one round. On a
GPU the device's own events are read, not the clock beside it.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from xmdpt_cli.model import XMDPT
from xmdpt_cli.progress import Progress, silent

_TURN = 1.0  # seconds that a way's turn in a round takes at the least, where others take longer
_MOST = 20  # calls in a turn
_TOO_FEW = 5
_FAR = 3.5  # median absolute deviations, scaled to standard ones, beyond which a round is odd


def randomise(model: XMDPT) -> None:
    """Weights that all matter: adaLN-Zero starts with blocks that do nothing."""
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=rng))


def precision(dtype: torch.dtype) -> str:
    """``fp32`` or ``bf16``."""
    return {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype]


@dataclass(frozen=True)
class Spread:
    """Values of the rounds. The median, and ``low`` to ``high``: where the median of endlessly many
    rounds lies with 95 % confidence, by order statistics (no distribution is assumed); the extremes
    where rounds are fewer than six. ``odd`` are rounds far from the others: shown, never dropped
    (of fewer than five nobody can tell).
    """

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        return sorted(self.values)[_rank(len(self.values))]

    @property
    def high(self) -> float:
        return sorted(self.values)[-1 - _rank(len(self.values))]

    @property
    def odd(self) -> tuple[float, ...]:
        if len(self.values) < _TOO_FEW:
            return ()
        middle = self.median
        scale = 1.4826 * statistics.median(abs(value - middle) for value in self.values)
        return tuple(v for v in self.values if abs(v - middle) > _FAR * scale > 0)

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "median": self.median,
            "low": self.low,
            "high": self.high,
            "odd": list(self.odd),
            "rounds": list(self.values),
        }


def _rank(count: int) -> int:
    """The largest r with P(fewer than r + 1 of ``count`` values lie below the median) <= 2.5 %."""
    chance, rank = 0.5**count, -1
    while chance <= 0.025:
        rank += 1
        chance += math.comb(count, rank + 1) * 0.5**count
    return max(rank, 0)


def clock(device: torch.device) -> Callable[[Callable[[], object]], float]:
    """``clock(device)(call)``: seconds, by the device's events where it has them."""
    if device.type != "cuda":

        def by_clock(call: Callable[[], object]) -> float:
            began = time.perf_counter()
            call()
            return time.perf_counter() - began

        return by_clock

    def by_events(call: Callable[[], object]) -> float:
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        stream = torch.cuda.current_stream(device)  # the current device may be another one
        began.record(stream)
        call()
        ended.record(stream)
        torch.cuda.synchronize(device)
        return began.elapsed_time(ended) / 1000

    return by_events


def interleaved(
    ways: Mapping[str, Callable[[], object]],
    rounds: int,
    device: torch.device,
    progress: Progress = silent,
) -> dict[str, list[float]]:
    """Seconds of every way, one value a round, after a call each that warms up and is not counted.

    Every other round goes backwards, so that no way always follows the same other one. What is
    short beside the rest, or a second, is called again and again in its turn, and the turn's median
    counts: one call of a tenth of a second would tell more of the machine's mood than of the way.
    """
    timed, names = clock(device), list(ways)
    expected: dict[str, float] = {}
    for done, (name, way) in enumerate(ways.items(), start=1):
        expected[name] = timed(way)
        progress("warm up", done, len(ways))
    least = min(_TURN, statistics.mean(expected.values()))
    calls = {name: min(_MOST, math.ceil(least / once)) if once else 1
             for name, once in expected.items()}  # fmt: skip
    found: dict[str, list[float]] = {name: [] for name in ways}
    # in seconds: turns may differ by a hundred times, and what is left is known from the start
    past, whole = 0.0, rounds * sum(calls[name] * expected[name] for name in names)
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            turn = [timed(ways[name]) for _ in range(calls[name])]
            found[name].append(statistics.median(turn))
            past += calls[name] * expected[name]
            progress("rounds, in seconds", math.ceil(past), math.ceil(whole))
    return found


def ratios(above: Sequence[float], below: Sequence[float]) -> Spread:
    """Round by round: how many times ``above`` is ``below``."""
    return Spread(tuple(a / b for a, b in zip(above, below, strict=True)))
