"""Guidance whose unconditional branch is not evaluated in every step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gaussian import Gaussian
from torch import Tensor

from xmdpt_cli.diffusion import Guided, Schedule, sample
from xmdpt_cli.diffusion.guidance import Guidance, evaluated_branches
from xmdpt_cli.errors import ConfigError

SCHEDULES = [Schedule(), Schedule("cosine", "v")]


def generated(schedule: Schedule, rows: list[int], **settings: object) -> Tensor:
    """From one noise, guided at 2; ``rows`` gets the rows of each evaluation."""
    network = Gaussian(schedule)

    def counted(x: Tensor, t: Tensor, c: Tensor, keep: Tensor) -> Tensor:
        rows.append(len(x))
        return network(x, t, c, keep)

    noise = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    given = {"guidance": 2.0, "solver": "unipc", "schedule": schedule, **settings}
    return sample(Guided(counted), noise, torch.ones(3, 1), **given)  # type: ignore[arg-type]


def test_branches() -> None:
    scales = [1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 1.0]
    assert evaluated_branches(scales) == [1, 2, 2, 2, 2, 2, 1]
    assert evaluated_branches(scales, 2) == [1, 2, 1, 2, 1, 2, 1]
    assert evaluated_branches(scales, 3) == [1, 2, 1, 1, 2, 1, 1]


def test_a_difference_that_is_linear_in_the_step_is_exact() -> None:
    scales, rng = [1.5, 2.0, 3.0, 2.0, 1.5, 2.0, 2.0], torch.Generator().manual_seed(0)
    start, slope = (torch.randn(2, 2, 4, 4, generator=rng) for _ in range(2))
    with_cache = Guidance(scales, 2)
    for i, scale in enumerate(scales):
        difference = start + i * slope
        conditional = torch.randn(2, 2, 4, 4, generator=rng)
        unconditional = conditional - difference
        both = [conditional, unconditional][: with_cache.branches[i]]
        found = with_cache(torch.cat(both), i)
        if i != 1:  # only one difference is known there: it is reused
            torch.testing.assert_close(found, unconditional + scale * difference)
    assert with_cache.branches == [2, 1, 2, 1, 2, 1, 2]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=["noise", "v"])
def test_the_error_of_a_cache_falls_with_the_steps(schedule: Schedule) -> None:
    errors = []
    for steps in (20, 40):
        found, expected = (generated(schedule, [], steps=steps, cache=k) for k in (2, 1))
        errors.append(float((found - expected).abs().max()))
    assert 0 < errors[1] < errors[0] / 3 < 0.01 / 3


def test_the_unconditional_branch_is_evaluated_in_every_second_step() -> None:
    rows: list[int] = []
    generated(Schedule(), rows, steps=6, cache=2)
    assert rows == [6, 3] * 3
    rows.clear()
    # timesteps 999, 799, 599, 400, 200, 0: guidance in three of them
    generated(Schedule(), rows, steps=6, cache=2, solver="ddim", interval=(0.3, 0.85))
    assert rows == [3, 6, 3, 6, 3, 3]


def test_a_cache_is_a_whole_number_of_steps() -> None:
    wrong: list[Any] = [0, 2.5, "2", True, float("nan")]
    for cache in wrong:
        with pytest.raises(ConfigError, match="cache is a whole number of steps, at least 1, not"):
            generated(Schedule(), [], cache=cache)
