"""The least time on paper: what a device must compute and move, at its published peaks.

A guided step reads every weight once, whatever the batch; what lies between the blocks can stay in
a device's caches and is not counted, so no program can be faster than this. The time of a part is
the larger of FLOP over the peak and bytes over the bandwidth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from xmdpt_cli.bench.flops import flops
from xmdpt_cli.bench.frozen import sd_vae
from xmdpt_cli.bench.generation import Inputs
from xmdpt_cli.bench.report import FORMAT
from xmdpt_cli.errors import ConfigError
from xmdpt_cli.model import XMDPT
from xmdpt_cli.training.flops import peak_of

#: bytes a second between a device and its memory, as published (NVIDIA's and AMD's data sheets)
_BANDWIDTHS = {
    "A100": 2.039e12,
    "H100": 3.35e12,
    "H200": 4.8e12,
    "B200": 8.0e12,
    "L40S": 0.864e12,
    "RTX 4090": 1.008e12,
    "MI300X": 5.3e12,
}
_BYTES = {"bf16": 2, "fp32": 4}


class Peaks(NamedTuple):
    """What a device can do at best."""

    name: str
    flops: float  # a second
    bandwidth: float  # bytes a second


class Part(NamedTuple):
    """What is done ``times`` for one batch."""

    name: str
    flop: float
    weights: int  # bytes read
    times: int = 1

    def seconds(self, peaks: Peaks) -> float:
        return self.times * max(self.flop / peaks.flops, self.weights / peaks.bandwidth)


def known_peaks(precision: str = "bf16") -> list[Peaks]:
    """Of the devices whose data sheets say both."""
    found = [(name, peak_of(name, precision == "bf16")) for name in _BANDWIDTHS]
    return [Peaks(name, peak, _BANDWIDTHS[name]) for name, peak in found if peak is not None]


def drawing(
    size: str, images: int, steps: int, pixels: int = 256, precision: str = "bf16"
) -> list[Part]:
    """What a guided batch takes: CANet once, ``steps`` steps of both branches, the VAE's decoder.
    Counted on the meta device."""
    if precision not in _BYTES:
        raise ConfigError(f"a precision is one of {', '.join(_BYTES)}, not {precision!r}")
    with torch.device("meta"), torch.no_grad():
        model = XMDPT.from_size(size, latent_size=pixels // 8).eval()
        vae = sd_vae()
    inputs = Inputs.of(model, 1)
    given = [x.to("meta", torch.float32) for x in (inputs.pose, inputs.source, inputs.latents)]
    noise = inputs.noise.to("meta")
    condition = model.condition(*given).detach()

    def step() -> None:
        model.denoiser(condition, [500], [2.0])(noise, 0)

    width, canet = _BYTES[precision], model.canet
    return [
        Part("CANet", images * flops(lambda: model.condition(*given)), width * _count(canet)),
        Part("a guided step", images * flops(step), width * _count(model.tdnet), steps),
        Part(
            "VAE decoder",
            images * flops(lambda: vae.decode(noise)),
            width * (_count(vae.decoder) + _count(vae.post_quant_conv)),
        ),
    ]


def roofs(
    sizes: Sequence[str],
    devices: Sequence[Peaks],
    *,
    images: int = 8,
    steps: int = 50,
    pixels: int = 256,
    precision: str = "bf16",
) -> dict[str, Any]:
    """For JSON: the least seconds for ``images`` of each size on each device, and what bounds a
    step there: ``compute`` or ``memory``."""
    rows = []
    for size in sizes:
        parts = drawing(size, images, steps, pixels, precision)
        step = parts[1]
        rows.append({
            "model": f"X-MDPT-{size}",
            "gflop": sum(part.times * part.flop for part in parts) / images / 1e9,
            "weights": sum(part.weights for part in parts),
            "seconds": {d.name: sum(part.seconds(d) for part in parts) for d in devices},
            "bound": {
                d.name: "memory" if step.weights / d.bandwidth > step.flop / d.flops else "compute"
                for d in devices
            },
        })  # fmt: skip
    return {
        "format": FORMAT,
        "kind": "roof",
        "settings": {
            "images": images,
            "steps": steps,
            "pixels": pixels,
            "precision": precision,
        },
        "devices": [device._asdict() for device in devices],
        "rows": rows,
    }


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
