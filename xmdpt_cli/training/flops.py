"""Model FLOPs utilisation: the FLOPs of a training step and the peak of a device.

A multiplication and an addition are two FLOPs. Matrix products, convolutions and attention count,
as they do in published numbers; norms, activations and the optimizer do not.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from xmdpt_cli.model import kernels

# Dense TFLOP/s as published: (part of the device's name, bf16 with fp32 sums, fp32 without tensor
# cores). Sources: NVIDIA's data sheets of each GPU (the figures "with sparsity" halved) and its
# Ada and Blackwell GPU architecture white papers for GeForce; AMD's data sheet. First fit counts.
_PEAKS: tuple[tuple[str, float, float], ...] = (
    ("B200", 2250.0, 75.0),
    ("GH200", 989.4, 66.9),
    ("H200 NVL", 835.5, 60.0),
    ("H200", 989.4, 66.9),
    ("H100 PCIe", 756.0, 51.2),
    ("H100 NVL", 835.5, 60.0),
    ("H100", 989.4, 66.9),  # SXM: "NVIDIA H100 80GB HBM3"
    ("A100", 312.0, 19.5),
    ("A40", 149.7, 37.4),
    ("A30", 165.0, 10.3),
    ("A10G", 70.0, 35.0),
    ("A10", 125.0, 31.2),
    ("RTX A6000", 154.8, 38.7),
    ("L40S", 362.0, 91.6),
    ("L40", 181.0, 90.5),
    ("L4", 121.0, 30.3),
    ("RTX 5090", 209.5, 104.8),
    ("RTX 4090", 165.2, 82.6),
    ("RTX 4080", 97.5, 48.7),
    ("RTX 3090", 71.0, 35.6),
    ("MI300X", 1307.4, 163.4),
)


def step_flops(step: nn.Module, inputs: Any) -> int:
    """FLOPs of one training step, forward and backward, on all pairs of ``inputs``.

    ``step(inputs)`` returns ``diffusion.Losses``: a ``TrainStep``, neither compiled nor wrapped,
    and its ``Inputs``. See ``step_cost``.
    """

    def loss(shadow: nn.Module) -> Tensor:
        total: Tensor = shadow(tree_map_only(Tensor, _without_data, inputs)).total
        return total

    return step_cost(step, loss).flops


@dataclass(frozen=True)
class StepCost:
    """What one step of a training takes."""

    flops: int  # forward and backward
    kept_bytes: int  # tensors kept for the backward pass, besides weights and buffers


def step_cost(
    module: nn.Module, loss: Callable[[nn.Module], Tensor], backward: bool = True
) -> StepCost:
    """Count the FLOPs of ``loss(module)`` and the bytes that it keeps for the backward pass.

    ``loss`` runs with a copy of ``module`` on tensors that have shapes and no data: nothing is
    computed, and ``module`` is left as it is. Operations under no_grad count forward only. Both
    numbers are those of the CPU's plain operations on any device: kernels of GPUs compute some
    things twice and keep less of attention. Tensors that are neither parameters nor buffers must be
    on the CPU.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    shadow = _copy_without_data(module, fake)
    own = {tensor.untyped_storage()._cdata for tensor in shadow.state_dict().values()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with fake, FlopCounterMode(display=False) as counter:
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            total = loss(shadow)
        if backward:
            total.backward()
    return StepCost(int(counter.get_total_flops()), sum(kept.values()))


def _copy_without_data(module: nn.Module, fake: FakeTensorMode) -> nn.Module:
    """A copy of a module whose parameters and buffers take no memory."""
    memo: dict[int, Any] = {}
    with fake:
        for parameter in module.parameters():
            empty = nn.Parameter(_without_data(parameter), parameter.requires_grad)
            memo[id(parameter)] = empty
        for buffer in module.buffers():
            memo[id(buffer)] = _without_data(buffer)
    shadow = copy.deepcopy(module, memo)
    kernels.prepare(shadow, onednn=False)  # the counter knows ``F.linear``
    return shadow


def _without_data(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")


def peak_flops(device: str | torch.device, autocast: bool) -> float | None:
    """The device's published dense peak in FLOP/s for bf16 autocast, or for fp32; else None.

    None on CPUs, on GPUs not in the table, on parts of a GPU (MIG), and for fp32 where tensor
    cores may round it to TF32: a share of an unknown peak is not a number to show.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return None
    if not autocast and torch.get_float32_matmul_precision() != "highest":
        return None
    return peak_of(torch.cuda.get_device_name(device), autocast)


def peak_of(name: str, bf16: bool) -> float | None:
    """``peak_flops`` of a GPU by its name, as the driver gives it."""
    if re.search(r"\bMIG\b|-\d+[QCAB]\b", name):  # a slice of a GPU, a virtual GPU
        return None
    for part, with_bf16, with_fp32 in _PEAKS:
        # whole words: an L4 is no L40; a GeForce to the end: an RTX 4090 is no RTX 4090 Laptop GPU
        end = "$" if part.startswith("RTX") else r"\b"
        if re.search(rf"\b{part}{end}", name):
            return (with_bf16 if bf16 else with_fp32) * 1e12
    return None
