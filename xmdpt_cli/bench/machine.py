"""The machine and its state, and the work that its peak is measured with."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from xmdpt_cli import __version__
from xmdpt_cli.bench.timing import clock
from xmdpt_cli.model import kernels
from xmdpt_cli.utils.counts import counted
from xmdpt_cli.utils.devices import cores

#: side of the square matrices whose product is the peak: large enough to fill the device, small
#: enough to be measured in every round
_SIDE = {"cpu": 2048, "cuda": 8192}
_COPIED = {"cpu": 256 * 2**20, "cuda": 2**30}  # bytes read, and as many written
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
_NVIDIA = "power.limit,power.draw,clocks.sm,clocks.max.sm,temperature.gpu,persistence_mode"


@dataclass(frozen=True)
class Machine:
    """Two runs can be compared if their ``identity`` is equal. ``state`` (libraries, clocks, load),
    read before the measurement, can explain a difference."""

    identity: dict[str, Any]
    state: dict[str, Any]

    @classmethod
    def here(cls, device: torch.device) -> Machine:
        """This machine, with ``device`` as the one that computes."""
        identity: dict[str, Any] = {
            "processor": processor(),
            "cores": cores(),
            "threads": torch.get_num_threads(),
            "device": "cpu",
        }
        state: dict[str, Any] = {
            "system": f"{platform.system()} {platform.release()}",
            "python": platform.python_version(),
            "torch": torch.__version__,
            "xmdpt": __version__,
        }
        if hasattr(os, "getloadavg"):  # not on Windows
            state["memory"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
            state["load"] = round(os.getloadavg()[0], 2)
        if _GOVERNOR.is_file():
            state["governor"] = _GOVERNOR.read_text().strip()
        if device.type == "cuda":
            properties = torch.cuda.get_device_properties(device)
            identity |= {"device": properties.name, "device_memory": properties.total_memory}
            state |= {"cuda": torch.version.cuda, **nvidia_smi(_NVIDIA, device)}
        return cls(identity, state)

    @property
    def name(self) -> str:
        """The GPU's or the processor's name."""
        on_cpu = self.identity["device"] == "cpu"
        return str(self.identity["processor" if on_cpu else "device"])

    def __str__(self) -> str:
        """One line: the device, and the parts of its state that influence speed."""
        identity, state = self.identity, self.state
        parts = [
            f"{self.name}, {counted(identity['threads'], 'thread')} on "
            f"{counted(identity['cores'], 'core')}"
        ]
        for key, text in (
            ("torch", "torch {}"),
            ("power.limit", "power limit {} W"),
            ("clocks.sm", "{} MHz"),
            ("governor", "governor {}"),
            ("load", "load {} before"),
        ):
            if key in state:
                parts.append(text.format(state[key]))
        return ", ".join(parts)


class Work(NamedTuple):
    """A call that does a known amount of work."""

    run: Callable[[], object]
    amount: float  # FLOP, or bytes


def matmul(device: torch.device, dtype: torch.dtype) -> Work:
    """One square matrix product: 2 n^3 FLOP; on a CPU by the faster of torch's libraries."""
    side = _SIDE[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    calls: list[Callable[[], object]] = [lambda: torch.mm(a, b, out=out)]
    if device.type == "cpu" and kernels.has_onednn():
        calls.append(lambda: kernels.onednn(a, b))
    timed = clock(device)
    best = min(calls, key=lambda call: min(timed(call) for _ in range(6)))
    return Work(best, 2.0 * side**3)


def copy(device: torch.device) -> Work:
    """One copy within the device's memory; the amount is bytes read plus bytes written."""
    source = torch.zeros(_COPIED[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return Work(lambda: target.copy_(source), 2.0 * source.numel())


def describe_gpu() -> dict[str, Any]:
    """The first GPU and the settings that decide its digits, for ``examples/gpu_check.py``.

    ``device`` is "cpu" on a machine without a GPU.
    """
    found: dict[str, Any] = {
        "device": "cpu",
        "processor": f"{processor()}, {cores()} cores",
        "xmdpt": __version__,
        "torch": torch.__version__,
        "fp32 matrix products": torch.get_float32_matmul_precision(),
        "TF32 convolutions": torch.backends.cudnn.allow_tf32,
    }
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found["device"] = properties.name
        found["device memory"] = f"{properties.total_memory / 2**30:.1f} GiB"
        found["CUDA"] = torch.version.cuda
        found |= nvidia_smi("driver_version,power.limit", torch.device("cuda", 0))
    return found


def processor() -> str:
    """The processor's name as the system reports it."""
    return kernels.cpuinfo("model name") or platform.processor() or platform.machine()


def nvidia_smi(fields: str, device: torch.device) -> dict[str, str]:
    """The comma-separated ``fields`` of a GPU as nvidia-smi reports them; empty without it."""
    index = torch.cuda.current_device() if device.index is None else device.index
    try:
        uuid = str(torch.cuda.get_device_properties(index).uuid)
        command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
        output = subprocess.run(
            [*command, f"--id=GPU-{uuid}"], capture_output=True, text=True, timeout=10, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError, AttributeError):
        return {}
    values = [value.strip() for value in output.strip().split(",")]
    return {name: value for name, value in zip(fields.split(","), values, strict=False) if value}
