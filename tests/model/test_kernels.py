"""Modules for one kind of processor: the same values as the plain ones, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from xmdpt_cli.model import kernels
from xmdpt_cli.model.kernels import CompiledGELU, LearnedBiasAttention, OneDNNLinear
from xmdpt_cli.model.layers import Block, ScaledDotProductAttention

needs_onednn = pytest.mark.skipif(not kernels.has_onednn(), reason="this torch has no oneDNN")


def linear(inputs: int = 16, outputs: int = 8, bias: bool = True) -> OneDNNLinear:
    torch.manual_seed(0)
    return OneDNNLinear(inputs, outputs, bias)


def uses_onednn(module: nn.Module, x: Tensor) -> bool:
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        module(x)
    return any("_linear_pointwise" in event.key for event in seen.key_averages())


@pytest.fixture
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [(3, 50), (7,), (2, 3, 5)])
@pytest.mark.usefixtures("no_gradients")
def test_products_by_onednn(rows: tuple[int, ...], bias: bool) -> None:
    module, x = linear(96, 32, bias), torch.randn(*rows, 96)
    assert uses_onednn(module, x)
    torch.testing.assert_close(module(x), F.linear(x, module.weight, module.bias))


@needs_onednn
def test_gradients_are_torchs() -> None:
    module, x = linear(), torch.randn(2, 9, 16, requires_grad=True)
    found = torch.autograd.grad(module(x).square().sum(), (x, module.weight))
    out = F.linear(x, module.weight, module.bias)
    expected = torch.autograd.grad(out.square().sum(), (x, module.weight))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@needs_onednn
@pytest.mark.usefixtures("no_gradients")
def test_other_types_and_autocast_are_left_alone() -> None:
    module, x = linear(), torch.randn(2, 9, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert not uses_onednn(module, x)
        assert module(x).dtype == torch.bfloat16
    with torch.enable_grad():
        assert not uses_onednn(module, x)
    assert not uses_onednn(module.double(), x.double())
    assert not uses_onednn(module.bfloat16(), x.bfloat16())


@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.usefixtures("no_gradients")
def test_a_prepared_block_compiles_whole(onednn: bool) -> None:
    if onednn and not kernels.has_onednn():
        pytest.skip("this torch has no oneDNN")
    torch.manual_seed(0)
    block = Block(32, 2, 3)
    x, c = torch.randn(2, 9, 32), torch.randn(2, 32)
    nn.init.normal_(block.adaLN_modulation[1].weight)  # type: ignore[arg-type]
    expected = block(x, c)
    kernels.prepare(block, onednn)
    torch.testing.assert_close(block(x, c), expected, rtol=1e-4, atol=1e-5)
    # one graph, forward and backward; what inductor makes of it is PyTorch's to test
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, c), expected, rtol=1e-4, atol=1e-5)


def test_prepare_keeps_the_parameters_and_restore_undoes_it() -> None:
    block = Block(32, 2, 3)
    before = [type(module) for module in block.modules()]
    parameters = dict(block.named_parameters())
    kernels.prepare(block)
    found = {type(module) for module in block.modules()}
    assert {LearnedBiasAttention, CompiledGELU} <= found
    assert not {nn.Linear, nn.GELU, ScaledDotProductAttention} & found
    assert {name: id(p) for name, p in block.named_parameters()} == {
        name: id(p) for name, p in parameters.items()
    }
    kernels.restore(block)
    assert [type(module) for module in block.modules()] == before


@pytest.mark.parametrize("rows", [1, 2])
def test_attention_with_a_learned_bias(rows: int) -> None:
    """The explicit product against the fused kernel, with a bias for all rows or one each."""
    rng = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 5, 8, generator=rng, requires_grad=True) for _ in range(3))
    bias = torch.randn(*([2] if rows == 2 else []), 3, 5, 5, generator=rng, requires_grad=True)
    inputs = (q, k, v, bias)
    found = torch.autograd.grad(LearnedBiasAttention()(*inputs).square().sum(), inputs)
    expected = torch.autograd.grad(ScaledDotProductAttention()(*inputs).square().sum(), inputs)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("vendor", "capability", "expected"),
    [
        ("AuthenticAMD", "AVX512", True),
        ("AuthenticAMD", "AVX2", False),
        ("GenuineIntel", "AVX512", False),
        ("", "DEFAULT", False),
    ],
)
def test_where_onednn_is_faster(
    monkeypatch: pytest.MonkeyPatch, vendor: str, capability: str, expected: bool
) -> None:
    monkeypatch.setattr(kernels, "cpuinfo", lambda _name: vendor)
    monkeypatch.setattr(kernels.platform, "processor", lambda: "")
    monkeypatch.setattr(kernels, "has_onednn", lambda: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert kernels.onednn_is_faster() is expected
