"""Products with weights in fp32 on a processor, by the faster of torch's two libraries.

``F.linear`` multiplies fp32 by MKL, which has no AVX-512 kernels for AMD's processors. oneDNN, by
which torch computes convolutions and bf16, has: a guided step takes 0.75 to 0.9 of the time. All
else (other processors, devices and types, and what is to have gradients) is ``F.linear``'s.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

_AMD = "AuthenticAMD"


def has_onednn() -> bool:
    """Whether ``onednn`` can be called with this torch."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def onednn_is_faster() -> bool:
    """On this processor. By its name and not by trying, so that a run gives the same digits
    whenever it is run."""
    avx512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return has_onednn() and avx512 and _vendor() == _AMD


def _vendor() -> str:
    return cpuinfo("vendor_id") or (_AMD if _AMD in platform.processor() else "")


def cpuinfo(name: str) -> str | None:
    """What Linux says of the first processor, ``model name`` for one; None where it does not."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith(name):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return None


# Known once and for all: the compiler reads it as a constant, and could not follow the question.
_wanted = onednn_is_faster()


def uses_onednn() -> bool:
    """Whether ``linear`` multiplies by it where it can."""
    return _wanted


@contextmanager
def by_onednn(wanted: bool) -> Iterator[None]:
    """For measurements and tests: products by oneDNN or not, whatever is faster.

    What counts FLOPs wants False: torch's counter knows ``F.linear`` alone.
    """
    global _wanted
    before, _wanted = _wanted, wanted
    try:
        yield
    finally:
        _wanted = before


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., K), weight (O, K), bias (O,) -> (..., O)."""
    if _here(x, weight):
        return onednn(x, weight, bias)
    if (
        bias is not None
        and torch.compiler.is_compiling()
        and not torch.is_grad_enabled()
        and x.device.type == "cpu"
    ):
        # behind the product the bias is fused with what follows: as an operand MKL first has it
        # copied into each row of the result (5 % of a guided step of S)
        return F.linear(x, weight) + bias
    return F.linear(x, weight, bias)


def _here(x: Tensor, weight: Tensor) -> bool:
    return (
        _wanted
        and not torch.is_grad_enabled()  # it has no derivative
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
    )


def onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``linear`` by oneDNN, without gradients."""
    # torch's own operator compiles only for weights that are frozen; called through ours, each
    # call would go through Python
    operator = _in_graphs if torch.compiler.is_compiling() else _plain
    out: Tensor = operator(x, weight, bias)
    return out


def _plain(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


_in_graphs = torch.library.custom_op("xmdpt::linear", mutates_args=(), device_types="cpu")(_plain)


@_in_graphs.register_fake
def _shape(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])
