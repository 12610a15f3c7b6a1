"""The tables of an evaluation's page: rows and metrics of a protocol, protocols side by side, the
networks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xmdpt_cli.metrics.evaluation import Evaluation
from xmdpt_cli.report.metric_values import (
    NONE,
    Heading,
    heading,
    interval,
    interval_text,
    main_row,
    measured,
    ordered,
    shown,
)
from xmdpt_cli.report.pages import code
from xmdpt_cli.report.tables import Table

ABOUT = {
    "copy-source": "the source image itself, as if no pose had been transferred",
    "mean-image": "one average image, the same for every pair",
    "vae-reconstruction": "the ground truth through the VAE: the best a latent model can do",
    "ground-truth": "the ground truth images, compared with the reference set",
}

Reference = Sequence[Mapping[str, Any]]

#: the X-MDPT paper (ICML 2024), Table 1, by resolution. It does not state which of the two SSIMs of
#: this field it uses; probably ``ssim_256``.
_TABLE_1: dict[int, Reference] = {
    256: [
        {"name": "VAE reconstruction", "FID": "8.0126", "SSIM": "0.9168", "LPIPS": "0.0142"},
        {"name": "ground truth", "FID": "7.8610"},
    ],
    512: [
        {"name": "VAE reconstruction", "FID": "8.1815", "SSIM": "0.9122", "LPIPS": "0.0266"},
        {"name": "ground truth", "FID": "7.9150"},
    ],
}


def paper_rows(evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """The paper's calibration rows for these evaluations' size: {"name": ..., "FID": ...}, values
    as printed."""
    large = any(size == "352x512" for evaluation in evaluations for size in evaluation.sizes)
    return [dict(row) for row in _TABLE_1[512 if large else 256]]


@dataclass(frozen=True)
class Cell:
    text: str
    notes: tuple[str, ...] = ()  # below it, in small letters


@dataclass(frozen=True)
class MetricRow:
    kind: str  # of its style: main, soft, spread, printed, or group: a heading of the rows below
    label: str
    cells: Sequence[Cell] = ()
    about: str = ""


@dataclass(frozen=True)
class MetricTable:
    corner: str
    metrics: list[Heading]
    rows: list[MetricRow]
    extra: Sequence[str] = ()  # headings of columns behind the metrics


def protocol_table(evaluation: Evaluation, reference: Reference = ()) -> MetricTable:
    """A row for the generated images, each calibration row and each paper; a column per metric."""
    metrics = ordered([*measured(evaluation), *_named(reference)])
    main = main_row(evaluation)
    # the page shows the number of pairs: a column only if rows differ
    counts = {evaluation.counts.get(row) for row in evaluation.rows}
    extra = ["images"] if len(counts) > 1 else []

    def line(row: str, kind: str) -> MetricRow:
        cells = [_cell(evaluation, row, metric) for metric in metrics]
        count = evaluation.counts.get(row)
        cells += [Cell(NONE if count is None else f"{count:,}") for _ in extra]
        return MetricRow(kind, row, cells, ABOUT.get(row, ""))

    rows = [line(main, "main")] if main in evaluation.rows else []
    others = [line(row, "soft") for row in evaluation.rows if row != main]
    if others:
        rows += [MetricRow("group", "Reference values"), *others]
    rows += _printed(reference, [*metrics, *extra])
    return MetricTable("", [heading(metric, evaluation) for metric in metrics], rows, extra)


def side_by_side(evaluations: Sequence[Evaluation], reference: Reference = ()) -> MetricTable:
    """The generated images under every protocol, how far these differ, papers."""
    found = [(evaluation, main_row(evaluation)) for evaluation in evaluations]
    measured_here = [metric for one, row in found for metric in one.rows.get(row, {})]
    metrics = ordered([*measured_here, *_named(reference)])
    rows = [
        MetricRow("main", one.protocol, [_cell(one, row, metric) for metric in metrics])
        for one, row in found
    ]
    spread = []
    for metric in metrics:
        values = [one.rows.get(row, {}).get(metric) for one, row in found]
        known = [v for v in values if v is not None and math.isfinite(v)]
        spread.append(Cell(shown(metric, max(known) - min(known)) if len(known) > 1 else ""))
    rows.append(MetricRow("spread", "largest − smallest", spread))
    rows += _printed(reference, metrics)
    return MetricTable("Protocol", [heading(metric, *evaluations) for metric in metrics], rows)


def weights_table(evaluations: Sequence[Evaluation]) -> Table:
    """The network weights of each metric; empty without networks."""
    used: dict[tuple[str, str], list[str]] = {}
    for evaluation in evaluations:
        for metric, weights in evaluation.weights.items():
            used.setdefault((metric, weights), []).append(evaluation.protocol)
    rows = [[metric, code(weights), ", ".join(of)] for (metric, weights), of in used.items()]
    return Table("", ["Metric", "Weights", "Protocols"], rows)


def _cell(evaluation: Evaluation, row: str, metric: str) -> Cell:
    value = evaluation.rows.get(row, {}).get(metric)
    notes = []
    ends = interval(evaluation, row, metric)
    if value is not None and ends is not None:
        notes.append(interval_text(metric, ends))
    missing = evaluation.undefined.get(row, {}).get(metric)
    if missing:
        notes.append(f"{missing:,} undefined")
    dropped = evaluation.drop_last.get(metric)
    if dropped and value is not None:
        notes.append(f"{dropped['used']:,} of {dropped['of']:,} pairs")
    return Cell(shown(metric, value), tuple(notes))


def _named(reference: Reference) -> list[str]:
    return [metric for row in reference for metric in row if metric != "name"]


def _printed(reference: Reference, columns: Sequence[str]) -> list[MetricRow]:
    """Published numbers with the decimals that they were given with."""
    rows = [MetricRow("group", "Printed in papers")] if reference else []
    for row in reference:
        values = [row.get(name) for name in columns]
        cells = [Cell(NONE if value is None else str(value)) for value in values]
        rows.append(MetricRow("printed", str(row.get("name", "")), cells))
    return rows
