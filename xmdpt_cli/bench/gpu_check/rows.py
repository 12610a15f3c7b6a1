"""The rows of the report, how they are judged, and the report itself."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xmdpt_cli.files import write_text
from xmdpt_cli.report.tables import Table

if TYPE_CHECKING:  # the process that runs the parts does without
    import torch

OK, MISSED, FAILED, MEASURED, NOT_RUN = "ok", "missed", "failed", "measured", "not run"
#: verdicts with which the exit code is 1
BAD = (MISSED, FAILED)
DRY_RUN = (
    "Dry run with small sizes on a processor: it shows that the check runs, and measures nothing."
)


@dataclass(frozen=True)
class Row:
    """``value`` is None for a row without a number; ``target`` is empty without a target."""

    check: str
    value: float | None = None
    unit: str = ""
    target: str = ""
    verdict: str = MEASURED
    note: str = ""

    @property
    def shown(self) -> str:
        """The value with three digits and its unit."""
        if self.value is None:
            return ""
        digits = f"{self.value:.3g}" if abs(self.value) < 1000 else f"{self.value:,.0f}"
        return f"{digits} {self.unit}".strip()


@dataclass(frozen=True)
class Ready:
    """Yielded by a part that is prepared (built, compiled) and waits to have the device alone."""


@dataclass(frozen=True)
class Setting:
    """What all parts of a run share. ``small``: a dry run, whose speed is not judged."""

    device: str
    small: bool
    work: Path  # for datasets and runs; removed at the end
    goldens: Path | None = None
    compile: bool = True

    @property
    def where(self) -> torch.device:
        import torch

        return torch.device(self.device)

    def pick(self, full: int, small: int) -> int:
        """``full`` in a real run, ``small`` in a dry run."""
        return small if self.small else full

    def size(self, full: str) -> str:
        """A model's size: tiny in a dry run."""
        return "tiny" if self.small else full


def at_most(check: str, value: float, limit: float, unit: str = "", note: str = "") -> Row:
    """A value that must not exceed ``limit`` on any device; NaN is missed."""
    target = f"<= {limit:g} {unit}".strip()
    return Row(check, _finite(value), unit, target, OK if value <= limit else MISSED, note)


def holds(check: str, true: bool, target: str, note: str = "") -> Row:
    """A condition that must be true on any device."""
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
    """A measured value, judged against its target if there is one and the run is no dry run."""
    if most is None and least is None:
        return Row(check, _finite(value), unit, note=note)
    target = f"<= {most:g} {unit}" if most is not None else f">= {least:g} {unit}"
    met = value <= most if most is not None else value >= (least or 0.0)
    verdict = MEASURED if setting.small else OK if met else MISSED
    return Row(check, _finite(value), unit, target, verdict, note)


def _finite(value: float) -> float | None:
    """None for NaN and infinity, which JSON lacks."""
    return value if math.isfinite(value) else None


@dataclass
class Report:
    """The rows so far, written after every row: JSON Lines, one JSON, and a Markdown table."""

    folder: Path
    machine: dict[str, Any]
    small: bool
    rows: list[tuple[str, Row]] = field(default_factory=list)  # (part, row)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.write()

    def add(self, part: str, row: Row) -> None:
        self.rows.append((part, row))
        self.write()

    @property
    def passed(self) -> bool:
        """Whether no row is missed or failed."""
        return not any(row.verdict in BAD for _, row in self.rows)

    def write(self) -> None:
        rows = [{"part": part, **dataclasses.asdict(row)} for part, row in self.rows]
        found = {
            "format": "xmdpt-gpu-check",
            "version": 1,
            "dry_run": self.small,
            "machine": self.machine,
            "passed": self.passed,
            "rows": rows,
        }
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        write_text(self.folder / "gpu_check.jsonl", lines)
        write_text(self.folder / "gpu_check.json", json.dumps(found, indent=1, allow_nan=False))
        write_text(self.folder / "gpu_check.md", self.markdown())

    def markdown(self) -> str:
        machine = "\n".join(f"- {name}: {value}" for name, value in self.machine.items())
        header = ["part", "check", "value", "target", "result", "note"]
        rows = [
            [part, row.check, row.shown, row.target, row.verdict, row.note]
            for part, row in self.rows
        ]
        head = [f"**{DRY_RUN}**"] if self.small else []
        return "\n\n".join([*head, machine, Table("", header, rows).markdown()]) + "\n"
