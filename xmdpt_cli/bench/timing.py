"""Ratios of several implementations of the same work, measured in turn in one run.

Clocks, other processes and heat change a machine's speed. So nothing is timed by itself: every
implementation runs once per round, in alternating order, and the ratios within one round are
compared. On a GPU the device's events are used. (``torch.utils.benchmark`` times one statement
after the other, so a drift of the machine would look like a difference between them.)
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

_TURN = 1.0  # least seconds of an implementation in a round, where others take longer
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
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    device: torch.device,
    progress: Progress = silent,
) -> dict[str, list[float]]:
    """Seconds of every call, one value per round, after one warm-up call each.

    Every other round goes backwards, so that no call always follows the same other one. A call that
    is short beside the others, or takes less than a second, is repeated in its turn, and the median
    counts: a single short call is dominated by noise.
    """
    timed, names = clock(device), list(calls)
    expected: dict[str, float] = {}
    for done, (name, call) in enumerate(calls.items(), start=1):
        expected[name] = timed(call)
        progress("warm up", done, len(calls))
    least = min(_TURN, statistics.mean(expected.values()))
    repeats = {name: min(_MOST, math.ceil(least / once)) if once else 1
             for name, once in expected.items()}  # fmt: skip
    found: dict[str, list[float]] = {name: [] for name in calls}
    # in seconds: turns may differ by a hundred times, and what is left is known from the start
    past, whole = 0.0, rounds * sum(repeats[name] * expected[name] for name in names)
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            turn = [timed(calls[name]) for _ in range(repeats[name])]
            found[name].append(statistics.median(turn))
            past += repeats[name] * expected[name]
            progress("rounds, in seconds", math.ceil(past), math.ceil(whole))
    return found


def ratios(above: Sequence[float], below: Sequence[float]) -> Spread:
    """Round by round: how many times ``above`` is ``below``."""
    return Spread(tuple(a / b for a, b in zip(above, below, strict=True)))
