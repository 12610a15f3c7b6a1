"""``xmdpt bench --roof``: the least possible time at the published peaks of a device.

A guided step reads every weight once, whatever the batch. Activations can stay in a device's caches
and are not counted, so no program can be faster. The time of a part is the larger of FLOP over peak
and bytes over bandwidth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch

from xmdpt_cli.bench.flops import flops
from xmdpt_cli.bench.random_networks import Inputs, sd_vae
from xmdpt_cli.bench.report import FORMAT
from xmdpt_cli.errors import ConfigError
from xmdpt_cli.model import XMDPT
from xmdpt_cli.report.tables import Table
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
    """The published peaks of a device."""

    name: str
    flops: float  # a second
    bandwidth: float  # bytes a second


class Part(NamedTuple):
    """What is computed ``times`` for one batch."""

    name: str
    flop: float
    weights: int  # bytes read
    times: int = 1

    def seconds(self, peaks: Peaks) -> float:
        return self.times * max(self.flop / peaks.flops, self.weights / peaks.bandwidth)


@dataclass(frozen=True)
class Roof:
    """The least time of one model; ``seconds`` and ``bound`` by device."""

    model: str
    gflop: float  # an image
    weights: int  # bytes
    seconds: dict[str, float]
    bound: dict[str, str]  # what bounds a step: "compute" or "memory"

    def cell(self, device: str) -> str:
        memory = " (memory)" if self.bound[device] == "memory" else ""
        return f"{self.seconds[device]:.3g}{memory}"


@dataclass(frozen=True)
class RoofReport:
    """The least times of several models on several devices."""

    settings: dict[str, Any]
    devices: list[Peaks]
    rows: list[Roof]

    def as_json(self) -> dict[str, Any]:
        devices = [peaks._asdict() for peaks in self.devices]
        return {"format": FORMAT, "kind": "roof", **asdict(self), "devices": devices}

    def table(self) -> Table:
        title = (
            "the least seconds for {images} images of {pixels} px, {steps} guided steps, "
            "{precision}"
        ).format(**self.settings)
        header = [f"{row.model} ({row.gflop:,.0f} GFLOP/img)" for row in self.rows]
        lines = []
        for name, peak, bandwidth in self.devices:
            rates = [f"{peak / 1e12:,.4g}", f"{bandwidth / 1e12:.3g}"]
            lines.append([name, *rates, *(row.cell(name) for row in self.rows)])
        return Table(title, ["", "TFLOP/s", "TB/s", *header], lines)


def known_peaks(precision: str = "bf16") -> list[Peaks]:
    """The devices whose data sheets give both peaks."""
    found = [(name, peak_of(name, precision == "bf16")) for name in _BANDWIDTHS]
    return [Peaks(name, peak, _BANDWIDTHS[name]) for name, peak in found if peak is not None]


def sampling_parts(
    size: str, images: int, steps: int, pixels: int = 256, precision: str = "bf16"
) -> list[Part]:
    """The parts of a guided batch: CANet once, ``steps`` steps of both branches, the VAE's decoder.
    FLOP are counted on the meta device."""
    if precision not in _BYTES:
        raise ConfigError(f"a precision is one of {', '.join(_BYTES)}, not {precision!r}")
    with torch.device("meta"), torch.no_grad():
        model = XMDPT.from_size(size, latent_size=pixels // 8).eval()
        vae = sd_vae("meta")
    *conditions, noise = Inputs.random(model, 1).to("meta", torch.float32)
    condition = model.condition(*conditions).detach()

    def step() -> None:
        model.denoiser(condition, [500], [2.0])(noise, 0)

    def size_of(*modules: torch.nn.Module) -> int:
        return _BYTES[precision] * sum(p.numel() for m in modules for p in m.parameters())

    canet = images * flops(lambda: model.condition(*conditions))
    decoder = images * flops(lambda: vae.decode(noise))
    return [
        Part("CANet", canet, size_of(model.canet)),
        Part("a guided step", images * flops(step), size_of(model.tdnet), steps),
        Part("VAE decoder", decoder, size_of(vae.decoder, vae.post_quant_conv)),
    ]


def roofs(
    sizes: Sequence[str],
    devices: Sequence[Peaks],
    *,
    images: int = 8,
    steps: int = 50,
    pixels: int = 256,
    precision: str = "bf16",
) -> RoofReport:
    """The least seconds for ``images`` images of each size on each device."""
    rows = []
    for size in sizes:
        parts = sampling_parts(size, images, steps, pixels, precision)
        gflop = sum(part.times * part.flop for part in parts) / images / 1e9
        weights = sum(part.weights for part in parts)
        roof = Roof(f"X-MDPT-{size}", gflop, weights, seconds={}, bound={})
        _, step, _ = parts
        for d in devices:
            roof.seconds[d.name] = sum(part.seconds(d) for part in parts)
            reads = step.weights / d.bandwidth > step.flop / d.flops
            roof.bound[d.name] = "memory" if reads else "compute"
        rows.append(roof)
    settings = {"images": images, "steps": steps, "pixels": pixels, "precision": precision}
    return RoofReport(settings, list(devices), rows)
