"""The page of an evaluation (templates/evaluation.html.j2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xmdpt_cli.files import write_bytes
from xmdpt_cli.metrics.evaluation import Evaluation
from xmdpt_cli.metrics.sizes import REFERENCE
from xmdpt_cli.report.evaluation_charts import joints_seen, metric_charts
from xmdpt_cli.report.evaluation_pairs import Images, ranked_pairs
from xmdpt_cli.report.evaluation_tables import protocol_table, side_by_side, weights_table
from xmdpt_cli.report.metric_values import main_row
from xmdpt_cli.report.pages import render
from xmdpt_cli.utils.redact import shown


def write_page(
    path: str | Path,
    evaluations: Sequence[Evaluation],
    images: Images,
    *,
    title: str,
    reference: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write the page about ``evaluations``: one a protocol, all of the same pairs in one order.

    ``images(name)``: the images of a pair, in order, by their role ("source", "pose",
    "ground truth", "generated"); called only for the few pairs shown, and an XmdptError is shown
    instead. ``reference``: rows of published numbers, {"name": ..., metric: value, ...}.
    Charts and pairs are those of the first evaluation. The same values and images give the same
    bytes. Written under a temporary name and renamed.
    """
    path = Path(path)
    text = page(evaluations, images, title=shown(title), reference=reference)
    path.parent.mkdir(parents=True, exist_ok=True)
    # a file name may contain bytes that are not UTF-8
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def page(
    evaluations: Sequence[Evaluation],
    images: Images,
    *,
    title: str,
    reference: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The HTML document of ``write_page``."""
    assert evaluations, "a page needs an evaluation"
    first, several = evaluations[0], len(evaluations) > 1
    notes, joints = _notes(evaluations), joints_seen(first)
    return render(
        "evaluation",
        title=title,
        protocols=[evaluation.protocol for evaluation in evaluations],
        tiles=_tiles(evaluations),
        toy_metrics=list(dict.fromkeys(m for one in evaluations for m in one.toy)),
        toy_notes=[note for note in notes if _is_toy(note)],
        notes={note: of for note, of in notes.items() if not _is_toy(note)},
        side_by_side=side_by_side(evaluations, reference) if several else None,
        tables=[protocol_table(one, () if several else reference) for one in evaluations],
        has_intervals=any(one.intervals for one in evaluations),
        has_undefined=any(one.undefined for one in evaluations),
        charts=metric_charts(first),
        joints_known=int(np.isfinite(joints).sum()),
        joints_unknown=int(np.isnan(joints).sum()),
        rankings=ranked_pairs(first, images),
        weights=weights_table(evaluations),
    )


def _tiles(evaluations: Sequence[Evaluation]) -> list[tuple[str, str, str]]:
    """Value, its name, more about it."""
    first = evaluations[0]
    pairs = first.counts.get(main_row(first), len(first.images))
    cells = [
        (f"{pairs:,}", "pair" if pairs == 1 else "pairs", "of generated image and ground truth")
    ]
    if REFERENCE in first.counts:
        count = first.counts[REFERENCE]
        cells.append((f"{count:,}", "reference images", "that FID compares with"))
    sizes = list(dict.fromkeys(size for one in evaluations for size in one.sizes))
    if sizes:
        more = f"and {len(sizes) - 1:,} more sizes" if len(sizes) > 1 else "pixels, width × height"
        cells.append((sizes[0].replace("x", "\u00a0×\u00a0"), "compared", more))
    return cells


def _notes(evaluations: Sequence[Evaluation]) -> dict[str, list[str]]:
    """Each note once, with its protocols if it does not apply to all."""
    found: dict[str, list[str]] = {}
    for evaluation in evaluations:
        for note in evaluation.notes:
            found.setdefault(note, []).append(evaluation.protocol)
    return {note: of if len(of) < len(evaluations) else [] for note, of in found.items()}


def _is_toy(note: str) -> bool:
    return note.lower().startswith("toy")
