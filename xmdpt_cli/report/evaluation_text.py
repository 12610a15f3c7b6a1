"""Evaluations as cells of text, for the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from xmdpt_cli.metrics.evaluation import Evaluation
from xmdpt_cli.report.metric_values import fixed, ordered, style
from xmdpt_cli.report.tables import Table


def table(evaluation: Evaluation) -> Table:
    """A line for each metric, with an arrow towards better values; ±: half of the 95 % interval."""
    rows = evaluation.rows
    lines = _lines(rows.values(), lambda metric: [_shown(evaluation, row, metric) for row in rows])
    lines.append(["images", *(str(evaluation.counts[name]) for name in evaluation.rows)])
    for metric, left in evaluation.drop_last.items():
        used = str(left["used"])  # without the last partial batch
        lines.append(
            [f"images, {metric}", *(used if metric in row else "-" for row in rows.values())]
        )
    return Table("", ["", *evaluation.rows], lines)


def beside(evaluations: Sequence[Evaluation], row: str = "generated") -> Table:
    """One row of several evaluations: a line for each metric, a column for each protocol."""
    lines = _lines(
        [evaluation.rows[row] for evaluation in evaluations],
        lambda metric: [_shown(evaluation, row, metric) for evaluation in evaluations],
    )
    return Table("", ["", *(evaluation.protocol for evaluation in evaluations)], lines)


def seeds_table(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Table:
    """``over_seeds`` as cells: a line for each metric, a column for each protocol."""

    def cell(metric: str, metrics: Mapping[str, Mapping[str, Any]]) -> str:
        mean, std = (metrics.get(metric, {}).get(name) for name in ("mean", "std"))
        shown = "-" if mean is None else fixed(mean, style(metric).digits)
        return shown if std is None else f"{shown}, {fixed(std, style(metric).digits)}"

    lines = _lines(found.values(), lambda metric: [cell(metric, one) for one in found.values()])
    return Table("", ["", *found], lines)


def _lines(measured: Iterable[Iterable[str]], cells: Callable[[str], list[str]]) -> list[list[str]]:
    """A line for each metric of ``measured``: name, arrow towards better values, cells."""
    arrows = {True: " ↑", False: " ↓", None: ""}
    names = ordered(metric for metrics in measured for metric in metrics)
    return [[f"{metric}{arrows[style(metric).higher]}", *cells(metric)] for metric in names]


def _shown(evaluation: Evaluation, row: str, metric: str) -> str:
    """The value, and half of its interval where there is one."""
    value = evaluation.rows[row].get(metric)
    if value is None or math.isnan(value):
        return "-"
    if math.isinf(value):
        return "inf"
    digits, ends = style(metric).digits, evaluation.intervals.get(row, {}).get(metric)
    half = "" if ends is None else f" ±{fixed((ends[1] - ends[0]) / 2, digits)}"
    return f"{fixed(value, digits)}{half}"
