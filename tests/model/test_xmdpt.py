"""The public model: sizes, shapes, both kinds of conditioning, saving, conversion errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.model import XMDPT
from xmdpt_cli.model.convert import from_published
from xmdpt_cli.model.layers import sincos_position_embedding, timestep_features
from xmdpt_cli.model.relative_bias import RelativeBias, relative_index

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


def small(conditioning: str = "vector", **more: object) -> XMDPT:
    torch.manual_seed(0)
    model = XMDPT(**{**SMALL, "conditioning": conditioning, **more})  # type: ignore[arg-type]
    for name, parameter in model.named_parameters():  # adaLN-Zero starts with nothing to see
        if not name.endswith("norm.weight"):
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def inputs(n: int = 3) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(1)
    return {
        "x": torch.randn(n, 4, 8, 8, generator=rng),
        "t": torch.tensor([0, 500, 999])[:n],
        "pose": torch.randn(n, 5, 12, generator=rng),
        "source": torch.randn(n, 7, 20, generator=rng),
        "latents": torch.randn(n, 4, 8, 8, generator=rng),
        "map": torch.rand(n, 3, 32, 32, generator=rng),
        "source_map": torch.rand(n, 3, 32, 32, generator=rng),
        "token_noise": torch.rand(n, 16, generator=rng),
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
        counts = XMDPT.from_size(size).parameter_counts()
    assert counts["training"] == training
    assert counts["paper"] == paper
    assert paper < counts["inference"] < training


def test_512_px_follows_the_grid() -> None:
    with torch.device("meta"):
        model = XMDPT.from_size("S", latent_size=64)
    assert model.tdnet.position.shape == (1, 1024, 384)
    assert model.canet.local_conv[0].weight.shape == (1, 1024, 1)
    assert model.canet.pose_conv[0].weight.shape == (1, 257, 1)  # DINO inputs stay at 224 px
    assert model.tdnet.bias.table.shape == (12 * 6, (2 * 32 - 1) ** 2 + 3)


@torch.no_grad()
def test_vector_shapes_and_the_zero_row() -> None:
    model, a = small().eval(), inputs()
    condition = model.condition(a["pose"], a["source"], a["latents"])
    assert condition.shape == (3, 32)
    out = model(a["x"], a["t"], condition)
    assert out.shape == (3, 8, 8, 8)
    masked = model.forward_masked(a["x"], a["t"], condition, a["latents"], a["token_noise"])
    assert masked.shape == out.shape
    condition[1] = 0
    dropped = model(a["x"], a["t"], condition)
    torch.testing.assert_close(dropped[0], out[0])
    assert not torch.allclose(dropped[1], out[1], atol=1e-3)


@torch.no_grad()
def test_bfloat16_tokens_are_taken_as_they_are_stored() -> None:
    model, a = small().eval(), inputs()
    pose, source = a["pose"].bfloat16(), a["source"].bfloat16()
    torch.testing.assert_close(
        model.condition(pose, source, a["latents"]),
        model.condition(pose.float(), source.float(), a["latents"]),
    )


@torch.no_grad()
def test_tokens_conditioning_reads_source_and_pose() -> None:
    model, a = small("tokens").eval(), inputs()
    condition = model.condition(a["pose"], a["source"], a["latents"])
    context = model.context(a["latents"], a["map"], a["source_map"])
    out = model(a["x"], a["t"], condition, context=context)
    for other in (
        model.context(a["latents"].flip(0), a["map"], a["source_map"]),
        model.context(a["latents"], a["map"].flip(0), a["source_map"]),
        model.context(a["latents"], a["map"], a["source_map"].flip(0)),
    ):
        assert not torch.allclose(model(a["x"], a["t"], condition, context=other), out, atol=1e-3)
    # a zero condition row drops the context too: nothing of the conditions is left in it
    condition[1] = 0
    dropped = model(a["x"], a["t"], condition, context=context)
    swapped = model.context(a["latents"].flip(0), a["map"].flip(0), a["source_map"].flip(0))
    again = model(a["x"], a["t"], condition, context=swapped)
    torch.testing.assert_close(dropped[1], again[1])
    torch.testing.assert_close(dropped[0], out[0])


def test_tokens_masked_pass_trains_everything_it_uses() -> None:
    model, a = small("tokens"), inputs()
    condition = model.condition(a["pose"], a["source"], a["latents"])
    context = model.context(a["latents"], a["map"], a["source_map"])
    out = model.forward_masked(
        a["x"], a["t"], condition, a["latents"], a["token_noise"], context=context
    )
    out.square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("conditioning", ["vector", "tokens"])
@torch.no_grad()
def test_keeping_every_token_shows_the_kept_ones_to_all(conditioning: str) -> None:
    """With r = 0 MIPNet replaces nothing: the masked pass is the unmasked one."""
    model, a = small(conditioning, mask_ratio=0.0).eval(), inputs()
    condition = model.condition(a["pose"], a["source"], a["latents"])
    extra = {}
    if conditioning == "tokens":
        extra = {"context": model.context(a["latents"], a["map"], a["source_map"])}
    out = model(a["x"], a["t"], condition, **extra)
    masked = model.forward_masked(
        a["x"], a["t"], condition, a["latents"], a["token_noise"], **extra
    )
    torch.testing.assert_close(masked, out, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_save_and_load(tmp_path: Path) -> None:
    model, a = small("tokens").eval(), inputs()
    model.save_pretrained(tmp_path)
    again = XMDPT.from_pretrained(str(tmp_path)).eval()
    condition = model.condition(a["pose"], a["source"], a["latents"])
    assert torch.equal(again.condition(a["pose"], a["source"], a["latents"]), condition)
    context = model.context(a["latents"], a["map"], a["source_map"])
    out = model(a["x"], a["t"], condition, context=context)
    assert torch.equal(again(a["x"], a["t"], condition, context=context), out)


def test_without_mipnet_there_is_no_masked_pass() -> None:
    model, a = small(predictor="none"), inputs()
    condition = model.condition(a["pose"], a["source"], a["latents"])
    with pytest.raises(ConfigError, match="without MIPNet"):
        model.forward_masked(a["x"], a["t"], condition, a["latents"], a["token_noise"])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"conditioning": "words"}, "conditioning"),
        ({"heads": 5}, "heads 5"),
        ({"mask_ratio": 1.0}, "mask_ratio"),
        ({"decode_layers": 4}, "decode_layers"),
    ],
)
def test_impossible_sizes_are_refused(change: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        XMDPT(**{**SMALL, **change})  # type: ignore[arg-type]


def test_wrong_resolution_and_wrong_context_are_refused() -> None:
    model, a = small(), inputs()
    condition = model.condition(a["pose"], a["source"], a["latents"])
    with pytest.raises(ConfigError, match=r"\(3, 4, 16, 16\)"):
        model(torch.zeros(3, 4, 16, 16), a["t"], condition)
    with pytest.raises(ConfigError, match="vector only"):
        model.context(a["latents"], a["map"], a["source_map"])
    with pytest.raises(ConfigError, match="does not fit"):
        small("tokens")(a["x"], a["t"], condition)
    with pytest.raises(ConfigError, match="does not lie on the latent grid"):
        small("tokens").context(a["latents"], torch.zeros(3, 3, 64, 64), a["source_map"])


def test_relative_index_by_its_definition() -> None:
    """(dy + s - 1)(2s - 1) + (dx + s - 1), d = query minus key."""
    side = 3
    index = relative_index(side)
    for q in range(9):
        for k in range(9):
            dy, dx = q // side - k // side, q % side - k % side
            assert index[q, k] == (dy + side - 1) * (2 * side - 1) + dx + side - 1


def test_the_bias_is_cached_until_its_table_changes() -> None:
    bias = RelativeBias(3, 2, 1).eval()
    with torch.no_grad():
        first = bias()
        assert bias() is first
        bias.table.add_(1.0)
        assert torch.equal(bias(), torch.ones(1, 2, 9, 9))
        bias.load_state_dict({"table": torch.full((2, 28), 2.0)})
        assert torch.equal(bias(), torch.full((1, 2, 9, 9), 2.0))
    assert bias().requires_grad


def test_a_fused_optimizer_step_is_seen_by_the_pass_without_gradient() -> None:
    """Fused AdamW changes weights in place without raising their version."""
    bias = RelativeBias(3, 2, 2)
    optimizer = torch.optim.AdamW(bias.parameters(), lr=0.1, weight_decay=0.0, fused=True)
    with torch.no_grad():
        bias()
    bias().sum().backward()
    optimizer.step()
    with torch.no_grad():
        assert torch.equal(bias(), bias.table[:, bias.index].unflatten(0, (2, 2)))
        assert float(bias().abs().min()) > 0.05


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


def test_conversion_names_what_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(XmdptError, match="not a published"):
        from_published({"weight": torch.zeros(1)})
    with pytest.raises(XmdptError, match="no such checkpoint"):
        from_published(tmp_path / "ema.pt")
    (tmp_path / "broken.pt").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(XmdptError, match=r"broken\.pt is cut"):
        from_published(tmp_path / "broken.pt")


def test_a_pickle_that_wants_to_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("code ran",)

    path = tmp_path / "evil.pt"
    torch.save({"x_embedder.proj.weight": Evil()}, path)
    with pytest.raises(XmdptError, match=r"evil\.pt"):
        from_published(path)
