"""The page's tables: rows and metrics of a protocol, protocols side by side, the networks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from xmdpt_cli.metrics.evaluation import Evaluation, Value
from xmdpt_cli.report.html import code, table
from xmdpt_cli.report.metric_values import (
    NONE,
    heading,
    interval,
    interval_text,
    main_row,
    measured,
    ordered,
    shown,
)

ABOUT = {
    "copy-source": "the source image itself, as if no pose had been asked for",
    "mean-image": "one average image, the same for every pair",
    "vae-reconstruction": "the ground truth through the VAE: the best a latent model can do",
    "ground-truth": "the ground truths themselves, beside the reference set",
}
PRINTED = "Printed in papers"

Reference = Sequence[Mapping[str, Any]]


def protocol_table(report: Evaluation, reference: Reference = ()) -> str:
    """Rows down, metrics across: the generated pictures, what calibrates them, papers."""
    metrics = ordered([*measured(report), *_named(reference)])
    main = main_row(report)
    # the page says how many pairs there are: a column only where a row has another number
    counts = {report.counts.get(row) for row in report.rows}
    extra = ["images"] if len(counts) > 1 else []
    lines = [_line(report, main, main, metrics, extra)] if main in report.rows else []
    others = [row for row in report.rows if row != main]
    if others:
        lines.append(_group("To calibrate the eye", metrics + extra))
        lines += [_line(report, row, row, metrics, extra, "soft") for row in others]
    lines += _printed(reference, metrics, extra)
    head = [heading(metric, report) for metric in metrics]
    return _metric_table("", head + extra, lines)


def side_by_side(reports: Sequence[Evaluation], reference: Reference = ()) -> str:
    """The generated pictures under every protocol, how far these differ, papers."""
    metrics = ordered([*(m for r in reports for m in _main(r)), *_named(reference)])
    lines = [_line(report, main_row(report), report.protocol, metrics) for report in reports]
    lines.append(_spread(reports, metrics))
    lines += _printed(reference, metrics)
    head = [heading(metric, *reports) for metric in metrics]
    return _metric_table("Protocol", head, lines)


def legend(reports: Sequence[Evaluation]) -> str:
    """How to read the tables."""
    parts = ["Arrows show which way is better."]
    if any(report.intervals for report in reports):
        parts.append("Small numbers are 95 % intervals.")
    if any(report.undefined for report in reports):
        parts.append("Means are over the pictures where a measure is defined.")
    return f'<p class="legend">{" ".join(parts)}</p>'


def weights_table(reports: Sequence[Evaluation]) -> str:
    """Which network weights a metric was measured with; nothing where none was needed."""
    used: dict[tuple[str, str], list[str]] = {}
    for report in reports:
        for metric, weights in report.weights.items():
            used.setdefault((metric, weights), []).append(report.protocol)
    if not used:
        return ""
    rows = [
        (escape(metric), code(weights), escape(", ".join(protocols)))
        for (metric, weights), protocols in used.items()
    ]
    return (
        '<h2>Networks</h2><p class="soft">A value compares only with values of the same weights.'
        f'</p><div class="card">{table(("Metric", "Weights", "Protocols"), rows)}</div>'
    )


def _main(report: Evaluation) -> dict[str, Value]:
    return report.rows.get(main_row(report), {})


def _line(
    report: Evaluation,
    row: str,
    label: str,
    metrics: Sequence[str],
    extra: Sequence[str] = (),
    kind: str = "main",
) -> str:
    about = f"<small>{escape(ABOUT[row])}</small>" if row in ABOUT else ""
    cells = "".join(_cell(report, row, metric) for metric in metrics)
    count = report.counts.get(row)
    cells += "".join(f'<td class="n">{NONE if count is None else f"{count:,}"}</td>' for _ in extra)
    return f'<tr class="{kind}"><th scope="row">{escape(label)}{about}</th>{cells}</tr>'


def _cell(report: Evaluation, row: str, metric: str) -> str:
    value = report.rows.get(row, {}).get(metric)
    text = f"<b>{shown(metric, value)}</b>"
    ends = interval(report, row, metric)
    if value is not None and ends is not None:
        text += f"<small>{interval_text(metric, ends)}</small>"
    missing = report.undefined.get(row, {}).get(metric)
    if missing:
        text += f"<small>{missing:,} undefined</small>"
    dropped = report.drop_last.get(metric)
    if dropped and value is not None:
        text += f"<small>{dropped['used']:,} of {dropped['of']:,} pairs</small>"
    return f'<td class="n">{text}</td>'


def _spread(reports: Sequence[Evaluation], metrics: Iterable[str]) -> str:
    cells = []
    for metric in metrics:
        values = [_main(report).get(metric) for report in reports]
        known = [v for v in values if v is not None and math.isfinite(v)]
        far = shown(metric, max(known) - min(known)) if len(known) > 1 else ""
        cells.append(f'<td class="n">{far}</td>')
    return f'<tr class="spread"><th scope="row">largest − smallest</th>{"".join(cells)}</tr>'


def _named(reference: Reference) -> list[str]:
    return [metric for row in reference for metric in row if metric != "name"]


def _printed(reference: Reference, metrics: Sequence[str], extra: Sequence[str] = ()) -> list[str]:
    """Their numbers with the decimals that they were given with."""
    columns = [*metrics, *extra]
    lines = [_group(PRINTED, columns)] if reference else []
    for row in reference:
        cells = "".join(f'<td class="n">{_as_printed(row.get(name))}</td>' for name in columns)
        name = escape(str(row.get("name", "")))
        lines.append(f'<tr class="printed"><th scope="row">{name}</th>{cells}</tr>')
    return lines


def _as_printed(value: Any) -> str:
    return NONE if value is None else escape(str(value))


def _group(name: str, columns: Sequence[str]) -> str:
    return (
        f'<tr class="group"><th colspan="{len(columns) + 1}"><span>{escape(name)}</span></th></tr>'
    )


def _metric_table(corner: str, columns: Sequence[str], lines: Sequence[str]) -> str:
    """``columns`` and ``lines`` are HTML."""
    head = "".join(f'<th class="n" scope="col">{column}</th>' for column in columns)
    hint = '<p class="swipe">The table scrolls sideways \u2192</p>' if len(columns) > 2 else ""
    return (
        f'{hint}<div class="scroll" tabindex="0" role="group" aria-label="Numbers">'
        f'<table class="metrics"><tr><th>{corner}</th>{head}</tr>{"".join(lines)}</table></div>'
    )
