"""The paper's Table 2, MDTv2 and the token forms: each does what its name says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_xmdpt import SMALL, inputs, small
from torch import Tensor

from xmdpt_cli.errors import ConfigError
from xmdpt_cli.model import XMDPT, Context, Mask
from xmdpt_cli.model.attention import Stream

FORMS = [
    {"token_source_by": "cross"},
    {"token_source_by": "sequence"},
    {"token_source": "dino"},
    {"token_source": "both", "token_source_by": "cross"},
    {"token_source": "none"},
    {"token_source": "none", "token_source_by": "cross"},
    {"token_source": "none", "token_source_by": "sequence"},
    {"token_pose": "concat"},
    {"token_pose": "keys"},
    {"token_pose": "keys", "token_source_by": "sequence"},
    {"token_pose": "none"},
    {"vector": False},
]
VARIANTS: list[dict[str, Any]] = [
    *({"predictor": name} for name in ("self", "cross", "cross-self")),
    *({"condition_parts": parts} for parts in ("local", "global", "pose", "global+pose")),
    {"aggregation": "mlp"},
    {"aggregation": "concat"},
    {"backbone": "mdtv2"},
    {"align_width": 20, "align_block": 2},
    *({"conditioning": "tokens", **form} for form in FORMS),
    {"conditioning": "tokens", "backbone": "mdtv2"},
]


def conditions(model: XMDPT, a: dict[str, Tensor]) -> tuple[Tensor, Context | None]:
    condition = model.condition(a["pose"], a["source"], a["latents"])
    if model.conditioning == "vector":
        return condition, None
    return condition, model.context(a["latents"], a["map"], a["source_map"], a["source"])


def name(variant: dict[str, Any]) -> str:
    return "-".join(str(v) for v in variant.values())


@pytest.mark.parametrize("variant", VARIANTS, ids=name)
def test_every_variant_trains_all_it_holds(variant: dict[str, Any]) -> None:
    """Both passes at once are the two apart, and no weight is left without a gradient."""
    model, a = small(**variant), inputs()
    condition, context = conditions(model, a)
    mask = Mask.draw(a["token_noise"], 0.3)
    both = model.passes(a["x"], a["t"], condition, condition, a["latents"], mask, context)
    alone = model(a["x"], a["t"], condition, context)
    masked = model.forward_masked(
        a["x"], a["t"], condition, a["latents"], a["token_noise"], context
    )
    torch.testing.assert_close(both.out, alone, rtol=1e-4, atol=1e-5)
    assert both.masked is not None
    torch.testing.assert_close(both.masked, masked, rtol=1e-4, atol=1e-5)
    loss = both.out.square().mean() + both.masked.square().mean()
    if "align_width" in variant:
        assert both.aligned is not None
        assert both.aligned.shape == (3, 16, 20)
        loss = loss + both.aligned.square().mean()
    loss.backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert not without


@pytest.mark.parametrize("variant", [v for v in VARIANTS if "conditioning" in v], ids=name)
@torch.no_grad()
def test_a_dropped_row_keeps_nothing_of_its_conditions(variant: dict[str, Any]) -> None:
    model, a = small(**variant).eval(), inputs()
    condition, context = conditions(model, a)
    out = model(a["x"], a["t"], condition, context)
    flipped = {k: v.flip(0) if k not in ("x", "t") else v for k, v in a.items()}
    other_condition, other = conditions(model, flipped)
    assert not torch.allclose(model(a["x"], a["t"], other_condition, other)[0], out[0], atol=1e-3)
    condition[1] = 0
    again = model(a["x"], a["t"], condition, context)
    torch.testing.assert_close(again[1], model(a["x"], a["t"], condition, other)[1])
    torch.testing.assert_close(again[0], out[0])


@pytest.mark.parametrize(
    ("form", "reads"),
    [
        ({"token_source": "dino"}, {"source", "map"}),
        ({"token_source": "none"}, {"map"}),
        ({"token_pose": "none"}, {"latents"}),
        ({"token_source": "both"}, {"source", "latents", "map", "source_map"}),
    ],
)
@torch.no_grad()
def test_a_form_reads_what_it_names(form: dict[str, str], reads: set[str]) -> None:
    """Without the vector nothing else reaches the blocks."""
    model, a = small("tokens", vector=False, **form).eval(), inputs()
    condition, context = conditions(model, a)
    out = model(a["x"], a["t"], condition, context)
    for key in ("source", "latents", "map", "source_map"):
        _, other = conditions(model, {**a, key: a[key].flip(0)})
        moved = not torch.allclose(model(a["x"], a["t"], condition, other), out, atol=1e-4)
        assert moved == (key in reads), key


@pytest.mark.parametrize("order", ["self", "cross", "cross-self", "self-cross"])
@torch.no_grad()
def test_the_predictor_is_its_blocks_one_after_the_other(order: str) -> None:
    """Computed on all tokens, in the order of the name, then the kept ones put back."""
    model, a = small(predictor=order).eval(), inputs()
    net = model.mipnet
    assert net is not None
    mask = Mask.draw(a["token_noise"], 0.3)
    rng = torch.Generator().manual_seed(3)
    kept = torch.randn(3, mask.kept.shape[1], 32, generator=rng)
    source, c = (torch.randn(*shape, generator=rng) for shape in ((3, 16, 32), (1, 3, 32)))
    whole = net.mask_token.repeat(3, 16, 1)
    for row in range(3):
        whole[row, mask.kept[row]] = kept[row]
    x = whole = whole + model.tdnet.decoder_position
    for number, kind in enumerate(order.split("-")):
        bias = net.bias()[number]
        if kind == "self":
            (x,) = net.self_block(c, Stream(x, bias))
        else:
            (x,) = net.cross_block(c, Stream(x, bias, source))
    for row in range(3):
        x[row, mask.kept[row]] = whole[row, mask.kept[row]]
    found = net(kept, mask, model.tdnet.decoder_position, source, c)
    torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_mdtv2_skips_last_in_first_out_and_the_input_before_every_decoder_block() -> None:
    """Depth 6, 2 decoder blocks: 0, 1 plain; 2 takes 1's output, 3 takes 0's; 4, 5 the input."""
    model, a = small(depth=6, backbone="mdtv2").eval(), inputs()
    net = model.tdnet
    condition = model.condition(a["pose"], a["source"], a["latents"])
    c, bias = (net.timestep(a["t"]) + condition)[None], net.bias()
    first = x = net.embed(a["x"])
    outs = []
    for i in range(6):
        before = {2: 1, 3: 0}.get(i)
        if i == 4:
            x = x + net.decoder_position
        if before is not None or i >= 4:
            skip = first if before is None else outs[before]
            x = net.blocks[i].skip(torch.cat([x, skip], dim=2))
        assert hasattr(net.blocks[i], "skip") == (i >= 2)
        (x,) = _plain(net.blocks[i], c, x, bias[i])
        outs.append(x)
    expected = net.unpatchify(net.final(x, net.final.modulation(c[0])))
    torch.testing.assert_close(model(a["x"], a["t"], condition), expected)


def _plain(block: Any, c: Tensor, x: Tensor, bias: Tensor) -> list[Tensor]:
    """The block without its skip, which was applied already."""
    found: list[Tensor] = block(c, Stream(x, bias))
    return found


def test_aggregations_by_their_formulas() -> None:
    a = inputs()
    for aggregation in ("add", "mlp", "concat"):
        model = small(aggregation=aggregation)
        net = model.canet
        assert net is not None
        embedded = model.tdnet.embed(a["latents"])
        parts = [
            net.local_conv(embedded),
            net.global_conv(net.source_mlp(a["source"])),
            net.pose_conv(net.pose_mlp(a["pose"])),
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
            model.condition(a["pose"], a["source"], a["latents"]), net.final(joined.squeeze(1))
        )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"predictor": "both"}, "predictor"),
        ({"condition_parts": "local+colour"}, "condition parts"),
        ({"condition_parts": "local+local"}, "condition parts"),
        ({"aggregation": "max"}, "aggregation"),
        ({"backbone": "unet"}, "backbone"),
        ({"backbone": "mdtv2", "depth": 5}, "must be even"),
        ({"conditioning": "tokens", "token_pose": "above"}, "token pose"),
        ({"conditioning": "tokens", "token_source": "none", "token_pose": "none"}, "no tokens"),
        ({"vector": False}, "leaves nothing"),
        ({"align_width": 8, "align_block": 3}, "align_block"),
    ],
)
def test_impossible_variants_are_refused(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        XMDPT(**{**SMALL, **change})
