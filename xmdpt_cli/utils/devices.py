"""Devices and processors of this machine, their free memory and load."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from xmdpt_cli.errors import ConfigError

if TYPE_CHECKING:
    import torch

_ANY = "use auto, cpu, cuda, cuda:1 or mps"


def pick_device(name: str | torch.device = "auto") -> str:
    """The device to use: ``auto`` is a CUDA GPU if there is one, else the CPU.

    Also "cpu", "cuda", "cuda:1" and "mps" (Apple GPUs: accepted, untested). Under torchrun
    ``auto`` is one GPU a process. ConfigError for a device that is not on this machine.
    """
    import torch

    count = torch.cuda.device_count()
    if name == "auto":
        if not torch.cuda.is_available():
            return "cpu"
        local = os.environ.get("LOCAL_RANK", "")
        return f"cuda:{int(local) % count}" if local.isdigit() else "cuda"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"no such device: {name!r}", _ANY) from None
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ConfigError(f"{device} not found: this machine has {count} CUDA GPUs", _use(count))
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("mps not found: it needs an Apple GPU and PyTorch for macOS", _use(count))
    if device.type not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"{device} is not supported", _ANY)
    return str(name)


def _use(gpus: int) -> str:
    return "use auto or cpu" if not gpus else f"use auto, cpu or cuda:0 to cuda:{gpus - 1}"


def free_memory(device: torch.device) -> int | None:
    """Free memory of a device in bytes; None if not known (neither Linux nor CUDA)."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next(int(x.split()[1]) * 2**10 for x in lines if x.startswith("MemAvailable"))


def peak_memory(device: torch.device) -> int | None:
    """Peak memory of this process on a device in bytes; None if not known (Windows)."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 2**10


def free_disk(folder: Path) -> int:
    """Free bytes on the disk of a folder, which need not exist yet."""
    place = folder.absolute()
    return shutil.disk_usage(next(p for p in (place, *place.parents) if p.exists())).free


def cores() -> int:
    """Number of processors that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


def busy_load() -> float | None:
    """The machine's load over the last minute if it exceeds its processors, else None.

    With two processors a single other program is enough: both threads of a command wait for the
    one that it interrupts (measured: `xmdpt demo` trained 30 times slower at times). To be called
    before the command's own work. The mean still includes commands that have just ended, so on
    Linux as many threads must also be runnable now.
    """
    try:
        load = os.getloadavg()[0]
    except (AttributeError, OSError):  # Windows
        return None
    count = os.cpu_count() or 1
    # 0.8: the mean of one program that was started more than a minute ago
    least, others = (0.8, 1) if count == 2 else (count, count)
    if load <= least:
        return None
    waiting = _runnable()
    return None if waiting is not None and waiting - 1 < others else load


def _runnable() -> int | None:
    """Number of runnable threads, this one included: the median of a few readings."""
    found = []
    for _ in range(5):
        try:
            found.append(int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0]))
        except (OSError, ValueError, IndexError):
            return None
        time.sleep(0.02)
    return sorted(found)[len(found) // 2]
