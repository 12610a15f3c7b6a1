"""Rotary positions against diffusers', and what attention relies on."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.embeddings import apply_rotary_emb, get_1d_rotary_pos_embed

from xmdpt_cli.errors import ConfigError
from xmdpt_cli.model import XMDPT
from xmdpt_cli.model.rotary import rotary_positions, rotary_table, rotate

SIDE, FEATURES = 5, 24
TOKENS = SIDE**2


def test_rotation_is_diffusers() -> None:
    """Row and column are sequences of their own, over half of the features each."""
    x = torch.randn(2, 3, TOKENS, FEATURES, dtype=torch.float64)
    place = torch.arange(TOKENS)
    axes = [
        get_1d_rotary_pos_embed(
            FEATURES // 2, axis.double(), theta=100.0, use_real=False, freqs_dtype=torch.float64
        )
        for axis in (place // SIDE, place % SIDE)
    ]
    turns = torch.cat(axes, dim=1)  # (T, d / 2) complex
    cos, sin = (part.repeat(1, 2) for part in (turns.real, turns.imag))
    expected = apply_rotary_emb(x, (cos, sin), use_real_unbind_dim=-2)
    found = rotate(x, rotary_table(SIDE, FEATURES, dtype=torch.float64))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)  # theirs is in float32


def test_scores_depend_on_the_offset_alone() -> None:
    table = rotary_table(SIDE, FEATURES, dtype=torch.float64)
    q, k = torch.randn(2, 1, 1, 1, FEATURES, dtype=torch.float64).expand(2, 1, 1, TOKENS, FEATURES)
    scores = rotate(q, table)[0, 0] @ rotate(k, table)[0, 0].T
    scores = scores.reshape(SIDE, SIDE, SIDE, SIDE)  # (y query, x query, y key, x key)
    torch.testing.assert_close(scores[1:, 2:, 1:, 2:], scores[:-1, :-2, :-1, :-2])
    assert not torch.allclose(scores[1, 0, 0, 0], scores[0, 1, 0, 0])  # rows are no columns
    torch.testing.assert_close(scores[2, 3, 2, 3], (q * k).sum(-1)[0, 0, 0])  # offset 0


def test_kept_tokens_and_source_tokens_keep_their_places() -> None:
    table = rotary_table(SIDE, FEATURES)
    ids = torch.tensor([[3, 24, 7], [0, 1, 12]])
    positions = rotary_positions(SIDE, FEATURES, ids, TOKENS)
    assert positions.bias is None  # a mask would keep fused kernels from running
    assert positions.queries is not None
    assert positions.keys is not None
    assert torch.equal(positions.queries[:, 0], table[ids])
    assert torch.equal(positions.keys[:, 0, :3], table[ids])
    assert torch.equal(positions.keys[:, 0, 3:], table.expand(2, -1, -1))
    two = rotary_positions(SIDE, FEATURES, None, 2 * TOKENS)
    assert two.bias is not None
    assert two.keys is not None
    assert torch.equal(two.keys, table.repeat(3, 1))
    weights = two.bias.flatten().exp()
    assert weights.tolist() == pytest.approx([1.0] * TOKENS + [0.5] * 2 * TOKENS)


def test_bf16_is_rotated_in_float32() -> None:
    table = rotary_table(SIDE, FEATURES, dtype=torch.bfloat16)
    assert table.dtype == torch.float32
    x = torch.randn(1, 1, TOKENS, FEATURES).bfloat16()
    found = rotate(x, table)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, rotate(x.float(), table).bfloat16())


def test_a_model_with_rotary_positions_has_no_tables_in_its_blocks() -> None:
    with torch.device("meta"):
        model = XMDPT.from_size("S", positions="rope")
    tables = [name for name in model.state_dict() if name.endswith("bias_table")]
    assert [name.split(".")[:2] for name in tables] == [
        ["mipnet", "sideblocks"],
        ["mipnet", "sideblocks_cross"],
    ]
    with pytest.raises(ConfigError, match="multiple of 4, not 6"):
        XMDPT(depth=4, width=24, heads=4, positions="rope")
    with pytest.raises(ConfigError, match="positions is one of bias, rope"):
        XMDPT(depth=4, width=32, heads=2, positions="none")
