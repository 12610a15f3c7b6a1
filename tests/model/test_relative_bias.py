"""The bias of training and sampling, and its gradient on CPUs and on GPUs, against those of a plain
gather."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from xmdpt_cli.model import relative_bias
from xmdpt_cli.model.layers import RelativePositionBias, relative_position_index
from xmdpt_cli.model.relative_bias import (
    bias_of_pairs,
    bias_of_queries,
    dense_bias,
    stacked_bias,
)

SIDE, HEADS, ROWS = 4, 3, 5
TOKENS = SIDE * SIDE


@pytest.fixture(params=["scatters", "sums"], autouse=True)
def gradient(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU, and as on a GPU."""
    monkeypatch.setattr(relative_bias, "by_sums", lambda _: request.param == "sums")


def made(seed: int = 0) -> tuple[RelativePositionBias, Tensor]:
    torch.manual_seed(seed)
    bias = RelativePositionBias(SIDE, HEADS).double()
    table = torch.nn.init.normal_(bias.relative_position_bias_table)
    return bias, table


@pytest.mark.parametrize("extra_keys", [0, TOKENS, 2 * TOKENS])
def test_dense_bias(extra_keys: int) -> None:
    bias, table = made()
    found, expected = dense_bias(bias, extra_keys), bias(extra_keys=extra_keys)
    assert found.shape == (HEADS, TOKENS, TOKENS + extra_keys)
    check(table, found, expected)


@pytest.mark.parametrize("extra_keys", [0, TOKENS])
def test_stacked_bias(extra_keys: int) -> None:
    modules = [made(seed)[0] for seed in (0, 1)]
    expected = torch.stack([module(extra_keys=extra_keys) for module in modules])
    assert torch.equal(stacked_bias(modules, extra_keys), expected)


@pytest.mark.parametrize("kept", [1, 7, TOKENS])
def test_bias_of_a_rows_own_tokens(kept: int) -> None:
    bias, table = made()
    ids = torch.rand(ROWS, TOKENS).argsort(dim=1)[:, :kept]
    dense, index = dense_bias(bias), relative_position_index(SIDE)
    pairs = torch.stack([index[row][:, row] for row in ids])
    check(table, bias_of_pairs(dense, ids), table.T[:, pairs].transpose(0, 1))
    check(table, bias(ids), table.T[:, pairs].transpose(0, 1))
    check(table, bias_of_queries(dense_bias(bias), ids), table.T[:, index[ids]].transpose(0, 1))


def check(table: Tensor, found: Tensor, expected: Tensor) -> None:
    assert torch.equal(found, expected)
    upstream = torch.randn_like(found)
    (one,) = torch.autograd.grad(found, table, upstream, retain_graph=True)
    (other,) = torch.autograd.grad(expected, table, upstream)
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
