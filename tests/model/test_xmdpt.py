"""The public model: sizes, shapes, both kinds of conditioning, saving, conversion errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from xmdpt_cli.errors import ConfigError
from xmdpt_cli.model import XMDPT, Mask, parameter_counts
from xmdpt_cli.model.layers import (
    relative_position_index,
    sincos_position_embedding,
    timestep_features,
)

SMALL = {
    "depth": 4,
    "width": 32,
    "heads": 2,
    "latent_size": 8,
    "pose_length": 5,
    "pose_width": 12,
    "source_length": 7,
    "source_width": 20,
    "vae_factor": 4,
}


#: the paper's Table 2, MDTv2, REPA, token conditioning, rotary positions, QK-norm
VARIANTS: list[dict[str, Any]] = [
    *({"predictor": name} for name in ("self", "cross", "cross-self")),
    *({"condition_parts": parts} for parts in ("local", "global", "pose", "global+pose")),
    {"aggregation": "mlp"},
    {"aggregation": "concat"},
    {"backbone": "mdtv2"},
    {"repa_width": 20, "repa_layer": 2},
    {"conditioning": "tokens"},
    {"conditioning": "tokens", "backbone": "mdtv2"},
    {"positions": "rope"},
    {"conditioning": "tokens", "qk_norm": True},
    {"conditioning": "tokens", "positions": "rope", "qk_norm": True, "backbone": "mdtv2"},
]


def name(variant: dict[str, Any]) -> str:
    return "-".join(str(v) for v in variant.values()) or "published"


def small(**settings: Any) -> XMDPT:
    torch.manual_seed(0)
    model = XMDPT(**{**SMALL, **settings})
    for parameter in model.parameters():  # adaLN-Zero starts with nothing to see
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=max(0.02, 3.2 / model.width))
    return model


def inputs(n: int = 3, latent_size: int = 8) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(1)
    latents = (n, 4, latent_size, latent_size)
    images = (n, 3, 4 * latent_size, 4 * latent_size)
    return {
        "x": torch.randn(latents, generator=rng),
        "masked_x": torch.randn(latents, generator=rng),
        "t": torch.tensor([0, 500, 999])[:n],
        "pose": torch.randn(n, 5, 12, generator=rng),
        "source": torch.randn(n, 7, 20, generator=rng),
        "latents": torch.randn(latents, generator=rng),
        "map": torch.rand(images, generator=rng),
        "source_map": torch.rand(images, generator=rng),
        "token_noise": torch.rand(n, (latent_size // 2) ** 2, generator=rng),
    }


@pytest.mark.parametrize(
    ("size", "training", "paper"),
    [
        ("S", 39_117_301, 33_519_781),
        ("B", 153_731_269, 131_919_397),
        ("L", 498_945_445, 460_240_677),
    ],
)
def test_parameter_counts_are_the_published_ones(size: str, training: int, paper: int) -> None:
    with torch.device("meta"):
        counts = parameter_counts(XMDPT.from_size(size))
    assert counts["training"] == training
    assert counts["paper"] == paper
    assert paper < counts["inference"] < training


def test_512_px_follows_the_grid() -> None:
    with torch.device("meta"):
        model = XMDPT.from_size("S", latent_size=64)
    assert model.tdnet.pos_embed.shape == (1, 1024, 384)
    assert model.canet.conv1d_local[0].weight.shape == (1, 1024, 1)
    assert model.canet.conv1d_pose[0].weight.shape == (1, 257, 1)  # DINO inputs stay at 224 px
    table = model.tdnet.blocks[0].attn.rel_pos_bias.relative_position_bias_table
    assert table.shape == ((2 * 32 - 1) ** 2 + 3, 6)


@torch.no_grad()
def test_shapes_and_dropped_rows() -> None:
    model, a = small().eval(), inputs()
    condition = model.condition(a["pose"], a["source"], a["latents"])
    assert condition.shape == (3, 32)
    out = model(a["x"], a["t"], condition)
    assert out.shape == (3, 8, 8, 8)
    mask = Mask.random(a["token_noise"], 0.3)
    assert model.forward_masked(a["x"], a["t"], condition, a["latents"], mask).shape == out.shape
    dropped = model(a["x"], a["t"], condition, keep=torch.tensor([True, False, True]))
    torch.testing.assert_close(dropped[0], out[0])
    none = model(a["x"], a["t"], torch.zeros_like(condition))
    torch.testing.assert_close(dropped[1], none[1])
    assert not torch.allclose(dropped[1], out[1], atol=1e-3)


def test_mask_keeps_the_smallest_and_restores_their_places() -> None:
    noise = torch.tensor([[0.5, 0.1, 0.9, 0.3, 0.7]])
    mask = Mask.random(noise, 0.5)  # int(5 * 0.5) are kept
    assert mask.ids_keep.tolist() == [[1, 3]]
    assert mask.ids_mask.tolist() == [[0, 4, 2]]
    shuffled = torch.cat([mask.ids_keep, mask.ids_mask], dim=1)
    assert shuffled.gather(1, mask.ids_restore).tolist() == [[0, 1, 2, 3, 4]]


@torch.no_grad()
def test_bfloat16_tokens_are_taken_as_they_are_stored() -> None:
    model, a = small().eval(), inputs()
    pose, source = a["pose"].bfloat16(), a["source"].bfloat16()
    torch.testing.assert_close(
        model.condition(pose, source, a["latents"]),
        model.condition(pose.float(), source.float(), a["latents"]),
    )


@torch.no_grad()
def test_token_conditions_read_source_and_both_poses() -> None:
    model, a = small(conditioning="tokens").eval(), inputs()
    condition = model.condition(a["pose"], a["source"], a["latents"])
    given = a["latents"], a["map"], a["source_map"]
    out = model(a["x"], a["t"], condition, model.token_conditions(*given))
    for changed in range(3):
        others = [part.flip(0) if i == changed else part for i, part in enumerate(given)]
        other = model(a["x"], a["t"], condition, model.token_conditions(*others))
        assert not torch.allclose(other, out, atol=1e-3)


@pytest.mark.parametrize("backbone", ["plain", "mdtv2"])
@torch.no_grad()
def test_a_dropped_row_keeps_nothing_of_its_conditions(backbone: str) -> None:
    model, a = small(conditioning="tokens", backbone=backbone).eval(), inputs()
    condition = model.condition(a["pose"], a["source"], a["latents"])
    given = a["latents"], a["map"], a["source_map"]
    tokens = model.token_conditions(*given)
    out = model(a["x"], a["t"], condition, tokens)
    keep = torch.tensor([True, False, True])
    dropped = model(a["x"], a["t"], condition, tokens, keep)
    swapped = model.token_conditions(*(part.flip(0).roll(1, 0) for part in given))
    again = model(a["x"], a["t"], condition.flip(0).roll(1, 0), swapped, keep)
    torch.testing.assert_close(dropped[1], again[1])
    torch.testing.assert_close(dropped[0], out[0])


@pytest.mark.parametrize("conditioning", ["vector", "tokens"])
@torch.no_grad()
def test_without_masked_tokens_the_masked_pass_is_the_unmasked_one(conditioning: str) -> None:
    model, a = small(conditioning=conditioning).eval(), inputs()
    condition = model.condition(a["pose"], a["source"], a["latents"])
    tokens = None
    if conditioning == "tokens":
        tokens = model.token_conditions(a["latents"], a["map"], a["source_map"])
    mask = Mask.random(a["token_noise"], 0.0)
    out = model(a["x"], a["t"], condition, tokens)
    masked = model.forward_masked(a["x"], a["t"], condition, a["latents"], mask, tokens)
    torch.testing.assert_close(masked, out, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_save_and_load(tmp_path: Path) -> None:
    model, a = small(conditioning="tokens").eval(), inputs()
    model.save_pretrained(tmp_path)
    again = XMDPT.from_pretrained(str(tmp_path)).eval()
    condition = model.condition(a["pose"], a["source"], a["latents"])
    assert torch.equal(again.condition(a["pose"], a["source"], a["latents"]), condition)
    tokens = model.token_conditions(a["latents"], a["map"], a["source_map"])
    out = model(a["x"], a["t"], condition, tokens)
    assert torch.equal(again(a["x"], a["t"], condition, tokens), out)


def test_without_mipnet_there_is_no_masked_pass() -> None:
    model, a = small(predictor="none"), inputs()
    condition = model.condition(a["pose"], a["source"], a["latents"])
    with pytest.raises(ConfigError, match="without MIPNet"):
        model.forward_masked(
            a["x"], a["t"], condition, a["latents"], Mask.random(a["token_noise"], 0.3)
        )


@pytest.mark.parametrize("order", ["self", "cross", "cross-self", "self-cross"])
@torch.no_grad()
def test_the_predictor_is_its_blocks_one_after_the_other(order: str) -> None:
    """On all tokens, in the order of the name; then the kept ones are put back."""
    model, a = small(predictor=order).eval(), inputs()
    net = model.mipnet
    assert net is not None
    mask = Mask.random(a["token_noise"], 0.3)
    rng = torch.Generator().manual_seed(3)
    kept = torch.randn(3, mask.ids_keep.shape[1], 32, generator=rng)
    source, c = (torch.randn(*shape, generator=rng) for shape in ((3, 16, 32), (3, 32)))
    filled = net.mask_token.repeat(3, 16, 1)
    for row in range(3):
        filled[row, mask.ids_keep[row]] = kept[row]
    x = filled = filled + model.tdnet.decoder_pos_embed
    for kind in order.split("-"):
        x = (
            net.sideblocks[0](x, c)
            if kind == "self"
            else net.sideblocks_cross[0](x, c, None, source)
        )
    x = x.clone()
    for row in range(3):
        x[row, mask.ids_keep[row]] = filled[row, mask.ids_keep[row]]
    found = net(kept, mask, model.tdnet.decoder_pos_embed, c, source)
    torch.testing.assert_close(found, x)


@torch.no_grad()
def test_mdtv2_skips_last_in_first_out_and_the_input_before_every_decoder_block() -> None:
    """Depth 6, 2 decoder blocks: 0, 1 plain; 2 takes 1's output, 3 takes 0's; 4, 5 the input."""
    model, a = small(depth=6, backbone="mdtv2").eval(), inputs()
    net = model.tdnet
    condition = model.condition(a["pose"], a["source"], a["latents"])
    c = net.t_embedder(a["t"]) + condition
    first = x = net.embed(a["x"])
    outs: list[Tensor] = []
    for i in range(6):
        assert (net.blocks[i].skip_linear is not None) == (i >= 2)
        skip = outs[{2: 1, 3: 0}[i]] if i in (2, 3) else None
        if i == 4:
            x = x + net.decoder_pos_embed
        x = net.blocks[i](x, c, None, None, first if i >= 4 else skip)
        outs.append(x)
    expected = net.unpatchify(net.final_layer(x, c))
    torch.testing.assert_close(model(a["x"], a["t"], condition), expected)


def test_aggregations_by_their_formulas() -> None:
    a = inputs()
    for aggregation in ("add", "mlp", "concat"):
        model = small(aggregation=aggregation)
        net = model.canet
        parts = [
            net.conv1d_local(model.tdnet.embed(a["latents"])),
            net.conv1d_global(net.mlp_dino_img(a["source"])),
            net.conv1d_pose(net.mlp_dino_pose(a["pose"])),
        ]
        if aggregation == "add":
            joined = parts[0] + parts[1] + parts[2]
        elif aggregation == "mlp":
            weight, bias = net.join[0].weight, net.join[0].bias
            joined = torch.nn.functional.gelu(torch.cat(parts, dim=2) @ weight.T + bias)
        else:
            weights = net.join.weight[0, :, 0]
            joined = sum(w * p for w, p in zip(weights, parts, strict=True)) + net.join.bias
        torch.testing.assert_close(
            model.condition(a["pose"], a["source"], a["latents"]), net.mlp_final(joined.squeeze(1))
        )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"conditioning": "words"}, "conditioning"),
        ({"heads": 5}, "heads 5"),
        ({"mask_ratio": 1.0}, "mask_ratio"),
        ({"decode_layers": 4}, "decode_layers"),
        ({"predictor": "both"}, "predictor"),
        ({"condition_parts": "local+colour"}, "condition_parts"),
        ({"condition_parts": "local+local"}, "condition_parts"),
        ({"aggregation": "max"}, "aggregation"),
        ({"backbone": "unet"}, "backbone"),
        ({"backbone": "mdtv2", "depth": 5}, "must be even"),
        ({"repa_width": 8, "repa_layer": 3}, "repa_layer"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        XMDPT(**{**SMALL, **change})  # type: ignore[arg-type]


def test_wrong_inputs_are_refused() -> None:
    model, a = small(), inputs()
    condition = model.condition(a["pose"], a["source"], a["latents"])
    with pytest.raises(ConfigError, match=r"\(3, 4, 16, 16\)"):
        model(torch.zeros(3, 4, 16, 16), a["t"], condition)
    with pytest.raises(ConfigError, match="vector only"):
        model.token_conditions(a["latents"], a["map"], a["source_map"])
    with pytest.raises(ConfigError, match="does not fit"):
        small(conditioning="tokens")(a["x"], a["t"], condition)
    with pytest.raises(ConfigError, match="does not lie on the latent grid"):
        small(conditioning="tokens").token_conditions(
            a["latents"], torch.zeros(3, 3, 64, 64), a["source_map"]
        )


def test_relative_position_index_by_its_definition() -> None:
    """(dy + s - 1)(2s - 1) + (dx + s - 1), d = query minus key."""
    side = 3
    index = relative_position_index(side)
    for q in range(9):
        for k in range(9):
            dy, dx = q // side - k // side, q % side - k % side
            assert index[q, k] == (dy + side - 1) * (2 * side - 1) + dx + side - 1


def test_timestep_features_by_formula() -> None:
    features = timestep_features(torch.tensor([7]))[0].double()
    for i in (0, 1, 64, 127):
        angle = torch.tensor(7 * 10000 ** (-i / 128), dtype=torch.float64)
        assert features[i] == pytest.approx(float(angle.cos()), abs=1e-5)
        assert features[128 + i] == pytest.approx(float(angle.sin()), abs=1e-5)


def test_position_embedding_tells_column_then_row() -> None:
    table = sincos_position_embedding(8, 4)[0].reshape(4, 4, 8)
    assert torch.equal(table[0, :, :4], table[3, :, :4])  # first half: column only
    assert torch.equal(table[:, 0, 4:], table[:, 3, 4:])  # second half: row only
    assert float(table[0, 1, 0]) == pytest.approx(0.841471, abs=1e-5)  # sin 1
