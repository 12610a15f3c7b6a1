"""Modules that compute the same faster on one kind of processor, in place of a model's own.

``prepare(model)`` puts them in, ``restore(model)`` brings the plain ones back; parameters and their
names stay. ``layers.py`` knows nothing of this.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmdpt_cli.model.layers import ScaledDotProductAttention

_AMD = "AuthenticAMD"


def prepare(model: nn.Module, onednn: bool | None = None) -> None:
    """Replace modules in place by those for the device that the model is on. ``onednn``: products
    without gradients by oneDNN; None: on a CPU where it is the faster library."""
    classes: dict[type[nn.Module], type[nn.Module]] = {
        ScaledDotProductAttention: LearnedBiasAttention
    }
    if next(model.parameters()).device.type == "cpu":
        use = onednn_is_faster() if onednn is None else onednn
        classes |= {nn.Linear: OneDNNLinear if use else CPULinear, nn.GELU: CompiledGELU}
    restore(model)
    _swap(model, classes)


def restore(model: nn.Module) -> None:
    """Undo ``prepare``."""
    _swap(
        model,
        {
            LearnedBiasAttention: ScaledDotProductAttention,
            OneDNNLinear: nn.Linear,
            CPULinear: nn.Linear,
            CompiledGELU: nn.GELU,
        },
    )


def _swap(model: nn.Module, classes: Mapping[type[nn.Module], type[nn.Module]]) -> None:
    """The new classes have the old ones' parameters and differ in ``forward`` alone."""
    for module in model.modules():
        if type(module) in classes:
            module.__class__ = classes[type(module)]


class LearnedBiasAttention(ScaledDotProductAttention):
    """Attention as it is written, where the bias needs a gradient.

    Of the fused kernels only a slow one of the GPU's computes that gradient, for every row of the
    batch; PyTorch's fallback on a CPU also guards against rows that are masked out, which costs as
    much as the softmax itself.
    """

    #: Keys up to which a GPU holds the scores for the gradient. 256 px have 256 tokens; 512 px have
    #: 1024, and 16 times the scores. On an H100 six blocks of L at 256 px take 31 ms, not 52.
    most_keys_on_gpu = 512

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        fits = not q.is_cuda or k.shape[2] <= self.most_keys_on_gpu
        learned = bias is not None and bias.requires_grad and torch.is_grad_enabled()
        if bias is None or not (fits and learned):
            return super().forward(q, k, v, bias)
        missing = -k.shape[2] % 8 if q.is_cuda else 0
        if missing:  # tensor cores read rows of scores that begin at 16 bytes
            k, v = F.pad(k, (0, 0, 0, missing)), F.pad(v, (0, 0, 0, missing))
            bias = F.pad(bias, (0, missing), value=-torch.inf)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        return (scores.to(bias.dtype) + bias).softmax(dim=-1).to(v.dtype) @ v


class CompiledGELU(nn.GELU):
    """GELU's tanh form as 0.5 x (1 + tanh u) = x sigmoid(2 u): fused by the compiler it takes half
    the time, since an exponential is cheaper than tanh."""

    def forward(self, x: Tensor) -> Tensor:
        if self.approximate != "tanh" or not torch.compiler.is_compiling():
            return super().forward(x)
        return x * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


class CPULinear(nn.Linear):
    """In compiled inference the bias is added behind the product, where it is fused with what
    follows: as an operand MKL copies it into every row of the result (5 % of a step of S)."""

    def forward(self, x: Tensor) -> Tensor:
        inference = torch.compiler.is_compiling() and not torch.is_grad_enabled()
        if inference and x.device.type == "cpu" and self.bias is not None:
            return F.linear(x, self.weight) + self.bias
        return super().forward(x)


class OneDNNLinear(CPULinear):
    """fp32 products by oneDNN, by which PyTorch computes convolutions and bf16. ``F.linear`` takes
    MKL, which has no AVX-512 kernels for AMD's processors: there a guided step takes 0.75 to 0.9 of
    the time. It has no derivative: what needs gradients is ``F.linear``'s."""

    def forward(self, x: Tensor) -> Tensor:
        fp32 = torch.float32 == x.dtype == self.weight.dtype and x.device.type == "cpu"
        if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or not fp32:
            return super().forward(x)
        # PyTorch's own operator compiles only for frozen weights; outside of a graph ours would
        # cost a call through Python
        product = _in_graphs if torch.compiler.is_compiling() else onednn
        return product(x, self.weight, self.bias)


def onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear(x, weight, bias)`` by oneDNN, without gradients."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


_in_graphs = torch.library.custom_op("xmdpt::linear", mutates_args=(), device_types="cpu")(onednn)


@_in_graphs.register_fake
def _shape(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def has_onednn() -> bool:
    """Whether this PyTorch can multiply by oneDNN."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def onednn_is_faster() -> bool:
    """Whether it is on this processor; by the processor's name, not by a measurement, so that the
    same run gives the same digits every time."""
    avx512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
    vendor = cpuinfo("vendor_id") or (_AMD if _AMD in platform.processor() else "")
    return has_onednn() and avx512 and vendor == _AMD


def cpuinfo(name: str) -> str | None:
    """A value of the first processor in /proc/cpuinfo, e.g. ``model name``; None off Linux."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith(name):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return None
