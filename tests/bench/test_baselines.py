"""The baselines: their size and work equal the originals', and sampling does all of it."""

from __future__ import annotations

import copy
import functools
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from xmdpt_cli.bench.baseline_networks import PIDM, Network
from xmdpt_cli.bench.baselines import BASELINES, Baseline, Inputs, fit, sample_dcfg
from xmdpt_cli.bench.flops import flops
from xmdpt_cli.diffusion import Guided, sample
from xmdpt_cli.errors import ConfigError

STEPS = 2
counted_fit = functools.cache(fit)


@pytest.fixture(scope="module", params=sorted(BASELINES))
def tiny(request: pytest.FixtureRequest) -> Baseline:
    return BASELINES[request.param]("tiny")


@pytest.fixture(scope="module")
def built(tiny: Baseline) -> Network:
    torch.manual_seed(0)
    return tiny.build().eval().requires_grad_(False)


@pytest.fixture
def network(built: Network) -> Network:
    """A copy for each test: some add hooks, some change weights."""
    return copy.deepcopy(built)


def generate(network: Network, inputs: Inputs, steps: int, **more: Any) -> Tensor:
    dtype = next(network.parameters()).dtype
    with torch.no_grad():
        conditions = network.encode(inputs.pose.to(dtype), inputs.source.to(dtype))
    return sample_dcfg(network, inputs.noise, conditions, steps, **more)


def apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def test_pidm_has_the_published_parameters_and_flops() -> None:
    found = fit(BASELINES["pidm"]())
    assert found.parameters == pytest.approx(180.4e6, rel=0.01)
    assert found.gflop == pytest.approx(559.4, rel=0.01)
    assert found.encoder_gflop == pytest.approx(140.3, rel=0.01)


def test_pocold_has_the_published_parameters() -> None:
    baseline = BASELINES["pocold"]()
    found = fit(baseline)
    assert baseline.original is not None
    assert baseline.original.gflop is None  # not known
    assert found.parameters == pytest.approx(395.89e6, rel=0.01)
    assert found.gflop == pytest.approx(129.3, rel=0.01)  # counted; the original's is not known


def test_tiny_baselines_are_named_tiny(tiny: Baseline) -> None:
    found = counted_fit(tiny)
    assert "tiny" in tiny.name
    assert "1/4 of the widths, 64 px" in tiny.name
    assert tiny.original is None
    assert (found.gflop or 0) + (found.encoder_gflop or 0) < 3
    assert found.parameters < 30e6


def test_flops_counted_on_meta_equal_those_of_a_run(tiny: Baseline, network: Network) -> None:
    """Attention is a fused kernel in a run, and matrix products on the meta device."""
    inputs, found = tiny.inputs(1), counted_fit(tiny)
    ran = flops(lambda: generate(network, inputs, STEPS))
    wanted = 3 * STEPS * (found.gflop or 0) + (found.encoder_gflop or 0)
    assert ran / 1e9 == pytest.approx(wanted, rel=1e-6)


def test_full_baselines_are_not_named_tiny() -> None:
    assert [BASELINES[key]().name for key in ("pidm", "pocold")] == ["PIDM", "PoCoLD"]
    with pytest.raises(ConfigError, match="full, tiny"):
        BASELINES["pidm"]("small")


def test_sampling_encodes_once_and_runs_once_a_step(tiny: Baseline, network: Network) -> None:
    """One forward of 3N a step; the encoder once, with N."""
    inputs, calls, rows = tiny.inputs(2), Counter[str](), Counter[str]()

    def counted(name: str, module: nn.Module) -> None:
        def hook(_: nn.Module, __: object, out: Tensor | tuple[Tensor, ...]) -> None:
            calls[name] += 1
            rows[name] += len(out if isinstance(out, Tensor) else out[0])

        module.register_forward_hook(hook)

    encoders = ["encoder"] if isinstance(network, PIDM) else ["pose_tokens", "source_tokens"]
    counted("network", network)
    counted("output convolution", network.unet.conv_out)
    for name in encoders:
        counted(name, network.get_submodule(name))
    generate(network, inputs, STEPS)
    once = dict.fromkeys(encoders, 1)
    assert calls == {"network": STEPS, "output convolution": STEPS, **once}
    assert rows["network"] == rows["output convolution"] == 3 * STEPS * 2
    assert all(rows[name] == 2 for name in encoders)


def test_guidance_equals_its_formula(tiny: Baseline, network: Network) -> None:
    """Computed from separate branches, with zeros for dropped conditions."""
    inputs = tiny.inputs(1)
    pose, source = network.encode(inputs.pose, inputs.source)
    no_source = tuple(0 * tokens for tokens in source)

    def predict(x: Tensor, t: Tensor, *_: Tensor) -> Tensor:
        channels = x.shape[1]
        without = network(x, t, 0 * pose, no_source)[:, :channels]
        posed = network(x, t, pose, no_source)[:, :channels]
        both = network(x, t, pose, source)[:, :channels]
        return without + 1.5 * (posed - without) + 3.0 * (both - posed)

    wanted = sample(Guided(predict), inputs.noise, torch.zeros(1, 0), STEPS, guidance=1.0)
    found = generate(network, inputs, STEPS, pose_scale=1.5, source_scale=3.0)
    assert found.shape == inputs.noise.shape
    assert apart(found, wanted) < 1e-4
    assert apart(generate(network, inputs, STEPS), wanted) > 1e-3


@pytest.mark.parametrize("part", ["pose", "source"])
def test_both_conditions_change_the_result(tiny: Baseline, network: Network, part: str) -> None:
    inputs = tiny.inputs(1)
    other = inputs._replace(**{part: getattr(tiny.inputs(1, seed=1), part)})
    first, changed = (generate(network, given, 1) for given in (inputs, other))
    assert apart(changed, first) > 1e-3
    # with a scale of 0 the source changes nothing
    without = [generate(network, given, 1, source_scale=0.0) for given in (inputs, other)]
    assert torch.equal(*without) == (part == "source")


def test_every_attention_reads_the_features_of_its_level() -> None:
    baseline = BASELINES["pidm"]("tiny")
    network, inputs = baseline.build().eval().requires_grad_(False), baseline.inputs(1)
    pose, source = network.encode(inputs.pose, inputs.source)
    assert [tuple(tokens.shape) for tokens in source] == [(1, 16, 128), (1, 4, 128)]
    seen: list[Tensor] = []
    for name, module in network.named_modules():
        if name.endswith("add_k_proj"):
            module.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    out = network(inputs.noise, torch.tensor([500]), pose, source)
    assert out.shape == (1, 6, 64, 64)  # noise and variance
    # two layers on the way down, three up, one in the middle
    order = [0, 0, 1, 1, 1, 1, 1, 1, 0, 0, 0]
    assert len(seen) == len(order)
    assert all(tokens is source[i] for tokens, i in zip(seen, order, strict=True))


def test_bf16_and_channels_last(tiny: Baseline, network: Network) -> None:
    """The type and layout for a GPU; the sampling loop stays in the noise's dtype."""
    inputs = tiny.inputs(1)
    exact = generate(network, inputs, STEPS)
    network.to(memory_format=torch.channels_last)
    shaped = Inputs(*(tensor.to(memory_format=torch.channels_last) for tensor in inputs))
    assert apart(generate(network, shaped, STEPS), exact) < 1e-4
    network.to(torch.bfloat16)
    half = generate(network, inputs, STEPS)
    assert half.dtype == torch.float32
    assert 1e-5 < apart(half, exact) < 0.2


def test_pidm_compiles_without_graph_breaks() -> None:
    """PIDM's forward is ours; PoCoLD's is that of diffusers."""
    network = PIDM((32, 32), layers=1, attended=(1,), head_width=32).eval().requires_grad_(False)
    inputs = Inputs(*(torch.randn(1, channels, 8, 8) for channels in (3, 20, 3)))
    wanted = generate(network, inputs, 1)
    network.compile(backend="eager", fullgraph=True)
    assert apart(generate(network, inputs, 1), wanted) < 1e-5
