"""The peak memory of a call."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_memory(call: Callable[[], object], device: torch.device, held: int) -> int | None:
    """Peak bytes: ``held``, which the network and its inputs take, plus what ``call`` adds.

    On a GPU what PyTorch allocates; on a CPU the process's resident memory, with a few MB of noise
    (pages, memory that the allocator keeps). None on systems other than Linux.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return held + torch.cuda.max_memory_allocated(device) - before
    with suppress(OSError, AttributeError):  # freed memory must not be reused by the call
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    try:
        _CLEAR.write_text("5")  # resets the peak: proc(5)
        before = _resident("VmRSS")
        call()
        return held + max(0, _resident("VmHWM") - before)
    except OSError:
        return None


def _resident(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {name}")
