"""How every metric spreads over the pairs and over the joints seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from xmdpt_cli.metrics.evaluation import Evaluation
from xmdpt_cli.report.evaluation_charts import histogram, scatter
from xmdpt_cli.report.metric_values import (
    Column,
    Heading,
    column,
    heading,
    interval,
    interval_text,
    main_row,
    per_pair,
    shown,
)


@dataclass(frozen=True)
class ReferenceJoints:
    """How many joints are seen in the ground truths."""

    known: NDArray[np.bool_]  # (pairs,)
    numbers: NDArray[np.int64]  # (pairs,) meaningless where not known

    @property
    def unknown(self) -> int:
        return int((~self.known).sum())


@dataclass(frozen=True)
class MetricCharts:
    """What the page shows of one metric."""

    metric: Heading
    summary: list[str]  # mean, median, what the charts leave out
    histogram: Markup
    scatter: Markup  # over the joints seen; empty where they are not known


def reference_joints(evaluation: Evaluation) -> ReferenceJoints:
    found = [image.get("joints") for image in evaluation.images]
    known = np.array([number is not None for number in found], dtype=np.bool_)
    return ReferenceJoints(known, np.array([number or 0 for number in found], dtype=np.int64))


def metric_charts(evaluation: Evaluation) -> list[MetricCharts]:
    """Of every metric that pairs have."""
    joints = reference_joints(evaluation)
    names = [image["name"] for image in evaluation.images]
    charts = []
    for metric in per_pair([evaluation]):
        found = column(evaluation, main_row(evaluation), metric)
        both = np.flatnonzero(found.finite & joints.known)
        over_joints = Markup("")
        if len(both):
            shown_names = [names[i] for i in both]
            over_joints = scatter(found.values[both], joints.numbers[both], shown_names, metric)
        distribution = Markup("")
        if found.finite.any():
            mean, ends = _mean(evaluation, metric)
            distribution = histogram(found.values[found.finite], metric, mean, ends)
        summary = _summary(evaluation, metric, found)
        head = heading(metric, evaluation)
        charts.append(MetricCharts(head, summary, distribution, over_joints))
    return charts


def _mean(evaluation: Evaluation, metric: str) -> tuple[float | None, tuple[float, float] | None]:
    """The mean and its 95 % interval, where they are finite."""
    mean = evaluation.rows.get(main_row(evaluation), {}).get(metric)
    if mean is None or not np.isfinite(mean):
        return None, None
    return mean, interval(evaluation, main_row(evaluation), metric)


def _summary(evaluation: Evaluation, metric: str, found: Column) -> list[str]:
    mean = evaluation.rows.get(main_row(evaluation), {}).get(metric)
    ends = _mean(evaluation, metric)[1]
    parts = []
    if mean is not None:
        of = "" if ends is None else f" ({interval_text(metric, ends)})"
        parts.append(f"mean {shown(metric, mean)}{of}")
    known = found.values[~np.isnan(found.values)]
    if len(known):
        parts.append(f"median {shown(metric, float(np.median(known)))}")
    if found.infinite:
        parts.append(f"{found.infinite:,} infinite (equal images), not in the charts")
    if found.missing:
        parts.append(f"{found.missing:,} without a value")
    return parts
