"""The report: JSON Lines as rows come, then one JSON and one Markdown table for the docs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from xmdpt_cli.bench.gpu_check.rows import BAD, Row
from xmdpt_cli.files import write_text
from xmdpt_cli.report.tables import Table

NAME = "gpu_check"
DRY_RUN = (
    "Dry run with small sizes on a processor: it shows that the check runs, and measures nothing."
)


class Report:
    """Collects rows and writes them at once, so that a killed run leaves its rows."""

    def __init__(self, folder: Path, machine: dict[str, Any], small: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.machine, self.small = folder, machine, small
        self.rows: list[tuple[str, Row]] = []
        self.lines = folder / f"{NAME}.jsonl"
        self.lines.write_text("", encoding="utf-8")
        self.write()

    def add(self, part: str, row: Row) -> None:
        self.rows.append((part, row))
        with self.lines.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"part": part, **dataclasses.asdict(row)}) + "\n")
        self.write()

    @property
    def passed(self) -> bool:
        """Whether every row that ran is right and meets its target."""
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
        text = json.dumps(found, indent=1, allow_nan=False)
        write_text(self.folder / f"{NAME}.json", text + "\n")
        write_text(self.folder / f"{NAME}.md", self.markdown())

    def markdown(self) -> str:
        lines = [f"- {name}: {value}" for name, value in self.machine.items()]
        table = Table(
            "",
            ["part", "check", "value", "target", "result", "note"],
            [
                [part, row.check, row.shown, row.target, row.verdict, row.note]
                for part, row in self.rows
            ],
        )
        head = [f"**{DRY_RUN}**"] if self.small else []
        return "\n\n".join([*head, "\n".join(lines), table.markdown()]) + "\n"
