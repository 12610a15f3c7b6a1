"""The parts of the check, most important first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from xmdpt_cli.errors import ConfigError

HERE = "xmdpt_cli.bench.gpu_check"
GOLDENS, ENCODERS = f"{HERE}.goldens:goldens", f"{HERE}.encoders:encoders"
SAMPLING, MEMORY = f"{HERE}.sampling:sampling", f"{HERE}.sampling:memory"
FEW_STEPS = f"{HERE}.few_steps:few_steps"
TRAINING, BATCH_AUTO = f"{HERE}.training:training", f"{HERE}.training:batch_auto"
RESUME = f"{HERE}.resume:resume"


@dataclass(frozen=True)
class Part:
    """``run``: "module:function", a generator of rows, called with the setting and ``arguments``.

    The parts of one ``wave`` are prepared at the same time (most of it is torch.compile, on the
    processor) and then measured one after the other. ``prepare`` and ``measure``: seconds that a
    part may take until ``Ready``, and from there on.
    """

    name: str
    run: str
    wave: int
    prepare: float
    arguments: dict[str, Any] = field(default_factory=dict)
    measure: float = 60.0


#: targets for an H100-class GPU: 45 % MFU in training; sampling at a third of the matrix roof
PARTS = (
    Part("goldens", GOLDENS, 0, 90),
    Part("sampling-S", SAMPLING, 1, 210, {"size": "S", "most_seconds": 0.06}),
    Part("sampling-B", SAMPLING, 1, 210, {"size": "B", "most_seconds": 0.12}),
    Part("sampling-L", SAMPLING, 1, 210, {"size": "L", "most_seconds": 0.32}),
    Part("few-steps-S", FEW_STEPS, 1, 210, {"size": "S", "most_seconds": 0.015}),
    Part("few-steps-B", FEW_STEPS, 1, 210, {"size": "B", "most_seconds": 0.025}),
    Part("few-steps-L", FEW_STEPS, 1, 210, {"size": "L", "most_seconds": 0.06}),
    Part("sampling-S-fp32", SAMPLING, 1, 210, {"size": "S", "precision": "fp32"}),
    Part("memory-L-512", MEMORY, 1, 210, {"size": "L", "gib": 8}),
    Part("training-S", TRAINING, 2, 270, {"size": "S"}),
    Part("training-B", TRAINING, 2, 270, {"size": "B", "least_mfu": 45}),
    Part("training-L", TRAINING, 2, 270, {"size": "L", "least_mfu": 45}),
    Part("training-tokens", TRAINING, 2, 270, {"size": "S", "preset": "fast/tokens-256"}),
    Part("resume", RESUME, 3, 150),
    Part("batch-auto", BATCH_AUTO, 4, 120),
    Part("encoders", ENCODERS, 5, 90),
    Part("resume-compiled", RESUME, 6, 420, {"compiled": True}),
)


def chosen(names: Sequence[str] | None) -> list[Part]:
    """The parts of these names, in the order of ``PARTS``; all without names. ConfigError for an
    unknown name."""
    if not names:
        return list(PARTS)
    known = [part.name for part in PARTS]
    for name in names:
        if name not in known:
            raise ConfigError(f"no such part: {name!r}", f"choose from {', '.join(known)}")
    return [part for part in PARTS if part.name in names]
