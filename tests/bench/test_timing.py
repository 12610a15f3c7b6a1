"""Medians with their intervals, and interleaved rounds."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from xmdpt_cli.bench import timing
from xmdpt_cli.bench.timing import Spread, interleaved, ratios

CPU = torch.device("cpu")


@pytest.mark.parametrize("count", [1, 2, 5, 6, 9, 10, 17, 20, 50])
def test_the_interval_is_the_narrowest_with_95_percent_confidence(count: int) -> None:
    """Of values 0 .. n - 1: the median lies below the r-th with the binomial's probability."""
    spread = Spread(tuple(float(i) for i in reversed(range(count))))
    rank = int(spread.low)
    assert spread.high == count - 1 - rank
    assert spread.median == (count - 1) / 2
    outside = 2 * stats.binom.cdf(rank, count, 0.5)
    if count >= 6:
        assert outside <= 0.05 < 2 * stats.binom.cdf(rank + 1, count, 0.5)
    else:  # too few values for 95 %: the range
        assert rank == 0


def test_outlier_rounds_are_listed_and_kept() -> None:
    spread = Spread((1.0, 1.02, 0.98, 1.01, 5.0))
    assert spread.odd == (5.0,)
    assert spread.rounds == (1.0, 1.02, 0.98, 1.01, 5.0)
    assert spread.high == 5.0
    assert Spread((1.0, 1.0, 1.0)).odd == ()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock on which a call takes as many seconds as it returns."""
    monkeypatch.setattr(timing, "clock", lambda device: lambda call: call())


@pytest.mark.usefixtures("slow")
def test_rounds_alternate_their_order() -> None:
    seen: list[str] = []
    calls = {name: lambda name=name: seen.append(name) or 2.0 for name in "abc"}
    reports: list[tuple[str, int, int]] = []
    found = interleaved(calls, 3, CPU, lambda *report, **_: reports.append(report))
    assert "".join(seen) == "abc" + "abc" + "cba" + "abc"
    assert found == {name: [2.0] * 3 for name in "abc"}
    stage, done, total = reports[-1]
    assert stage == "rounds, in seconds"
    assert done == total == 3 * 3 * 2.0  # known from the warm-up


@pytest.mark.usefixtures("slow")
def test_a_short_call_is_repeated_and_its_median_counts() -> None:
    hiccup = iter([0.3, *[0.3, 9.0, 0.3, 0.4], *[0.2, 0.2, 8.0, 0.2]])
    found = interleaved({"long": lambda: 30.0, "short": lambda: next(hiccup)}, 2, CPU)
    assert found == {"long": [30.0] * 2, "short": [pytest.approx(0.35), 0.2]}
    assert next(hiccup, None) is None  # four calls of 0.3 s are a second


@pytest.mark.usefixtures("slow")
def test_calls_without_duration_are_repeated_a_limited_number_of_times() -> None:
    seen: list[int] = []
    interleaved({"long": lambda: 30.0, "none": lambda: seen.append(0) or 1e-9}, 1, CPU)
    interleaved({"long": lambda: 30.0, "none": lambda: 0.0}, 1, CPU)
    assert 1 < len(seen) < 100


def test_ratios_compare_times_of_the_same_round() -> None:
    """A machine that is half as fast in one round gives the same ratio in it."""
    assert ratios([2.0, 4.0, 2.2], [1.0, 2.0, 1.1]).rounds == pytest.approx((2.0, 2.0, 2.0))
