"""The charts of every metric over the pairs of an evaluation, and over the joints seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from xmdpt_cli.metrics.evaluation import Evaluation, Value
from xmdpt_cli.report.evaluation_charts import histogram, scatter
from xmdpt_cli.report.metric_values import (
    Heading,
    column,
    heading,
    interval,
    interval_text,
    main_row,
    per_pair,
    shown,
)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class MetricCharts:
    """What the page shows of one metric; a chart without values is empty."""

    metric: Heading
    summary: list[str]  # mean, median, and what the charts leave out
    histogram: Markup
    scatter: Markup  # over the joints seen


def joints_seen(evaluation: Evaluation) -> Floats:
    """(pairs,) joints seen in the ground truths; NaN where not known."""
    return np.array([image.get("joints") for image in evaluation.images], dtype=np.float64)


def metric_charts(evaluation: Evaluation) -> list[MetricCharts]:
    """The charts of every metric that pairs have."""
    joints, row = joints_seen(evaluation), main_row(evaluation)
    names = [image["name"] for image in evaluation.images]
    charts = []
    for metric in per_pair([evaluation]):
        values = column(evaluation, row, metric)
        finite = np.isfinite(values)
        mean = evaluation.rows.get(row, {}).get(metric)
        marked = mean if mean is not None and np.isfinite(mean) else None
        ends = None if marked is None else interval(evaluation, row, metric)
        distribution = over_joints = Markup("")
        if finite.any():
            distribution = histogram(values[finite], metric, marked, ends)
        both = np.flatnonzero(finite & np.isfinite(joints))
        if len(both):
            named = [names[i] for i in both]
            over_joints = scatter(values[both], joints[both].astype(np.int64), named, metric)
        summary = _summary(metric, values, mean, ends)
        charts.append(MetricCharts(heading(metric, evaluation), summary, distribution, over_joints))
    return charts


def _summary(
    metric: str, values: Floats, mean: Value, ends: tuple[float, float] | None
) -> list[str]:
    parts = []
    if mean is not None:
        of = "" if ends is None else f" ({interval_text(metric, ends)})"
        parts.append(f"mean {shown(metric, mean)}{of}")
    known = values[~np.isnan(values)]
    if len(known):
        parts.append(f"median {shown(metric, float(np.median(known)))}")
    if infinite := int(np.isinf(values).sum()):
        parts.append(f"{infinite:,} infinite (equal images), not in the charts")
    if missing := len(values) - len(known):
        parts.append(f"{missing:,} without a value")
    return parts
