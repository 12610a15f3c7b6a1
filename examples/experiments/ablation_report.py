"""The table and the charts of ``ablations.py``: means and paired differences over seeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from held_out import LPIPS, MEASURES
from scipy import stats

from xmdpt_cli.files import write_bytes, write_text
from xmdpt_cli.report.charts import COLOURS, Chart, Estimate, Line, interval_chart, line_chart
from xmdpt_cli.report.tables import Table

BASE = "base"  # the row that the others are compared with
MAIN = "ssim_256"  # the metric of the charts
NAMES = {
    "ssim_256": "ssim_256",
    "psnr": "PSNR",
    LPIPS: "LPIPS (toy)",
    "torso_colour_error": "torso colour error",
    "silhouette_iou": "silhouette IoU",
}
NO_INTERVAL = "one seed: no interval"
Record = dict[str, Any]
Groups = dict[str, dict[int, Record]]  # row -> seed -> record


def write_report(out: Path, records: Sequence[Record], about: str) -> None:
    """Write records.json, table.md and the charts. ``about``: the first line of the table."""
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "records.json", json.dumps(list(records), indent=1))
    groups: Groups = {}
    for record in records:
        groups.setdefault(record["row"], {})[record["seed"]] = record
    parts = [about]
    if groups:
        parts.append(means(groups).markdown())
    if BASE in groups and len(groups) > 1:
        parts += difference_table(groups)
        _save(out / "differences", difference_chart(groups))
        if all(record["curve"] for record in records):
            parts += compute_table(groups)
            _save(out / "curve", curve_chart(groups))
    write_text(out / "table.md", "\n\n".join(parts) + "\n")


def t_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and half the width of its 95 % interval by Student's t; None for one value."""
    n = len(values)
    if n < 2:
        return float(np.mean(values)), None
    half = stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n)
    return float(np.mean(values)), float(half)


def differences(group: dict[int, Record], base: dict[int, Record], measure: str) -> list[float]:
    """Score minus the base's score of the same seed, for the seeds that both have."""
    return [
        group[seed]["scores"][measure] - base[seed]["scores"][measure]
        for seed in group
        if seed in base
    ]


def means(groups: Groups) -> Table:
    """The mean of each metric, and half the width of its interval."""
    measures, rows = _measures(groups), []
    for group in groups.values():
        first = next(iter(group.values()))
        cells = [_cell([r["scores"][name] for r in group.values()]) for name in measures]
        gflop = f"{first['flops'] / 1e9:.3g}"
        rows.append([_title(group), str(first["steps"]), gflop, str(len(group)), *cells])
    header = ["row", "steps", "GFLOP a step", "seeds", *(NAMES[name] for name in measures)]
    return Table("", header, rows)


def difference_table(groups: Groups) -> list[str]:
    """Paired differences; those whose interval excludes 0 are marked."""
    measures, rows = _measures(groups), []
    for row, group in groups.items():
        if row != BASE:
            each = [differences(group, groups[BASE], name) for name in measures]
            cells = [
                _marked(found, MEASURES[name]) if found else ""
                for name, found in zip(measures, each, strict=True)
            ]
            rows.append([_title(group), *cells])
    note = "bold: the 95 % interval excludes 0" if _have_intervals(groups) else NO_INTERVAL
    about = f"Difference to the base with the same seed; {note}."
    return [about, Table("", ["row", *(NAMES[name] for name in measures)], rows).markdown()]


def _marked(values: Sequence[float], more_is_better: bool) -> str:
    mean, half = t_interval(values)
    text = f"{_cell(values, '+.3g')}"
    if half is None or abs(mean) <= half:
        return text
    return f"**{text} {'better' if (mean > 0) == more_is_better else 'worse'}**"


def compute_table(groups: Groups) -> list[str]:
    """The share of the base's FLOPs after which a row has the base's final score."""
    base = groups[BASE]
    wanted = float(np.mean([record["scores"][MAIN] for record in base.values()]))
    rows = []
    for row, group in groups.items():
        if row != BASE:
            share = reached(curve_of(group, base), wanted)
            rows.append([_title(group), "not reached" if share is None else f"{share:.2f}"])
    about = f"Training FLOPs until the base's final {NAMES[MAIN]} ({wanted:.3f}) is reached"
    return [Table("", ["row", f"{about}, as a share of the base's"], rows).markdown()]


def curve_of(group: dict[int, Record], base: dict[int, Record]) -> list[tuple[float, float]]:
    """(share of the FLOPs of the base's run, mean score over the seeds), by share."""
    total = next(r["steps"] * r["flops"] for r in base.values())
    points: dict[int, list[float]] = {}
    for record in group.values():
        for point in record["curve"]:
            points.setdefault(point["steps"], []).append(point["scores"][MAIN])
    flops = next(r["flops"] for r in group.values())
    return [
        (round(step * flops / total, 2), float(np.mean(points[step]))) for step in sorted(points)
    ]


def reached(curve: Sequence[tuple[float, float]], wanted: float) -> float | None:
    """Where a curve first has a value, by linear interpolation; None: nowhere."""
    before: tuple[float, float] | None = None
    for x, y in curve:
        if y >= wanted:
            if before is None:
                return x
            return before[0] + (x - before[0]) * (wanted - before[1]) / (y - before[1])
        before = x, y
    return None


def difference_chart(groups: Groups) -> Chart:
    """The paired differences of the main metric."""
    rows = []
    for row, group in groups.items():
        found = differences(group, groups[BASE], MAIN)
        if row != BASE and found:
            mean, half = t_interval(found)
            interval = None if half is None else (mean - half, mean + half)
            rows.append(Estimate(_title(group), mean, interval))
    title = f"{NAMES[MAIN]} of held-out pairs: difference to {_title(groups[BASE])}"
    whole = "mean and 95 % interval over the seeds"
    return interval_chart(rows, whole if _have_intervals(groups) else NO_INTERVAL, title)


def _have_intervals(groups: Groups) -> bool:
    """Whether any row shares two seeds or more with the base."""
    return any(
        len(set(group) & set(groups[BASE])) > 1 for row, group in groups.items() if row != BASE
    )


def curve_chart(groups: Groups) -> Chart:
    """The main metric against the FLOPs of training, of the base and of the best rows."""
    curves = {row: curve_of(group, groups[BASE]) for row, group in groups.items()}
    ranked = sorted(curves, key=lambda row: (row != BASE, -curves[row][-1][1]))
    lines = [Line(_title(groups[row]), curves[row]) for row in ranked[: len(COLOURS)]]
    across = "training FLOPs, as a share of the base's"
    return line_chart(lines, across, "", f"{NAMES[MAIN]} of held-out pairs, the best rows")


def _title(group: dict[int, Record]) -> str:
    return str(next(iter(group.values()))["title"])


def _measures(groups: Groups) -> list[str]:
    """The metrics that every record has."""
    records = [record for group in groups.values() for record in group.values()]
    return [name for name in MEASURES if all(name in record["scores"] for record in records)]


def _cell(values: Sequence[float], form: str = ".4g") -> str:
    mean, half = t_interval(values)
    return f"{mean:{form}}" + ("" if half is None else f" ± {half:.2g}")


def _save(path: Path, chart: Chart) -> None:
    write_text(path.with_suffix(".svg"), chart.svg())
    write_bytes(path.with_suffix(".png"), chart.png())
