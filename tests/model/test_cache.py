"""The cache across steps: which steps are computed, and what the others give."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from test_xmdpt import VARIANTS, inputs, name, small
from torch import Tensor

from xmdpt_cli.diffusion import Schedule, sample
from xmdpt_cli.errors import ConfigError
from xmdpt_cli.model import XMDPT, TokenConditions
from xmdpt_cli.model.cache import Cached, computed_steps
from xmdpt_cli.model.fast import predict, predict_residual

COSINE = Schedule("cosine", "v")


@pytest.fixture(scope="module")
def model() -> XMDPT:
    return small(conditioning="tokens").eval()


@torch.no_grad()
def generate(
    model: XMDPT, degrees: float | None, rows: slice = slice(None), **settings: Any
) -> Tensor:
    """Latents of the rows; ``degrees`` None: without a cache."""
    a = {key: value[rows] for key, value in inputs().items()}
    condition = model.condition(a["pose"], a["source"], a["latents"])
    tokens: TokenConditions | None = None
    if model.tokens is not None:
        tokens = model.token_conditions(a["latents"], a["map"], a["source_map"])
    guided = model if degrees is None else Cached(model, COSINE, degrees)
    settings = {"steps": 50, "guidance": 1.5, "power": 0.01, "schedule": COSINE, **settings}
    return sample(guided, a["x"], condition, tokens=tokens, **settings)


def error(model: XMDPT, degrees: float, **settings: Any) -> float:
    found, expected = (generate(model, value, **settings) for value in (degrees, None))
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("variant", [{}, *VARIANTS], ids=name)
def test_without_a_distance_every_step_is_computed(variant: dict[str, Any]) -> None:
    assert error(small(**variant).eval(), 0, steps=3) < 1e-6


def test_the_error_falls_with_the_distance(model: XMDPT) -> None:
    errors = [error(model, degrees) for degrees in (15, 7.5, 3.75)]
    assert 0.1 > errors[0] > errors[1] > errors[2] > 0
    repeated = generate(model, 7.5)
    assert torch.equal(generate(model, 7.5), repeated)


@torch.no_grad()
def test_a_residual_is_extrapolated_linearly_in_the_angle(model: XMDPT) -> None:
    a, net = inputs(), model.tdnet
    condition = model.condition(a["pose"], a["source"], a["latents"])
    tokens = model.token_conditions(a["latents"], a["map"], a["source_map"])
    timesteps = [900, 600, 500, 450]
    denoise = Cached(model, COSINE, 8).denoiser(condition, timesteps, [1.0] * 4, tokens)
    hidden: list[Tensor] = []
    handle = net.final_layer.norm_final.register_forward_hook(
        lambda _module, given, _out: hidden.append(given[0])
    )
    embedded = []
    for i in range(4):
        x = a["x"] * (1 + i)
        denoise(x, i)
        embedded.append(net.embed(x) + tokens.pose)
    handle.remove()
    first, second, third, fourth = (h - x for h, x in zip(hidden, embedded, strict=True))
    # the angle of the cosine schedule is linear in t, up to its offset and rounding
    expected = third + (third - second) * (500 - 450) / (600 - 500)
    assert float((third - second).norm()) > 1e-2
    assert float((fourth - expected).norm() / expected.norm()) < 1e-3
    assert float((first - second).norm()) > 1e-2


def test_an_image_does_not_depend_on_its_batch(model: XMDPT) -> None:
    alone, batch = generate(model, 8, slice(0, 1)), generate(model, 8)
    torch.testing.assert_close(alone, batch[:1], rtol=0, atol=2e-5)


def test_blocks_are_computed_in_the_listed_steps(model: XMDPT) -> None:
    """20 steps of UniPC on the cosine schedule spend nine above 89 degrees."""
    rows: Counter[str] = Counter()
    net = model.tdnet
    handles = [
        net.blocks[1].attn.register_forward_hook(lambda *_: rows.update(["blocks"])),
        net.x_embedder.register_forward_hook(lambda *_: rows.update(["embedded"])),
    ]
    generate(model, 4, steps=20, solver="unipc")
    for handle in handles:
        handle.remove()
    # one more embedding: the source's, in CANet
    assert rows == {"blocks": 9, "embedded": 20 + 1}


def test_computed_steps() -> None:
    angles = [90, 89, 88, 85, 84, 80, 60, 58, 50]
    two = [2] * 9
    assert computed_steps(angles, two, 0) == [True] * 9
    found = computed_steps(angles, two, 5)
    assert [angle for angle, due in zip(angles, found, strict=True) if due] == [90, 85, 80, 60, 50]
    # guidance starts at 84 degrees: its second branch is not known yet
    found = computed_steps(angles, [1, 1, 1, 1, 2, 2, 2, 1, 1], 5)
    assert [angle for angle, due in zip(angles, found, strict=True) if due] == [90, 85, 84, 60, 50]


def test_guidance_in_an_interval(model: XMDPT) -> None:
    """The number of rows changes twice on the way."""
    assert error(model, 4, interval=(0.2, 0.7)) < 0.05


def test_values_out_of_range_and_distilled_models_are_refused(model: XMDPT) -> None:
    for degrees in (-1.0, 90.0, float("nan")):
        with pytest.raises(ConfigError, match="cache lies between 0"):
            Cached(model, COSINE, degrees)
    with pytest.raises(ConfigError, match="distilled"):
        Cached(small(guidance_embed=True), COSINE, 4)
    with pytest.raises(ConfigError, match="predicts noise"):
        Cached(model, Schedule(), 4)
    Cached(model, Schedule(), 0)


def test_computed_steps_compile_as_one_graph(model: XMDPT, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else no step would be a CUDA graph."""
    expected = generate(model, 8, steps=6)
    for function in (predict, predict_residual):
        compiled = torch.compile(function, backend="eager", dynamic=False, fullgraph=True)
        monkeypatch.setattr(model, function.__name__, compiled)
    torch.testing.assert_close(generate(model, 8, steps=6), expected)
    generate(model, None, steps=1)
