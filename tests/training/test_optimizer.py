"""Muon against the polar decomposition; the weights that it updates."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from xmdpt_cli.model import XMDPT
from xmdpt_cli.training.config import TrainConfig
from xmdpt_cli.training.optimizer import Muon, make_optimizers, orthogonal


def test_newton_schulz_approaches_the_orthogonal_factor() -> None:
    x = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))
    u, _, vh = torch.linalg.svd(x)
    exact = u @ vh
    near = orthogonal(x, iterations=6)
    # the quintic leaves singular values between about 0.7 and 1.2 and turns no direction
    singular = torch.linalg.svdvals(near)
    assert float(singular[:, :-2].min()) > 0.6
    assert float(singular.max()) < 1.3
    cosine = (near * exact).sum((1, 2)) / (near.norm(dim=(1, 2)) * exact.norm(dim=(1, 2)))
    assert float(cosine.min()) > 0.97
    # (U S V^T) and U diag(s) V^T share U and V: the product with the exact factor is symmetric
    product = near @ exact.mT
    torch.testing.assert_close(product, product.mT, rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", [(8, 8), (24, 8), (8, 32)])
def test_a_wide_weight_is_updated_square_by_square(shape: tuple[int, int]) -> None:
    rng = torch.Generator().manual_seed(1)
    start, gradient = torch.randn(shape, generator=rng), torch.randn(shape, generator=rng)
    whole = torch.nn.Parameter(start.clone())
    whole.grad = gradient.clone()
    Muon([whole], lr=0.1).step()
    for rows in range(0, shape[0], 8):
        for columns in range(0, shape[1], 8):
            part = (slice(rows, rows + 8), slice(columns, columns + 8))
            alone = torch.nn.Parameter(start[part].clone())
            alone.grad = gradient[part].clone()
            Muon([alone], lr=0.1).step()
            torch.testing.assert_close(whole.detach()[part], alone.detach())


def test_which_weights_muon_takes() -> None:
    config = dataclasses.replace(TrainConfig(), optimizer="muon", size="tiny")
    model = XMDPT.from_size(
        "tiny", latent_size=8, pose_length=5, pose_width=8, source_length=5, source_width=8,
        conditioning="tokens", vae_factor=4, qk_norm=True,
    )  # fmt: skip
    adamw, muon = make_optimizers(model, config)
    names = {id(p): name for name, p in model.named_parameters()}
    taken = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    rest = {names[id(p)] for group in adamw.param_groups for p in group["params"]}
    assert taken | rest == set(names.values())
    assert not taken & rest
    # q k v, projection, two of the MLP: four blocks and MIPNet's self block; its cross block has
    # one more; and the source's keys and values
    assert len(taken) == 5 * 4 + 5 + 1
    others = ("modulation", "table", "canet", "qk_norm")
    assert not any(other in name for name in taken for other in others)
    assert len(make_optimizers(model, TrainConfig())) == 1
