"""The report of an evaluation as a page: one HTML file that opens anywhere, without a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from xmdpt_cli.files import write_bytes
from xmdpt_cli.metrics.evaluation import Evaluation
from xmdpt_cli.metrics.sizes import REFERENCE
from xmdpt_cli.report.evaluation_pairs import Pictures, pairs_section
from xmdpt_cli.report.evaluation_spread import spread_section
from xmdpt_cli.report.evaluation_style import STYLE
from xmdpt_cli.report.evaluation_tables import legend, protocol_table, side_by_side, weights_table
from xmdpt_cli.report.html import document, tiles
from xmdpt_cli.report.metric_values import main_row
from xmdpt_cli.utils.redact import shown


def write_page(
    path: str | Path,
    reports: Sequence[Evaluation],
    pictures: Pictures,
    *,
    title: str,
    reference: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write the page about ``reports``: one a protocol, all of the same pairs in the same order.

    ``pictures(name)``: what to show of a pair, in order, by what it is ("source", "pose",
    "truth", "generated"); asked only for the few pairs shown, and an XmdptError is shown in
    their place. ``reference``: rows of published numbers, {"name": ..., metric: value, ...}.
    Charts and pairs are those of the first report. The same values and pictures give the same
    bytes. Written under a temporary name and renamed.
    """
    path = Path(path)
    text = page(reports, pictures, title=shown(title), reference=reference)
    path.parent.mkdir(parents=True, exist_ok=True)
    # a file's name may hold bytes that are no UTF-8
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def page(
    reports: Sequence[Evaluation],
    pictures: Pictures,
    *,
    title: str,
    reference: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The whole HTML document of ``write_page``."""
    assert reports, "a page needs a report"
    first = reports[0]
    sections = [
        _header(reports, title),
        _notes(reports),
        _tables(reports, reference),
        spread_section(first, several=len(reports) > 1),
        pairs_section(first, pictures),
        weights_table(reports),
    ]
    return document(title, sections, STYLE)


def _header(reports: Sequence[Evaluation], title: str) -> str:
    first = reports[0]
    names = ", ".join(report.protocol for report in reports)
    several = len(reports) > 1
    pairs = first.counts.get(main_row(first), len(first.images))
    cells = [
        (f"{pairs:,}", "pair" if pairs == 1 else "pairs", "generated beside their ground truths")
    ]
    if REFERENCE in first.counts:
        count = first.counts[REFERENCE]
        cells.append((f"{count:,}", "reference images", "that FID compares with"))
    sizes = list(dict.fromkeys(size for report in reports for size in report.sizes))
    if sizes:
        more = f"and {len(sizes) - 1:,} more sizes" if len(sizes) > 1 else "pixels, width × height"
        cells.append((sizes[0].replace("x", "\u00a0×\u00a0"), "compared", more))
    said = f"Protocol{'s' if several else ''} {names}. "
    said += "The numbers, then how they spread over the pairs, then the pairs at both ends."
    return (
        f'<h1>{escape(title)}</h1><p class="soft">{escape(said)}</p>{_toy(reports)}{tiles(cells)}'
    )


def _toy(reports: Sequence[Evaluation]) -> str:
    """What cannot be missed: numbers that say nothing beside those of a paper."""
    metrics = list(dict.fromkeys(metric for report in reports for metric in report.toy))
    notes = dict.fromkeys(n for r in reports for n in r.notes if _is_toy(n))
    if not metrics and not notes:
        return ""
    which = f"<p>Here: {escape(', '.join(metrics))}.</p>" if metrics else ""
    told = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return (
        '<div class="toy loud" role="alert"><strong>Toy numbers</strong>'
        "<p>Numbers made with toy or random networks compare with no paper, only with one "
        f"another.</p>{which}{told}</div>"
    )


def _is_toy(note: str) -> bool:
    return note.lower().startswith("toy")


def _notes(reports: Sequence[Evaluation]) -> str:
    said: dict[str, list[str]] = {}
    for report in reports:
        for note in report.notes:
            if not _is_toy(note):
                said.setdefault(note, []).append(report.protocol)
    if not said:
        return ""
    lines = []
    for note, protocols in said.items():
        some = len(protocols) < len(reports)
        whose = f' <span class="soft">({escape(", ".join(protocols))})</span>' if some else ""
        lines.append(f"<li>{escape(note)}{whose}</li>")
    return f'<h2>Notes</h2><ul class="card notes">{"".join(lines)}</ul>'


def _tables(reports: Sequence[Evaluation], reference: Sequence[Mapping[str, Any]]) -> str:
    if len(reports) == 1:
        numbers = protocol_table(reports[0], reference) + legend(reports)
        return f'<h2>Numbers</h2><div class="card">{numbers}</div>'
    parts = [
        "<h2>Protocol by protocol</h2>",
        '<p class="soft">The same generated pictures, measured as different published codes do: '
        "a number means something only together with the name of its protocol.</p>",
        f'<div class="card">{side_by_side(reports, reference)}{legend(reports)}</div>',
    ]
    for report in reports:
        parts.append(f"<h2>Protocol {escape(report.protocol)}</h2>")
        parts.append(f'<div class="card">{protocol_table(report)}</div>')
    return "".join(parts)
