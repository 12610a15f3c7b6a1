"""The bias's own gradients, against those that autograd derives of a plain gather."""

from __future__ import annotations

import pytest
import torch

from xmdpt_cli.model.relative_bias import RelativeBias, bias_among, relative_index

SIDE, HEADS, BLOCKS, ROWS = 4, 3, 2, 5
TOKENS = SIDE * SIDE


def made(others: int = 0) -> RelativeBias:
    torch.manual_seed(0)
    bias = RelativeBias(SIDE, HEADS, BLOCKS, others).double()
    torch.nn.init.normal_(bias.table)
    return bias


def plain(bias: RelativeBias) -> torch.Tensor:
    return bias.table[:, relative_index(SIDE)].unflatten(0, (BLOCKS, HEADS))


def test_the_tables_gradient_sums_diagonals() -> None:
    bias = made()
    whole = bias()
    assert torch.equal(whole, plain(bias))
    upstream = torch.randn_like(whole)
    (ours,) = torch.autograd.grad(whole, bias.table, upstream)
    (expected,) = torch.autograd.grad(plain(bias), bias.table, upstream)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kept", [1, 7, TOKENS])
@pytest.mark.parametrize("among_all", [False, True])
@pytest.mark.parametrize("others", [0, 2])
def test_a_rows_own_tokens(kept: int, among_all: bool, others: int) -> None:
    bias = made(others)
    queries = torch.rand(ROWS, TOKENS).argsort(dim=1)[:, :kept]
    keys = torch.arange(TOKENS).expand(ROWS, -1) if among_all else queries
    whole = bias()[1]
    found = bias_among(whole, queries, all_keys=among_all)
    index = relative_index(SIDE)
    places = torch.stack([index[q][:, k] for q, k in zip(queries, keys, strict=True)])
    expected = bias.table[HEADS:, places].transpose(0, 1)  # (N, H, K, K')
    if others:
        far = bias.table[HEADS:, bias.far].reshape(1, HEADS, 1, 1)
        expected = torch.cat([expected, far.expand(*expected.shape[:-1], others)], dim=-1)
    assert torch.equal(found, expected)
    upstream = torch.randn_like(found)
    (ours,) = torch.autograd.grad(found, bias.table, upstream)
    (theirs,) = torch.autograd.grad(expected, bias.table, upstream)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
