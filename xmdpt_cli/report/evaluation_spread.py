"""The page's charts section: how every metric spreads over the pairs and over the joints seen."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.metrics.evaluation import Evaluation
from xmdpt_cli.report.evaluation_charts import histogram, scatter
from xmdpt_cli.report.metric_values import (
    Column,
    column,
    heading,
    interval,
    interval_text,
    main_row,
    per_pair,
    shown,
)


def spread_section(report: Evaluation, *, several: bool) -> str:
    """A card for every metric that pairs have; ``several``: say of which protocol."""
    metrics = per_pair([report])
    if not metrics:
        return ""
    joints = _joints(report)
    cards = "".join(_card(report, metric, joints) for metric in metrics)
    of = f", protocol {report.protocol}" if several else ""
    return (
        f"<h2>Pair by pair{escape(of)}</h2>"
        '<p class="soft">How often each value occurs, with the mean and its 95 % interval where '
        f'it is known. {joints.said}</p><div class="three">{cards}</div>'
    )


@dataclass(frozen=True)
class _Joints:
    """How many joints are seen in the truths."""

    known: NDArray[np.bool_]  # (pairs,)
    numbers: NDArray[np.int64]  # (pairs,) meaningless where not known
    names: list[str]  # of the pairs

    @property
    def said(self) -> str:
        unknown = int((~self.known).sum())
        if unknown == len(self.known):
            return "How many joints are seen is not known: no plots over joints."
        left_out = f" Not known for {unknown:,} pairs, which are left out." if unknown else ""
        return (
            "Below, over the number of joints seen in the truth, of 18; the line joins the means "
            f"of pairs with about as many.{left_out}"
        )


def _joints(report: Evaluation) -> _Joints:
    found = [image.get("joints") for image in report.images]
    known = np.array([number is not None for number in found], dtype=np.bool_)
    numbers = np.array([0 if number is None else int(number) for number in found], dtype=np.int64)
    return _Joints(known, numbers, [str(image["name"]) for image in report.images])


def _card(report: Evaluation, metric: str, joints: _Joints) -> str:
    found = column(report, main_row(report), metric)
    inner = _spread(report, metric, found)
    both = found.finite & joints.known
    if both.any():
        names = [joints.names[i] for i in np.flatnonzero(both)]
        inner += '<p class="axis">over the joints seen</p>'
        inner += scatter(found.values[both], joints.numbers[both], names, metric)
    return f'<div class="card chart"><h3>{heading(metric, report)}</h3>{inner}</div>'


def _spread(report: Evaluation, metric: str, found: Column) -> str:
    """Mean and median in words, what the charts leave out, and the histogram."""
    row = main_row(report)
    values = found.values[found.finite]
    mean = report.rows.get(row, {}).get(metric)
    marked = mean if mean is not None and np.isfinite(mean) else None
    ends = None if marked is None else interval(report, row, metric)
    told = []
    if mean is not None:
        range_ = "" if ends is None else f" ({interval_text(metric, ends)})"
        told.append(f"mean {shown(metric, mean)}{range_}")
    known = found.values[~np.isnan(found.values)]
    if len(known):
        told.append(f"median {shown(metric, float(np.median(known)))}")
    if found.infinite:
        told.append(f"{found.infinite:,} infinite (equal pictures), not in the charts")
    if found.missing:
        told.append(f"{found.missing:,} without a value")
    said = f'<p class="soft">{"; ".join(told)}</p>'
    return said + (histogram(values, metric, marked, ends) if len(values) else "")
