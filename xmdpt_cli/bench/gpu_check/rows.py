"""A row of the report, and how it is judged."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the process that runs the parts does without
    import torch

OK, MISSED, FAILED, MEASURED, NOT_RUN = "ok", "missed", "failed", "measured", "not run"
#: what ends the command with exit code 1
BAD = (MISSED, FAILED)


@dataclass(frozen=True)
class Row:
    """``value`` is None where there is none; ``target`` is empty where nothing is asked for."""

    check: str
    value: float | None = None
    unit: str = ""
    target: str = ""
    verdict: str = MEASURED
    note: str = ""

    @property
    def shown(self) -> str:
        """The value with its unit, for people."""
        if self.value is None:
            return ""
        digits = f"{self.value:.3g}" if abs(self.value) < 1000 else f"{self.value:,.0f}"
        return f"{digits} {self.unit}".strip()


@dataclass(frozen=True)
class Ready:
    """A part is prepared (built, compiled) and waits until it has the device for itself."""


@dataclass(frozen=True)
class Setting:
    """What all parts of a run share. ``small``: a dry run, whose speed is not judged."""

    device: str
    small: bool
    work: Path  # for datasets and runs; removed in the end
    goldens: Path | None = None
    compile: bool = True

    @property
    def where(self) -> torch.device:
        import torch

        return torch.device(self.device)

    def pick(self, full: int, small: int) -> int:
        """A number of a real run, or of a dry run."""
        return small if self.small else full

    def size(self, full: str) -> str:
        """A model's size; a dry run has tiny models for all."""
        return "tiny" if self.small else full


def at_most(check: str, value: float, limit: float, unit: str = "", note: str = "") -> Row:
    """Right or wrong, on any device; NaN is wrong."""
    target = f"<= {limit:g} {unit}".strip()
    return Row(check, _finite(value), unit, target, OK if value <= limit else MISSED, note)


def holds(check: str, true: bool, target: str, note: str = "") -> Row:
    """Right or wrong, without a number."""
    return Row(check, None, "", target, OK if true else MISSED, note)


def speed(
    setting: Setting,
    check: str,
    value: float,
    unit: str,
    *,
    most: float | None = None,
    least: float | None = None,
    note: str = "",
) -> Row:
    """A measured value against its target, which a dry run names and does not judge."""
    if most is None and least is None:
        return Row(check, _finite(value), unit, note=note)
    target = f"<= {most:g} {unit}" if most is not None else f">= {least:g} {unit}"
    met = value <= most if most is not None else value >= (least or 0.0)
    verdict = MEASURED if setting.small else OK if met else MISSED
    return Row(check, _finite(value), unit, target, verdict, note)


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None
