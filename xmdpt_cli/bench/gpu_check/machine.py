"""The machine, and the settings that decide its digits and its speed."""

from __future__ import annotations

from typing import Any

import torch

from xmdpt_cli import __version__
from xmdpt_cli.bench.machine import nvidia_smi, processor
from xmdpt_cli.utils.devices import cores


def describe_machine() -> dict[str, Any]:
    """For the report's head; ``device`` is "cpu" where there is no GPU."""
    found: dict[str, Any] = {
        "device": "cpu",
        "processor": f"{processor()}, {cores()} cores",
        "xmdpt": __version__,
        "torch": torch.__version__,
        "fp32 matrix products": torch.get_float32_matmul_precision(),
        "TF32 convolutions": torch.backends.cudnn.allow_tf32,
    }
    if not torch.cuda.is_available():
        return found
    properties = torch.cuda.get_device_properties(0)
    found["device"] = properties.name
    found["device memory"] = f"{properties.total_memory / 2**30:.1f} GiB"
    found["CUDA"] = torch.version.cuda
    return found | nvidia_smi("driver_version,power.limit", torch.device("cuda", 0))
