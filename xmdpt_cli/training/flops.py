"""Model FLOPs utilisation: what a training step must compute, and what a device could.

A multiplication and an addition are two FLOPs. Matrix products, convolutions and attention count,
as they do in published numbers; norms, activations and the optimizer do not.
"""

from __future__ import annotations

import copy
import re
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
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
    """FLOPs of one training step, forward and backward, on as many pairs as the inputs hold.

    ``step(inputs)`` returns ``diffusion.Losses``: a ``TrainStep``, neither compiled nor wrapped,
    and its ``Inputs``. A copy of it runs on tensors that have shapes and no data: nothing is
    computed, and ``step`` is left as it is. What runs under no_grad counts forward only. The count
    is that of the CPU's plain operations on any device: kernels on GPUs compute some things twice,
    which is no use of the model's. Tensors that are neither parameters nor buffers must be on the
    CPU.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    shadow, shapes = without_data(step, fake), _shapes(inputs, fake)
    with fake, FlopCounterMode(display=False) as counter:
        shadow(shapes).total.backward()
    return int(counter.get_total_flops())


def without_data(module: nn.Module, fake: FakeTensorMode) -> Any:
    """A copy of a module whose parameters and buffers take no memory."""
    there: dict[int, Any] = {}
    for parameter in module.parameters():
        there[id(parameter)] = nn.Parameter(_empty(parameter, fake), parameter.requires_grad)
    for buffer in module.buffers():
        there[id(buffer)] = _empty(buffer, fake)
    shadow = copy.deepcopy(module, there)
    kernels.prepare(shadow, onednn=False)  # the counter knows ``F.linear``
    return shadow


def _empty(tensor: Tensor, fake: FakeTensorMode) -> Tensor:
    with fake:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")


def _shapes(value: Any, fake: FakeTensorMode) -> Any:
    """Tensors, also in (named) tuples, without their data."""
    if isinstance(value, Tensor):
        return _empty(value, fake)
    if isinstance(value, tuple):
        parts = [_shapes(part, fake) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


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
