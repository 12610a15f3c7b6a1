"""The report of a measurement: one JSON form for all of ``xmdpt bench``, and its files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xmdpt_cli.files import write_text
from xmdpt_cli.report.roof_chart import roof_chart
from xmdpt_cli.report.tables import Table

FORMAT = "xmdpt-bench"
VERSION = 1


def report(
    kind: str,
    settings: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    *,
    machine: Mapping[str, Any],
    peak: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """For JSON. ``machine``: as it was before the measurement; ``peak``: what it can do at best,
    where that was measured too."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "kind": kind,
        "machine": dict(machine),
        "settings": dict(settings),
        "peak": dict(peak or {}),
        "rows": list(rows),
    }


def write_report(
    folder: Path, report: Mapping[str, Any], tables: Sequence[Table], notes: Sequence[str]
) -> list[Path]:
    """Write JSON to compare with and Markdown to show, and a plot where generation was measured;
    returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    name = "bench" if report["kind"] == "drawing" else f"bench-{report['kind']}"
    paths = [folder / f"{name}.json", folder / f"{name}.md"]
    write_text(paths[0], json.dumps(report, indent=1, allow_nan=False) + "\n")
    parts = ["\n".join(f"- {note}" for note in notes)]
    if report["kind"] == "drawing":
        paths.append(folder / f"{name}.svg")
        device = report["machine"]["identity"]
        on = device["processor"] if device["device"] == "cpu" else device["device"]
        write_text(paths[2], roof_chart(report, f"Time against work, {on}"))
        parts.append(f"![Time per image against its FLOPs, with the machine's roof]({name}.svg)")
    parts += [f"**{one.title}**\n\n{one.markdown()}" for one in tables]
    write_text(paths[1], "\n\n".join(parts) + "\n")
    return paths
