"""QK-norm: its formula, its type, and bounded scores."""

from __future__ import annotations

import torch

from xmdpt_cli.model.layers import Attention
from xmdpt_cli.model.qk_norm import QKNorm


def test_formula() -> None:
    norm = QKNorm(6).double()
    torch.nn.init.uniform_(norm.q.weight, 0.5, 2)
    torch.nn.init.uniform_(norm.k.weight, 0.5, 2)
    q, k = torch.randn(2, 2, 3, 4, 6, dtype=torch.float64)
    for x, found, gain in zip((q, k), norm(q, k), (norm.q.weight, norm.k.weight), strict=True):
        expected = gain * x / (x.pow(2).mean(dim=-1, keepdim=True) + 1e-6).sqrt()
        torch.testing.assert_close(found, expected)


def test_attention_does_not_depend_on_the_size_of_queries_and_keys() -> None:
    """Those of the source included; without the norm it does."""
    torch.manual_seed(0)
    x, kv = torch.randn(2, 9, 32), torch.randn(2, 9, 64)
    for qk_norm in (True, False):
        attention = Attention(32, 2, 3, qk_norm=qk_norm)
        positions = attention.positions(None, 9)
        with torch.no_grad():
            before = attention(x, positions, kv)
            attention.qkv.weight[:64] *= 20  # queries and keys, not values
            attention.qkv.bias[:64] *= 20
            larger = torch.cat([kv[..., :32] * 20, kv[..., 32:]], dim=2)
            after = attention(x, positions, larger)
        assert torch.allclose(before, after, atol=1e-4) is qk_norm


def test_under_autocast_norms_are_float32_and_results_bf16() -> None:
    norm, q = QKNorm(8), torch.randn(1, 2, 5, 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = norm(q, q)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, norm.q(q.float()).bfloat16())
