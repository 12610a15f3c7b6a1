"""``model/fast.py`` and ``denoiser.py`` against ``model/xmdpt.py``: outputs, gradients, guided
predictions.

In float32 outputs agree to 1e-6 and the gradients of each layer, weight and bias taken together, to
1e-5 (2-norm of the difference over the 2-norm). A bias alone can be further off: that of a
convolution over tokens is one number, a sum of D gradients that nearly cancel. In float64 the
largest error is compared, of outputs to 1e-12 and of the gradient of every parameter to 1e-9.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_xmdpt import SMALL, VARIANTS, inputs, name, small
from torch import Tensor, nn

from xmdpt_cli.diffusion import Guided
from xmdpt_cli.errors import ConfigError
from xmdpt_cli.model import XMDPT, Mask, TokenConditions, denoiser, kernels
from xmdpt_cli.model.denoiser import Denoiser
from xmdpt_cli.model.fast import training_passes
from xmdpt_cli.model.initialisation import initialise

TIMESTEPS, SCALES = (999, 500, 0), (2.0, 1.0, 1.5)
#: beside every variant of the small model; width and heads of the last are cut, not its tokens
SHAPES: dict[str, dict[str, Any]] = {
    "S": {"depth": 12, "width": 384, "heads": 6},
    "tiny": {"depth": 4, "width": 128, "heads": 4, "latent_size": 16, "vae_factor": 4},
    "64 x 64 latents": {"depth": 3, "width": 32, "heads": 2, "latent_size": 64},
}
KEEP, KEEP_MASKED = torch.tensor([True, False, True]), torch.tensor([False, True, True])


def assert_close(found: Tensor, expected: Tensor, limit: float, what: str = "") -> None:
    error = float((found - expected).detach().abs().max() / expected.detach().abs().max())
    assert error < limit, f"{what}: {error}"


def conditions(model: XMDPT, a: dict[str, Tensor]) -> tuple[Tensor, TokenConditions | None]:
    condition = model.condition(a["pose"], a["source"], a["latents"])
    if model.conditioning == "vector":
        return condition, None
    return condition, model.token_conditions(a["latents"], a["map"], a["source_map"])


def reference(model: XMDPT, a: dict[str, Tensor], mask: Mask) -> list[Tensor]:
    """Both outputs, and REPA's projection of the unmasked pass's hidden tokens."""
    hidden: list[Tensor] = []
    block = model.tdnet.blocks[max(0, model.repa_layer - 1)]
    condition, tokens = conditions(model, a)
    handle = block.register_forward_hook(lambda _module, _given, out: hidden.append(out))
    keep, keep_masked = KEEP[: len(condition)], KEEP_MASKED[: len(condition)]
    out = model(a["x"], a["t"], condition, tokens, keep)
    handle.remove()
    latents = a["masked_x"], a["t"], condition, a["latents"]
    outs = [out, model.forward_masked(*latents, mask, tokens, keep_masked)]
    return outs if model.repa_projector is None else [*outs, model.repa_projector(hidden[0])]


def computed_fast(model: XMDPT, a: dict[str, Tensor], mask: Mask) -> list[Tensor]:
    condition, tokens = conditions(model, a)
    keep, keep_masked = KEEP[: len(condition)], KEEP_MASKED[: len(condition)]
    passes = training_passes(
        model, a["x"], a["t"], condition, tokens=tokens, keep=keep, mask=mask,
        masked_latents=a["masked_x"], keep_masked=keep_masked, source_latents=a["latents"],
    )  # fmt: skip
    assert passes.flows is None
    return [part for part in passes if part is not None]


def gradients(model: XMDPT, outs: list[Tensor]) -> dict[str, Tensor]:
    """Of a loss in which every output counts in every place."""
    rng = torch.Generator().manual_seed(5)
    loss = sum((out * torch.randn(out.shape, generator=rng)).sum() for out in outs)
    assert isinstance(loss, Tensor)
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    found = {name: p.grad for name, p in model.named_parameters()}
    missing = [name for name, grad in found.items() if grad is None or not bool(grad.any())]
    assert not missing  # no weight is left out
    return {name: grad.clone() for name, grad in found.items() if grad is not None}


@pytest.mark.parametrize("variant", [{}, *VARIANTS], ids=name)
def test_training_passes_of_every_variant(variant: dict[str, Any]) -> None:
    check(small(**variant), inputs(), 0.3)


@pytest.mark.parametrize("mask_ratio", [0.0, 0.75])
@pytest.mark.parametrize("predictor", ["self", "cross", "cross-self", "self-cross"])
def test_training_passes_of_every_mask_ratio(predictor: str, mask_ratio: float) -> None:
    check(small(predictor=predictor), inputs(), mask_ratio)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("variant", [{}, {"conditioning": "tokens", "backbone": "mdtv2"}], ids=name)
def test_training_passes_of_every_shape(shape: str, variant: dict[str, Any]) -> None:
    settings = {**SMALL, "latent_size": 32, "vae_factor": 4, **SHAPES[shape], **variant}
    if variant:
        settings["decode_layers"] = 2 - settings["depth"] % 2
    model = small(**settings)
    initialise(model)
    for parameter in model.parameters():  # adaLN-Zero: no gradient would pass
        if parameter.dim() > 1 and not bool(parameter.any()):
            nn.init.normal_(parameter, std=0.02)
    check(model, inputs(2, settings["latent_size"]), 0.3, in_double=shape == "tiny")


def check(model: XMDPT, a: dict[str, Tensor], mask_ratio: float, in_double: bool = True) -> None:
    mask = Mask.random(a["token_noise"], mask_ratio)
    if not mask_ratio:  # MIPNet has nothing to predict, hence no gradient
        with torch.no_grad():
            compare(computed_fast(model, a, mask), reference(model, a, mask))
        return
    outs = reference(model, a, mask)
    expected = gradients(model, outs)
    kernels.prepare(model)  # as training does
    found = computed_fast(model, a, mask)
    compare(found, outs)
    grads = by_layer(gradients(model, found))
    for layer, grad in by_layer(expected).items():
        assert relative_error(grads[layer], grad) < 1e-5, layer
    if not in_double:
        return
    kernels.restore(model.double())
    a = {k: v.double() if v.is_floating_point() else v for k, v in a.items()}
    outs = reference(model, a, mask)
    expected = gradients(model, outs)
    kernels.prepare(model)
    found = computed_fast(model, a, mask)
    for one, other in zip(found, outs, strict=True):
        assert_close(one, other, 1e-12)
    for weight, grad in gradients(model, found).items():
        assert_close(grad, expected[weight], 1e-9, weight)


def by_layer(grads: dict[str, Tensor]) -> dict[str, Tensor]:
    layers: dict[str, list[Tensor]] = {}
    for weight, grad in grads.items():
        layers.setdefault(weight.rpartition(".")[0], []).append(grad.flatten())
    return {layer: torch.cat(parts) for layer, parts in layers.items()}


def compare(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert relative_error(one, other) < 1e-6


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().norm() / expected.detach().norm())


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("variant", [{}, {"positions": "rope", "qk_norm": True}], ids=name)
@torch.no_grad()
def test_flows_are_those_of_the_attention_to_the_source(
    variant: dict[str, Any], masked: bool
) -> None:
    model, a = small(conditioning="tokens", **variant), inputs()
    condition, tokens = conditions(model, a)
    products: list[tuple[Tensor, ...]] = []
    for block in model.tdnet.blocks:
        block.attn.sdpa.register_forward_pre_hook(lambda _, given: products.append(given[:2]))
    model(a["x"], a["t"], condition, tokens)
    axis = torch.tensor([-0.75, -0.25, 0.25, 0.75])  # centres of four tokens
    places = torch.stack([axis.repeat(4), axis.repeat_interleave(4)], dim=1)  # (x, y)
    expected = []
    for q, k in products[:2]:
        scores = q @ k[:, :, 16:].transpose(2, 3) / (q.shape[3] ** 0.5 * 2)
        expected.append(scores.softmax(dim=3).mean(dim=1) @ places)
    mask = {
        "mask": Mask.random(a["token_noise"], 0.3), "masked_latents": a["masked_x"],
        "source_latents": a["latents"],
    }  # fmt: skip
    passes = training_passes(
        model,
        a["x"],
        a["t"],
        condition,
        tokens=tokens,
        flow_blocks=[0, 1],
        **(mask if masked else {}),  # type: ignore[arg-type]
    )
    assert passes.flows is not None
    torch.testing.assert_close(passes.flows, torch.stack(expected), rtol=1e-5, atol=1e-5)


def test_without_a_mask_there_is_one_pass() -> None:
    model, a = small(predictor="none"), inputs()
    condition, _ = conditions(model, a)
    passes = training_passes(model, a["x"], a["t"], condition, keep=KEEP)
    assert_close(passes.out, model(a["x"], a["t"], condition, keep=KEEP), 1e-6)
    assert passes.masked_out is None
    assert passes.repa is None


@pytest.mark.parametrize("variant", [{}, *VARIANTS], ids=name)
@torch.no_grad()
def test_denoiser_is_the_guided_model(variant: dict[str, Any]) -> None:
    model, a = small(**variant).eval(), inputs()
    condition, tokens = conditions(model, a)
    both = None if tokens is None else TokenConditions(*(torch.cat([p, p]) for p in tokens))

    def network(x: Tensor, t: Tensor, c: Tensor, keep: Tensor) -> Tensor:
        return model(x, t, c, tokens if len(x) == len(condition) else both, keep)

    expected = Guided(network).denoiser(condition, TIMESTEPS, SCALES)
    found = model.denoiser(condition, TIMESTEPS, SCALES, tokens)
    for i in range(len(TIMESTEPS)):
        assert_close(found(a["x"], i), expected(a["x"], i), 2e-6)  # guidance doubles rounding


@torch.no_grad()
def test_a_cache_evaluates_the_unconditional_branch_in_every_second_step() -> None:
    model, a = small(conditioning="tokens").eval(), inputs()
    condition, tokens = conditions(model, a)
    assert tokens is not None
    both = TokenConditions(*(torch.cat([part, part]) for part in tokens))

    def network(x: Tensor, t: Tensor, c: Tensor, keep: Tensor) -> Tensor:
        return model(x, t, c, tokens if len(x) == len(condition) else both, keep)

    times, scales = (999, 700, 500, 300, 0), (2.0, 2.0, 2.0, 2.0, 1.0)
    expected = Guided(network).denoiser(condition, times, scales, cache=2)
    found = model.denoiser(condition, times, scales, tokens, cache=2)
    alone = model.denoiser(
        condition[:1], times, scales, TokenConditions(*(part[:1] for part in tokens)), cache=2
    )
    rows: list[int] = []
    for i in range(len(times)):
        with_hook = model.tdnet.x_embedder.register_forward_pre_hook(
            lambda _module, given: rows.append(len(given[0]))
        )
        out = found(a["x"], i)
        with_hook.remove()
        assert_close(out, expected(a["x"], i), 1e-5)
        assert_close(alone(a["x"][:1], i), out[:1], 1e-5)  # an image does not depend on its batch
    assert rows == [6, 3, 6, 3, 3]


@pytest.mark.parametrize("variant", [{}, {"positions": "rope", "qk_norm": True}], ids=name)
def test_steps_compile_as_one_graph(
    monkeypatch: pytest.MonkeyPatch, variant: dict[str, Any]
) -> None:
    """Else no step would be a CUDA graph."""
    model, a = small(conditioning="tokens", **variant).eval(), inputs()

    @torch.no_grad()
    def steps() -> list[Tensor]:
        condition, tokens = conditions(model, a)
        denoise = model.denoiser(condition, (999, 500), (2.0, 2.0), tokens, cache=2)
        return [denoise(a["x"], i) for i in range(2)]

    expected = steps()
    compiled = torch.compile(denoiser.predict, backend="eager", dynamic=False, fullgraph=True)
    monkeypatch.setattr(model, "predict", compiled)
    torch.testing.assert_close(steps(), expected)


@pytest.mark.parametrize("conditioning", ["vector", "tokens"])
@torch.no_grad()
def test_a_model_with_the_scale_as_an_input_is_evaluated_once(conditioning: str) -> None:
    model, a = small(conditioning=conditioning, guidance_embed=True).eval(), inputs()
    assert model.guidance_embed is not None
    model.guidance_embed.linear.weight.normal_(generator=torch.Generator().manual_seed(0))
    condition, tokens = conditions(model, a)
    rows: list[int] = []
    model.tdnet.x_embedder.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    denoise = model.denoiser(condition, TIMESTEPS, SCALES, tokens)
    found = [denoise(a["x"], i) for i in range(len(TIMESTEPS))]
    assert rows == [3] * len(TIMESTEPS)
    for i, (t, scale) in enumerate(zip(TIMESTEPS, SCALES, strict=True)):
        times, scales = torch.full((3,), t), torch.full((3,), scale)
        assert_close(found[i], model(a["x"], times, condition, tokens, None, scales), 2e-6)
        other = model(a["x"], times, condition, tokens, None, scales + 0.5)
        assert not torch.allclose(found[i], other, atol=1e-3)
    with pytest.raises(ConfigError, match="needs a guidance scale"):
        model(a["x"], a["t"], condition, tokens)


@torch.no_grad()
def test_an_untrained_scale_input_changes_nothing() -> None:
    model, a = small().eval(), inputs()
    student = XMDPT(**SMALL, guidance_embed=True).eval()
    left = student.load_state_dict(model.state_dict(), strict=False)
    assert set(left.missing_keys) == {"guidance_embed.linear.weight", "guidance_embed.linear.bias"}
    condition, _ = conditions(model, a)
    out = student(a["x"], a["t"], condition, cfg_scales=torch.full((3,), 2.0))
    torch.testing.assert_close(out, model(a["x"], a["t"], condition), rtol=0, atol=0)
    with pytest.raises(ConfigError, match="takes no guidance scale"):
        model(a["x"], a["t"], condition, cfg_scales=torch.ones(3))


@pytest.mark.parametrize("variant", [{}, {"positions": "rope", "qk_norm": True}], ids=name)
@torch.no_grad()
def test_views_given_twice_are_given_once(variant: dict[str, Any]) -> None:
    model, a = small(conditioning="tokens", **variant).eval(), inputs()
    condition, tokens = conditions(model, a)
    assert tokens is not None
    twice = TokenConditions.join([tokens, tokens])
    once = model(a["x"], a["t"], condition, tokens)
    assert_close(model(a["x"], a["t"], condition, twice), once, 1e-5)
    denoise = model.denoiser(condition, [500], [1.0], twice)
    a["t"].fill_(500)
    assert_close(denoise(a["x"], 0), model(a["x"], a["t"], condition, tokens), 1e-5)


@torch.no_grad()
def test_few_bytes_for_modulations_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, a = small().eval(), inputs()
    condition, _ = conditions(model, a)
    at_once = model.denoiser(condition, TIMESTEPS, SCALES)
    expected = [at_once(a["x"], i) for i in range(3)]
    monkeypatch.setattr(denoiser, "MODULATION_BYTES", 1)
    one_by_one = model.denoiser(condition, TIMESTEPS, SCALES)
    steps: list[int] = []
    last = model.tdnet.final_layer.adaLN_modulation
    last.register_forward_hook(lambda _module, _given, out: steps.append(len(out)))
    for i in range(3):
        torch.testing.assert_close(one_by_one(a["x"], i), expected[i])
    assert steps == [1, 1, 1]


@torch.no_grad()
def test_what_steps_share_is_computed_once() -> None:
    model, a = small(conditioning="tokens").eval(), inputs()
    condition, tokens = conditions(model, a)
    calls: dict[nn.Module, int] = {}

    def count(module: nn.Module, _given: Any, _out: Any) -> None:
        calls[module] = calls.get(module, 0) + 1

    net = model.tdnet
    assert model.tokens is not None
    once = [net.t_embedder, *(block.adaLN_modulation for block in net.blocks)]
    for module in (*once, *model.canet.modules(), *model.tokens.modules()):
        module.register_forward_hook(count)
    rows: list[int] = []
    net.x_embedder.register_forward_pre_hook(lambda _module, given: rows.append(len(given[0])))
    denoise = model.denoiser(condition, TIMESTEPS, SCALES, tokens)
    for i in range(3):
        denoise(a["x"], i)
    assert calls == dict.fromkeys(once, 1)
    assert rows == [6, 3, 6]  # both branches in one batch; one branch where the scale is 1


def test_wrong_shapes_are_named() -> None:
    model, a = small().eval(), inputs()
    condition, _ = conditions(model, a)
    with pytest.raises(ConfigError, match="condition"):
        Denoiser(model, condition[:, 1:], TIMESTEPS, SCALES)
