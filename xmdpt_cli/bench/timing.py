"""Seconds of several implementations of the same work, measured in interleaved rounds of one run.

Clocks, other processes and heat change a machine's speed. Therefore every implementation runs once
per round, in alternating order, and the ratios within one round are compared.
(``torch.utils.benchmark`` times one statement after another: drift of the machine would read as a
difference between them.)
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from xmdpt_cli.progress import Progress, silent

_TURN = 1.0  # least seconds of an implementation in a round, if others take longer
_MAX_CALLS = 20  # in a turn
_MIN_ROUNDS = 5  # fewer do not show which of them is an outlier
_OUTLIER = 3.5  # median absolute deviations, scaled to standard ones


def precision(dtype: torch.dtype) -> str:
    """``fp32`` or ``bf16``."""
    return {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype]


@dataclass
class Spread:
    """The values of all rounds, with their median and its 95 % confidence interval.

    The interval ``low`` to ``high`` comes from order statistics (no distribution is assumed); with
    fewer than six rounds it is the range. ``odd`` are outliers: shown, never dropped; none with
    fewer than five rounds.
    """

    rounds: tuple[float, ...]
    median: float = field(init=False)
    low: float = field(init=False)
    high: float = field(init=False)
    odd: tuple[float, ...] = field(init=False)

    def __post_init__(self) -> None:
        from scipy.stats import binom  # takes a second to import; ``bench scale`` starts processes

        ordered = sorted(self.rounds)
        # the largest r with P(at most r of the values lie below the median) <= 2.5 %
        rank = max(0, int(binom.ppf(0.025, len(ordered), 0.5)) - 1)
        self.low, self.high = ordered[rank], ordered[-1 - rank]
        self.median = middle = statistics.median(ordered)
        scale = 1.4826 * statistics.median(abs(value - middle) for value in ordered)
        enough = len(ordered) >= _MIN_ROUNDS
        self.odd = tuple(
            v for v in self.rounds if enough and abs(v - middle) > _OUTLIER * scale > 0
        )


def synchronize(device: torch.device) -> None:
    """Wait for a GPU; nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def clock(device: torch.device) -> Callable[[Callable[[], object]], float]:
    """``clock(device)(call)``: seconds of a call, on a GPU between two of its events."""

    def wall_time(call: Callable[[], object]) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    def event_time(call: Callable[[], object]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        synchronize(device)
        stream = torch.cuda.current_stream(device)  # the current device may be another one
        start.record(stream)
        call()
        end.record(stream)
        synchronize(device)
        return start.elapsed_time(end) / 1000

    return event_time if device.type == "cuda" else wall_time


def interleaved(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    device: torch.device,
    progress: Progress = silent,
) -> dict[str, list[float]]:
    """Seconds of every call, one value per round, after one warm-up call each.

    Every other round runs backwards, so that no call always follows the same other one. A call
    that is short beside the others, or takes less than a second, is repeated in its turn, and the
    median counts: noise dominates a single short call.
    """
    timed, names = clock(device), list(calls)
    expected: dict[str, float] = {}
    for done, (name, call) in enumerate(calls.items(), start=1):
        expected[name] = timed(call)
        progress("warm up", done, len(calls))
    least = min(_TURN, statistics.mean(expected.values()))
    repeats = {name: min(_MAX_CALLS, math.ceil(least / once)) if once else 1
               for name, once in expected.items()}  # fmt: skip
    found: dict[str, list[float]] = {name: [] for name in calls}
    # progress in seconds: turns may differ by a factor of a hundred
    done_s, total_s = 0.0, rounds * sum(repeats[name] * expected[name] for name in names)
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            turn = [timed(calls[name]) for _ in range(repeats[name])]
            found[name].append(statistics.median(turn))
            done_s += repeats[name] * expected[name]
            progress("rounds, in seconds", math.ceil(done_s), math.ceil(total_s))
    return found


def ratios(above: Sequence[float], below: Sequence[float]) -> Spread:
    """``above / below`` of every round."""
    return Spread(tuple(a / b for a, b in zip(above, below, strict=True)))
