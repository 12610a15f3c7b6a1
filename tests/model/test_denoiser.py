"""Sampling's short cut says what the model itself says, guided the long way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_options import VARIANTS, conditions, name
from test_xmdpt import inputs, small
from torch import nn

from xmdpt_cli.diffusion.sampler import guided
from xmdpt_cli.errors import ConfigError
from xmdpt_cli.model import denoiser

TIMES, SCALES = (999, 500, 0), (2.0, 1.0, 1.5)


@pytest.mark.parametrize("variant", [{}, *VARIANTS], ids=name)
@torch.no_grad()
def test_it_is_the_model_guided(variant: dict[str, Any]) -> None:
    model, a = small(**variant).eval(), inputs()
    condition, context = conditions(model, a)
    denoise = model.denoiser(condition, TIMES, SCALES, context)
    for i, (t, scale) in enumerate(zip(TIMES, SCALES, strict=True)):
        expected = guided(model, a["x"], t, condition, scale, context)
        torch.testing.assert_close(denoise(a["x"], i), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_little_room_for_modulations_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, a = small().eval(), inputs()
    condition, _ = conditions(model, a)
    plenty = model.denoiser(condition, TIMES, SCALES)
    expected = [plenty(a["x"], i) for i in range(3)]
    monkeypatch.setattr(denoiser, "MODULATION_BYTES", 1)
    one_by_one = model.denoiser(condition, TIMES, SCALES)
    made: list[int] = []
    final = model.tdnet.final.modulation
    final.register_forward_hook(lambda _m, _in, out: made.append(len(out)))
    for i in range(3):
        torch.testing.assert_close(one_by_one(a["x"], i), expected[i])
    assert made == [1, 1, 1]


@torch.no_grad()
def test_what_steps_share_is_made_once() -> None:
    model, a = small("tokens").eval(), inputs()
    condition, context = conditions(model, a)
    calls: dict[nn.Module, int] = {}

    def count(module: nn.Module, _inputs: Any, _out: Any) -> None:
        calls[module] = calls.get(module, 0) + 1

    net = model.tdnet
    rows: list[int] = []
    once = [net.timestep, *(block.modulation for block in net.blocks)]
    for module in (*once, *model.canet.modules(), *net.conditions.modules()):
        module.register_forward_hook(count)
    net.patch_embed.register_forward_pre_hook(lambda _m, given: rows.append(len(given[0])))
    denoise = model.denoiser(condition, TIMES, SCALES, context)
    for i in range(3):
        denoise(a["x"], i)
    assert set(calls) == set(once)
    assert set(calls.values()) == {1}
    assert rows == [6, 3, 6]  # both branches in one batch; one branch where the scale is 1


def test_wrong_shapes_are_named() -> None:
    model, a = small().eval(), inputs()
    condition, _ = conditions(model, a)
    with pytest.raises(ConfigError, match="condition"):
        model.denoiser(condition[:, 1:], TIMES, SCALES)
