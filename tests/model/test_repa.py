"""REPA's projectors and its target: the order of the tokens, iREPA's normalisation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate
from scipy.stats import zscore

from xmdpt_cli.errors import ConfigError
from xmdpt_cli.model import XMDPT
from xmdpt_cli.model.config import parameter_counts
from xmdpt_cli.model.repa import repa_projector, repa_target, spatial_norm

SMALL = {"depth": 4, "width": 32, "heads": 2, "latent_size": 8, "repa_width": 20, "repa_layer": 2}


def test_repa_patches_are_in_the_order_of_the_latents() -> None:
    tokens = torch.arange(17.0)[None, :, None]  # CLS is 0, patches 1 to 16 by rows
    same = repa_target(tokens, 4)
    assert same[0, :, 0].tolist() == list(range(1, 17))
    double = repa_target(tokens, 8)
    grid = double[0, :, 0].reshape(8, 8)
    assert bool((grid.diff(dim=0) >= 0).all() and (grid.diff(dim=1) >= 0).all())
    assert float(grid.mean()) == pytest.approx(8.5)


def test_the_convolution_lies_on_the_token_grid() -> None:
    """Against scipy, channel by channel."""
    projector = repa_projector("conv", 3, 2)
    tokens = torch.randn(2, 20 * 20, 3, generator=torch.Generator().manual_seed(0))
    found = projector(tokens).detach().numpy().reshape(2, 20, 20, 2)
    weight, bias = (p.detach().numpy() for p in projector.parameters())
    square = tokens.numpy().reshape(2, 20, 20, 3)
    for image in range(2):
        for channel in range(2):
            expected = bias[channel] + sum(
                correlate(square[image, :, :, k], weight[channel, k], mode="constant")
                for k in range(3)
            )
            np.testing.assert_allclose(found[image, :, :, channel], expected, atol=1e-5)


def test_spatial_normalisation_subtracts_most_of_the_mean_over_the_tokens() -> None:
    """The z-score (scipy), plus 0.4 of the mean in standard deviations."""
    tokens = torch.randn(2, 17, 5, generator=torch.Generator().manual_seed(0)) * 3 + 40
    patches = tokens[:, 1:].numpy()
    mean, std = patches.mean(axis=1, keepdims=True), patches.std(axis=1, ddof=1, keepdims=True)
    expected = zscore(patches, axis=1, ddof=1) + 0.4 * mean / std
    np.testing.assert_allclose(spatial_norm(tokens[:, 1:]).numpy(), expected, atol=1e-4)
    np.testing.assert_allclose(repa_target(tokens, 4, "spatial").numpy(), expected, atol=1e-4)
    assert torch.equal(repa_target(tokens, 4), tokens[:, 1:])
    # a channel that is the same everywhere
    assert torch.isfinite(spatial_norm(torch.ones(1, 16, 2))).all()


def test_a_model_has_the_projector_it_was_built_with() -> None:
    names = {
        kind: {
            name: tuple(value.shape)
            for name, value in XMDPT(**SMALL, repa_projection=kind).state_dict().items()  # type: ignore[arg-type]
            if name.startswith("repa_projector")
        }
        for kind in ("mlp", "conv")
    }
    assert names["mlp"] == {
        "repa_projector.0.weight": (2048, 32), "repa_projector.0.bias": (2048,),
        "repa_projector.2.weight": (2048, 2048), "repa_projector.2.bias": (2048,),
        "repa_projector.4.weight": (20, 2048), "repa_projector.4.bias": (20,),
    }  # fmt: skip
    assert names["conv"] == {
        "repa_projector.conv.weight": (20, 32, 3, 3), "repa_projector.conv.bias": (20,),
    }  # fmt: skip
    counts = [
        parameter_counts(XMDPT(**{**SMALL, "repa_width": width, "repa_projection": "conv"}))  # type: ignore[arg-type]
        for width in (20, 0)
    ]
    assert counts[0]["inference"] == counts[1]["inference"]
    assert counts[0]["training"] - counts[1]["training"] == 20 * 32 * 9 + 20
    with pytest.raises(ConfigError, match="repa_projection is one of mlp, conv, not 'linear'"):
        XMDPT(**SMALL, repa_projection="linear")  # type: ignore[arg-type]
