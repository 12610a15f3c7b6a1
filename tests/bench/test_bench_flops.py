"""Counted FLOPs, against formulas and known totals."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import nn
from torch.utils import flop_counter

from xmdpt_cli.bench import flops as module
from xmdpt_cli.bench.flops import flops
from xmdpt_cli.bench.published import PublishedXMDPT
from xmdpt_cli.model import XMDPT, kernels


def test_a_linear_map_and_a_convolution() -> None:
    linear, conv = nn.Linear(30, 50), nn.Conv2d(3, 8, 3, padding=1, stride=2)
    assert flops(lambda: linear(torch.zeros(11, 30))) == 2 * 11 * 30 * 50
    assert flops(lambda: conv(torch.zeros(2, 3, 16, 16))) == 2 * 2 * 8 * 8 * 8 * 3 * 9


def test_products_by_onednn_are_counted() -> None:
    x, weight = torch.zeros(11, 30), torch.zeros(50, 30)
    if not kernels.has_onednn():
        pytest.skip("this torch has no oneDNN")
    assert flops(lambda: kernels.onednn(x, weight)) == 2 * 11 * 30 * 50


ATTENTION = 2 * 3 * 10 * 12  # N H T S


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("bias", [True, False])
def test_attention(device: str, bias: bool) -> None:
    q = torch.zeros(2, 3, 10, 8, device=device)
    k = torch.zeros(2, 3, 12, 8, device=device)
    mask = torch.zeros(3, 10, 12, device=device) if bias else None
    counted = flops(lambda: F.scaled_dot_product_attention(q, k, k, attn_mask=mask))
    assert counted == 4 * ATTENTION * 8


def test_attention_where_pytorch_does_not_count_it(monkeypatch: pytest.MonkeyPatch) -> None:
    op = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    monkeypatch.delitem(flop_counter.flop_registry, op, raising=False)
    q, k = torch.zeros(2, 3, 10, 8), torch.zeros(2, 3, 12, 8)

    def attend() -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, k)

    assert flops(attend) == 4 * ATTENTION * 8
    monkeypatch.setattr(module, "_ATTENTIONS", ())
    assert flops(attend) == 0  # so the formula above did count


def test_a_guided_step_of_size_s() -> None:
    """49.3 GFLOP per image as published, 24.2 without redundant work."""
    with torch.device("meta"), torch.no_grad():
        model = XMDPT.from_size("S").eval()
        published = PublishedXMDPT(XMDPT.from_size("S").eval())
        x, t = torch.empty(1, *model.latent_shape), torch.zeros(1, dtype=torch.long)
        tokens = torch.empty(1, *model.canet.pose_shape), torch.empty(1, *model.canet.source_shape)
        condition, keep = model.condition(*tokens, x), torch.ones(1, dtype=torch.bool)
    with torch.device("meta"):
        fast = flops(lambda: model.denoiser(condition, [500], [2.0])(x, 0))
        as_published = 2 * flops(lambda: published(x, t, *tokens, x, keep))
    assert fast == pytest.approx(24.2e9, rel=0.01)
    assert as_published == pytest.approx(49.3e9, rel=0.01)


def test_a_multiplication_and_an_addition_are_two() -> None:
    """Decoding 4x32x32 latents by Stable Diffusion's VAE is 622 GFLOP."""
    with torch.device("meta"):
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
        )
        latents = torch.empty(1, 4, 32, 32)
    assert flops(lambda: vae.decode(latents)) == pytest.approx(622e9, rel=0.005)
