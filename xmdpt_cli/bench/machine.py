"""Which machine this is, in what state, and what it can do at best.

Two runs can be compared only where ``identity`` is equal; the rest (libraries, clocks, load) is
there to explain a difference.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from xmdpt_cli import __version__
from xmdpt_cli.bench.timing import clock
from xmdpt_cli.model import kernels
from xmdpt_cli.utils.devices import cores

#: rows of square matrices whose product is the peak: large enough to fill the device, small enough
#: to be measured in every round
_SIDE = {"cpu": 2048, "cuda": 8192}
_COPIED = {"cpu": 256 * 2**20, "cuda": 2**30}  # bytes read, and as many written
_NVIDIA = "power.limit,power.draw,clocks.sm,clocks.max.sm,temperature.gpu,persistence_mode"


class Work(NamedTuple):
    """A call that does a known amount."""

    run: Callable[[], object]
    amount: float  # FLOP, or bytes


def machine(device: torch.device) -> dict[str, Any]:
    """What must be equal (``identity``), and what may explain a difference."""
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
        "memory": memory(),
        "governor": _first(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }
    if device.type == "cuda":
        identity["device"] = torch.cuda.get_device_name(device)
        identity["device_memory"] = torch.cuda.get_device_properties(device).total_memory
        state |= {"cuda": torch.version.cuda, **_nvidia(device)}
    return {"identity": identity, "state": {k: v for k, v in state.items() if v is not None}}


def described(facts: dict[str, Any]) -> str:
    """One line: the device, and what of its state matters to speed."""
    identity, state = facts["identity"], facts["state"]
    on_cpu = identity["device"] == "cpu"
    name = identity["processor"] if on_cpu else identity["device"]
    parts = [f"{name}, {identity['threads']} threads on {identity['cores']} cores"]
    parts.append(f"torch {state['torch']}")
    for key, unit in (("power.limit", " W at most"), ("clocks.sm", " MHz now")):
        if key in state:
            parts.append(f"{state[key]}{unit}")
    if "governor" in state:
        parts.append(f"governor {state['governor']}")
    if "load" in state:
        parts.append(f"load {state['load']} before")
    return ", ".join(parts)


def matmul(device: torch.device, dtype: torch.dtype) -> Work:
    """One square product: 2 n^3 FLOP. On a processor by the faster of torch's libraries."""
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
    """One copy within the device's memory: what is read and what is written."""
    source = torch.zeros(_COPIED[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return Work(lambda: target.copy_(source), 2.0 * source.numel())


def processor() -> str:
    """The processor's name as the system has it."""
    return kernels.cpuinfo("model name") or platform.processor() or platform.machine()


def memory() -> int | None:
    """Bytes of the machine."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, AttributeError, OSError):  # pragma: no cover - not on Linux
        return None


def _first(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _nvidia(device: torch.device) -> dict[str, str]:
    """Power and clocks by nvidia-smi; nothing where it is not there."""
    ask = ["nvidia-smi", f"--query-gpu={_NVIDIA}", "--format=csv,noheader,nounits"]
    index = torch.cuda.current_device() if device.index is None else device.index
    try:
        uuid = str(torch.cuda.get_device_properties(index).uuid)
        told = subprocess.run(
            [*ask, f"--id=GPU-{uuid}"], capture_output=True, text=True, timeout=10, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError, AttributeError):
        return {}
    values = [value.strip() for value in told.strip().split(",")]
    return {name: value for name, value in zip(_NVIDIA.split(","), values, strict=False) if value}
