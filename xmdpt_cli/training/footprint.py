"""Memory and time of a training step: counted without data, or measured on a few steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from xmdpt_cli.errors import is_out_of_memory
from xmdpt_cli.training.flops import step_cost

LONG = 2.0  # seconds that one measured step may take
ENOUGH = 6.0  # seconds after which no further step is measured
SHARE = 0.5  # share of the rate of matrix products that a training step reaches
_SIDE = {"cuda": 8192}  # side of the measured matrices; 1024 elsewhere
#: factor on the kept activations for the buffers of the backward pass; on a CPU 1.25 was measured
#: (size S, 32 and 64 pairs)
PEAK = 1.3


MEASURED = "measured on a few steps, without reading data"
COUNTED = "estimated from FLOPs at half the speed of matrix products"


class ReadyStep(NamedTuple):
    """A training step that can run, in two parts."""

    gradients: Callable[[], object]  # forward and backward: takes longer with more examples
    update: Callable[[], object]  # optimizer and EMA: takes as long with any number of examples


def parameter_bytes(parameters: Iterable[Tensor]) -> int:
    return sum(p.numel() * p.element_size() for p in parameters)


class Cost:
    """FLOPs of a step on one example, forward and backward, and the bytes of its activations.

    ``loss(module, count)`` computes the loss of ``count`` examples; see ``flops.step_cost``.
    """

    def __init__(self, module: nn.Module, loss: Callable[[nn.Module, int], Tensor]) -> None:
        one = step_cost(module, lambda shadow: loss(shadow, 1))
        two = step_cost(module, lambda shadow: loss(shadow, 2), backward=False)
        self.flops = one.flops
        self._each = two.kept_bytes - one.kept_bytes
        self._fixed = max(0, one.kept_bytes - self._each)  # weights in another type, biases

    def activations(self, count: int) -> int:
        """Bytes of a step on ``count`` examples, besides weights and gradients."""
        return int(PEAK * (self._fixed + self._each * count))


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of square matrix products: the best of a few."""
    side = _SIDE.get(device.type, 1024)
    a = torch.randn(side, side, device=device).to(dtype)
    best = min(_seconds(lambda: a @ a, device) for _ in range(4))
    return float(2 * side**3 / best)


def step_seconds(
    step: Callable[[], object], device: torch.device, *, most: int = 3
) -> float | None:
    """Seconds of ``step``, the best of at most ``most``, of which the first warms up; None if
    memory runs out."""
    began, times = time.perf_counter(), []
    try:
        for _ in range(most):
            times.append(_seconds(step, device))
            if time.perf_counter() - began > ENOUGH:
                break
    except Exception as err:
        if not is_out_of_memory(err):
            raise
        return None
    return min(times)


def step_time(
    flops: int,
    pairs: int,
    at_once: int,
    device: torch.device,
    bf16: bool,
    ready: Callable[[int], ReadyStep],
) -> tuple[float, str]:
    """Seconds of a step on ``pairs`` examples of ``flops`` each, and ``MEASURED`` or ``COUNTED``.

    ``ready(count)`` returns a step on ``count`` examples, at most ``at_once``. It is measured if
    one example takes ``LONG`` seconds at most. Counted seconds leave the update out.
    """
    each = flops / (SHARE * matmul_rate(device, torch.bfloat16 if bf16 else torch.float32))
    if each <= LONG:
        count = min(at_once, max(1, int(LONG / each)))
        step = ready(count)
        gradients = step_seconds(step.gradients, device)
        update = None if gradients is None else step_seconds(step.update, device)
        if gradients is not None and update is not None:
            return gradients * pairs / count + update, MEASURED
    return pairs * each, COUNTED


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter() - began
