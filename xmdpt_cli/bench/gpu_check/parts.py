"""The parts of the check, most important first.

Parts of one ``wave`` are prepared at the same time (torch.compile takes most of it, on the
processor) and measured one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from xmdpt_cli.errors import ConfigError

HERE = "xmdpt_cli.bench.gpu_check"


@dataclass(frozen=True)
class Part:
    """``run``: "module:function", called with the setting and ``given``; a generator of rows.

    ``prepare`` and ``measure``: seconds that it may take until ``Ready``, and from there on.
    """

    name: str
    run: str
    wave: int
    prepare: float
    measure: float = 60.0
    given: dict[str, Any] = field(default_factory=dict)


def _sampling(wave: int, size: str, seconds: float | None, **more: Any) -> Part:
    given = {"size": size, "most_seconds": seconds, **more}
    precision = more.get("precision", "bf16")
    name = f"sampling-{size}" + ("" if precision == "bf16" else f"-{precision}")
    return Part(name, f"{HERE}.sampling:sampling", wave, 210, 60, given)


def _training(wave: int, size: str, mfu: float | None) -> Part:
    given = {"size": size, "least_mfu": mfu}
    return Part(f"training-{size}", f"{HERE}.training:training", wave, 270, 60, given)


#: targets for an H100-class GPU: 45 % MFU in training; sampling at a third of the matrix roof
PARTS = (
    Part("goldens", f"{HERE}.goldens:goldens", 0, 90),
    _sampling(1, "S", 0.06),
    _sampling(1, "B", 0.12),
    _sampling(1, "L", 0.32),
    _sampling(1, "S", None, precision="fp32"),
    Part("memory-L-512", f"{HERE}.memory:memory", 1, 210, 60, {"size": "L", "gib": 8}),
    _training(2, "S", None),
    _training(2, "B", 0.45),
    _training(2, "L", 0.45),
    Part("resume", f"{HERE}.resume:resume", 3, 150),
    Part("batch-auto", f"{HERE}.training:batch_auto", 4, 120),
    Part("encoders", f"{HERE}.encoders:encoders", 5, 90),
    Part("resume-compiled", f"{HERE}.resume:resume", 6, 240, given={"compiled": True}),
)


def chosen(names: Sequence[str] | None) -> list[Part]:
    """The parts of these names, in their order; all without names. ConfigError for others."""
    if not names:
        return list(PARTS)
    known = [part.name for part in PARTS]
    for name in names:
        if name not in known:
            raise ConfigError(f"no such part: {name!r}", f"choose from {', '.join(known)}")
    return [part for part in PARTS if part.name in names]
