"""Products by oneDNN: the same as ``F.linear`` in values, and nowhere else."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from xmdpt_cli.model import products

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN"
)


def given(k: int, o: int, *rows: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(*rows, k), torch.randn(o, k), torch.randn(o)


@pytest.mark.parametrize(("k", "o"), [(96, 32), (32, 96), (64, 64)])
@pytest.mark.parametrize("rows", [(3, 50), (7,), (2, 3, 5)])
@torch.no_grad()
def test_values(k: int, o: int, rows: tuple[int, ...]) -> None:
    inputs = given(k, o, *rows)
    with products.by_onednn(True):
        assert called(*inputs)
        found = products.linear(*inputs)
    torch.testing.assert_close(found, F.linear(*inputs), rtol=1e-5, atol=1e-4)


@torch.no_grad()
def test_slices_of_weights_and_no_bias() -> None:
    x, weight, _ = given(16, 24, 2, 9)
    with products.by_onednn(True):
        found = products.linear(x, weight[8:])
    torch.testing.assert_close(found, F.linear(x, weight[8:]), rtol=1e-5, atol=1e-4)


def test_gradients_are_torchs() -> None:
    inputs = tuple(x.requires_grad_() for x in given(16, 8, 2, 9))
    with products.by_onednn(True):
        found = torch.autograd.grad(products.linear(*inputs).square().sum(), inputs)
    expected = torch.autograd.grad(F.linear(*inputs).square().sum(), inputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@torch.no_grad()
def test_it_compiles_whole() -> None:
    inputs = given(16, 8, 2, 9)
    run = torch.compile(products.linear, fullgraph=True)
    for by_onednn in (True, False):
        with products.by_onednn(by_onednn):
            torch.testing.assert_close(run(*inputs), F.linear(*inputs))


def called(*inputs: Tensor) -> bool:
    """Whether oneDNN was asked."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        products.linear(*inputs)
    return any("_linear_pointwise" in event.key for event in seen.key_averages())


@torch.no_grad()
def test_other_types_and_autocast_are_left_alone() -> None:
    inputs = given(16, 8, 2, 9)
    with products.by_onednn(True):
        assert called(*inputs)
        assert not called(*(x.double() for x in inputs))
        assert not called(*(x.bfloat16() for x in inputs))
        with torch.autocast("cpu", torch.bfloat16):
            assert not called(*inputs)
            assert products.linear(*inputs).dtype == torch.bfloat16
        with torch.enable_grad():
            assert not called(*inputs)
    with products.by_onednn(False):
        assert not called(*inputs)


@pytest.mark.parametrize(
    ("vendor", "kernels", "expected"),
    [
        ("AuthenticAMD", "AVX512", True),
        ("AuthenticAMD", "AVX2", False),
        ("GenuineIntel", "AVX512", False),
        ("", "DEFAULT", False),
    ],
)
def test_where_it_is_faster(
    monkeypatch: pytest.MonkeyPatch, vendor: str, kernels: str, expected: bool
) -> None:
    monkeypatch.setattr(products, "_vendor", lambda: vendor)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: kernels)
    assert products.onednn_is_faster() is expected
