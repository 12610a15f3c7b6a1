"""``xmdpt bench encode``: the speed of the frozen encoders."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from xmdpt_cli.bench.measure import measure_calls
from xmdpt_cli.bench.random_networks import dinov2, sd_vae
from xmdpt_cli.bench.report import Report
from xmdpt_cli.progress import Progress, silent
from xmdpt_cli.utils.counts import counted

DINO_SIDE = 224  # pixels of DINOv2's input


def measure_encoders(
    device: torch.device,
    dtype: torch.dtype,
    batch: int,
    pixels: int = 256,
    rounds: int = 10,
    progress: Progress = silent,
) -> Report:
    """Measure DINOv2-G (sources), DINOv2-B (pose images), and the VAE's encoder and decoder; random
    weights."""
    calls: dict[str, Callable[[], object]] = {}

    def add(name: str, network: Callable[[Tensor], object], *shape: int) -> None:
        given = torch.rand(batch, *shape).to(device, dtype)
        calls[name] = torch.no_grad()(lambda: network(given))

    for size in ("giant", "base"):
        add(f"DINOv2 {size}", dinov2(size, device, dtype), 3, DINO_SIDE, DINO_SIDE)
    vae = sd_vae(device, dtype)
    add("VAE encoder", vae.encode, 3, pixels, pixels)
    add("VAE decoder", vae.decode, 4, pixels // 8, pixels // 8)
    settings = {"batch": batch, "pixels": pixels}
    title = f"frozen encoders, seconds for {counted(batch, 'image')}"
    return measure_calls("encode", title, settings, device, dtype, calls, rounds, progress=progress)
