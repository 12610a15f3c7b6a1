"""How fast the frozen networks are: what ``xmdpt prepare`` waits for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from xmdpt_cli.bench.flops import flops
from xmdpt_cli.bench.frozen import dinov2, placed, sd_vae
from xmdpt_cli.bench.rates import Rated, rate
from xmdpt_cli.bench.timing import precision
from xmdpt_cli.progress import Progress, silent

SIDE = 224  # pixels of what DINOv2 sees


def measure_encoders(
    device: torch.device,
    dtype: torch.dtype,
    batch: int,
    pixels: int = 256,
    rounds: int = 10,
    progress: Progress = silent,
) -> dict[str, Any]:
    """DINOv2-G (of sources), DINOv2-B (of pose images), the VAE both ways; random weights."""
    parts = {
        name: Rated(run, batch, float(flops(run)), dtype)
        for name, run in _calls(device, dtype, batch, pixels)
    }
    settings = {"batch": batch, "pixels": pixels, "precision": precision(dtype)}
    return rate("encode", settings, device, parts, rounds, progress)


def _calls(
    device: torch.device, dtype: torch.dtype, batch: int, pixels: int
) -> Iterator[tuple[str, Callable[[], object]]]:
    def seen(*shape: int) -> torch.Tensor:
        return torch.rand(batch, *shape).to(device, dtype)

    def call(run: Callable[..., object], *given: torch.Tensor) -> Callable[[], object]:
        return torch.no_grad()(lambda: run(*given))

    small = seen(3, SIDE, SIDE)
    for size in ("giant", "base"):
        yield f"DINOv2 {size}", call(dinov2(size, device, dtype), small)
    vae = placed(sd_vae(), device, dtype)
    yield "VAE encoder", call(vae.encode, seen(3, pixels, pixels))
    yield "VAE decoder", call(vae.decode, seen(4, pixels // 8, pixels // 8))
