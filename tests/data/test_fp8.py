"""Tokens in 8 bits: the error stays in its bounds, and readers downstream see bfloat16."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from encoder_records import encoder_records

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.data.fp8 import dequantise_tokens, quantise_tokens
from xmdpt_cli.data.loader import load_pairs
from xmdpt_cli.data.sampler import PairIndices
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.prepare.dataset_folder import make_manifest
from xmdpt_cli.prepare.shard_writer import ShardWriter, ViewData
from xmdpt_cli.storage.stores import LocalStore


def tokens(seed: int, spread: float = 1.0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    values = torch.randn(9, 40, generator=rng) * torch.logspace(-4, 4, 9)[:, None] * spread
    return values.bfloat16()


def restored(stored: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    out = torch.empty(stored.shape, dtype=torch.bfloat16)
    dequantise_tokens(stored.view(torch.int8), scale, out)
    return out


@pytest.mark.parametrize("spread", [1e-20, 1.0, 1e20])
def test_error_bounds(spread: float) -> None:
    values = tokens(0, spread)
    stored, scale = quantise_tokens(values)
    assert stored.dtype == torch.float8_e4m3fn
    assert stored.shape == values.shape
    assert scale.dtype == torch.float32
    torch.testing.assert_close(scale, values.float().abs().amax(1) / 448)
    back = restored(stored, scale)
    exact = stored.double() * scale[:, None].double()  # the straightforward formula
    assert torch.equal(back, exact.float().bfloat16())
    # half a unit in the last of 3 bits, or of the smallest step, 2**-9; a hair for the scale
    bound = torch.maximum(values.double().abs() * 2**-4, scale[:, None].double() * 2**-10)
    assert bool(((exact - values.double()).abs() <= bound * (1 + 1e-6)).all())
    largest = values.float().abs().argmax(1, keepdim=True)
    torch.testing.assert_close(back.gather(1, largest), values.gather(1, largest))


def test_zeros_and_signs() -> None:
    values = torch.zeros(2, 8, dtype=torch.bfloat16)
    values[1, :3] = torch.tensor([-2.0, 2.0, -0.5])
    stored, scale = quantise_tokens(values)
    assert scale[0] == 1
    assert torch.equal(restored(stored, scale), values)


def test_every_finite_code_equals_torchs_conversion() -> None:
    codes = torch.tensor([c for c in range(256) if c & 0x7F != 0x7F], dtype=torch.uint8)
    stored = codes.view(torch.float8_e4m3fn).reshape(2, -1)
    for scale in (torch.ones(2), torch.tensor([3e-3, 7e5])):
        want = (stored.float() * scale[:, None]).bfloat16()
        assert torch.equal(restored(stored, scale), want)


def test_reading_gives_bfloat16(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    features = {}
    for view in (0, 1):
        features[view] = {"moments": torch.randn(2, 4, 4).half(), "pose_tokens": tokens(5)}
        features[view]["moments_flip"] = features[view]["moments"].flip(2)
        features[view]["pose_tokens_flip"] = tokens(6)
        for name, seed in (("source_tokens", view), ("source_tokens_flip", 10 + view)):
            stored, scale = quantise_tokens(tokens(seed))
            features[view] |= {name: stored, f"{name}_scale": scale}
    points = np.zeros((18, 2))
    with ShardWriter(store, "train-000000.tar", "train") as writer:
        views = {
            name: ViewData("a.jpg", b"png", points, features[number])
            for number, name in enumerate(("1_front", "2_side"))
        }
        writer.add("MEN-Denim-id_00000001-01", views, [("1_front", "2_side", 0)])
        index = writer.finish([])
    make_manifest(store, [index], [], 32, encoder_records())
    dataset = PairDataset(tmp_path)
    for flip, seed in ((False, 0), (True, 10)):
        want = restored(*quantise_tokens(tokens(seed)))
        batch = load_pairs(dataset, PairIndices.listed([0], flip=flip))
        assert batch.source_tokens.dtype == torch.bfloat16
        assert torch.equal(batch.source_tokens[0], want)
        assert torch.equal(batch.pose_tokens[0], tokens(5 + flip))
    with pytest.raises(XmdptError, match=r"holds moments, moments_flip, .*source_tokens_flip\)"):
        dataset.column("source_tokens_scale")
