"""The FLOPs of a call, counted while it runs.

A multiplication and an addition are two FLOPs. Matrix products, convolutions and attention count;
norms and activations do not.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from xmdpt_cli.model import kernels

# Kernels of scaled_dot_product_attention that some versions of PyTorch do not count
_ATTENTIONS = (
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
    "_scaled_dot_product_attention_math_for_mps",
)


def flops(call: Callable[[], object], gradients: bool = False) -> float:
    """FLOPs of ``call``, which runs once; on the meta device nothing is computed.

    Compiled code runs uncompiled, since the counter cannot see into it. ``gradients``: the call
    runs a backward pass too.
    """
    counter = FlopCounterMode(display=False, custom_mapping=_uncounted())
    with (
        warnings.catch_warnings(),
        torch.compiler.set_stance("force_eager"),
        torch.set_grad_enabled(gradients),
        counter,
    ):
        warnings.filterwarnings("ignore", message=".*global hooks on modules")  # the counter's
        call()
    return float(counter.get_total_flops())


def _uncounted() -> dict[Any, Any]:
    ops = (getattr(torch.ops.aten, name, None) for name in _ATTENTIONS)
    found: dict[Any, Any] = {
        op: _attention for op in ops if op is not None and op not in flop_registry
    }
    if kernels.has_onednn():
        found[torch.ops.mkldnn._linear_pointwise] = _linear
    return found


def _linear(x: torch.Size, weight: torch.Size, *_: object, **__: object) -> int:
    """(..., K), (O, K)."""
    return 2 * math.prod(x) * weight[0]


def _attention(
    query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object
) -> int:
    """q k^T and the sum of values; (N, H, T, d), (N, H, S, d), (N, H, S, d')."""
    n, heads, t, d = query
    return 2 * n * heads * t * key[-2] * (d + value[-1])
