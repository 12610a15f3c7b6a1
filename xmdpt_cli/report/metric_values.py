"""How the page and the CSV show values: order, decimals, and which direction is better."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.metrics.evaluation import Evaluation, Value
from xmdpt_cli.metrics.registry import METRICS, Style

GENERATED = "generated"
NONE = "–"


def style(metric: str) -> Style:
    """The style of METRICS; for other metrics that of the first with the same first word."""
    family = metric.split("_")[0]
    kin = (value for name, value in METRICS.items() if name.split("_")[0] == family)
    return METRICS.get(metric) or next(kin, Style(None, 4))


def ordered(metrics: Iterable[str]) -> list[str]:
    """Each metric once, in the order of METRICS; others after their family or at the end."""
    places = {name: number for number, name in enumerate(METRICS)}
    families = {name.split("_")[0]: number for name, number in places.items()}

    def place(metric: str) -> float:
        family = families.get(metric.split("_")[0], len(places))
        return places.get(metric, family + 0.5)

    return sorted(dict.fromkeys(metrics), key=place)


def main_row(evaluation: Evaluation) -> str:
    """The row that the page is about: ``generated``, else the first one."""
    return GENERATED if GENERATED in evaluation.rows else next(iter(evaluation.rows), GENERATED)


def measured(evaluation: Evaluation) -> list[str]:
    """All metrics of the evaluation, of sets and of pairs."""
    return ordered(metric for row in evaluation.rows.values() for metric in row)


def per_pair(evaluations: Sequence[Evaluation]) -> list[str]:
    """The metrics that have a value for every pair."""
    rows = (
        row
        for evaluation in evaluations
        for image in evaluation.images
        for row in image["rows"].values()
    )
    return ordered({metric: None for row in rows for metric in row})


def fixed(value: float, digits: int) -> str:
    """``value`` with that many decimals, and no minus before a zero."""
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text


def shown(metric: str, value: Value) -> str:
    """A value as text; a dash where there is none."""
    if value is None or math.isnan(value):
        return NONE
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return fixed(value, style(metric).digits)


class Heading(NamedTuple):
    """A metric as the head of a column or a card."""

    name: str
    higher: bool | None  # whether higher is better; None: not known
    toy: bool


def heading(metric: str, *evaluations: Evaluation) -> Heading:
    toy = any(metric in evaluation.toy for evaluation in evaluations)
    return Heading(metric, style(metric).higher, toy)


def interval(evaluation: Evaluation, row: str, metric: str) -> tuple[float, float] | None:
    """The 95 % interval, where the evaluation has one that is finite."""
    ends = evaluation.intervals.get(row, {}).get(metric)
    if ends is None or any(end is None or not math.isfinite(end) for end in ends):
        return None
    return float(ends[0]), float(ends[1])


def interval_text(metric: str, ends: tuple[float, float]) -> str:
    """``0.7040 – 0.7201``"""
    return " – ".join(shown(metric, end) for end in ends)


def column(evaluation: Evaluation, row: str, metric: str) -> NDArray[np.float64]:
    """The values (pairs,) of one metric of one row; NaN: not defined; may be infinite."""
    found = [image["rows"].get(row, {}).get(metric) for image in evaluation.images]
    return np.array([math.nan if v is None else v for v in found], dtype=np.float64)
