"""An evaluation as JSON that any parser reads, and as it is read again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import NotRequired, TypedDict

from xmdpt_cli.files import write_text
from xmdpt_cli.metrics.evaluation import Evaluation, Value


class WrittenImage(TypedDict):
    """One of ``Evaluation.images``."""

    name: str
    joints: NotRequired[int | None]
    rows: dict[str, dict[str, float | bool | None]]


class WrittenEvaluation(TypedDict):
    """The JSON of ``to_json``."""

    protocol: str
    rows: dict[str, dict[str, float | bool | None]]
    counts: dict[str, int]
    undefined: dict[str, dict[str, int]]
    sizes: list[str]
    weights: dict[str, str]
    toy: list[str]
    notes: NotRequired[list[str]]
    images: NotRequired[list[WrittenImage]]
    infinite: NotRequired[dict[str, dict[str, int]]]
    intervals: NotRequired[dict[str, dict[str, tuple[float, float]]]]


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """Plain data without NaN or infinity: null, and ``<metric>_is_inf`` where it was one."""
    return {
        **vars(evaluation),
        "rows": {name: _finite(row) for name, row in evaluation.rows.items()},
        "images": [
            {**image, "rows": {n: _finite(r) for n, r in image["rows"].items()}}
            for image in evaluation.images
        ],
    }


def plain(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """JSON-ready: the first protocol's evaluation, the others' as ``others``."""
    first, *others = (to_json(evaluation) for evaluation in evaluations)
    return {**first, "others": others}


def over_seeds(runs: Sequence[Sequence[Evaluation]]) -> dict[str, dict[str, Any]]:
    """The values of ``generated`` for each seed, with mean and standard deviation (None if a value
    is missing): protocol -> metric."""
    found: dict[str, dict[str, Any]] = {}
    for found_by in zip(*runs, strict=True):
        rows = [report.rows["generated"] for report in found_by]
        of = found[found_by[0].protocol] = {}
        for metric in rows[0]:
            values = [row.get(metric) for row in rows]
            known = [value for value in values if value is not None and math.isfinite(value)]
            complete = len(known) == len(values)
            of[metric] = {
                "values": [v if v is not None and math.isfinite(v) else None for v in values],
                "mean": float(np.mean(known)) if complete else None,
                "std": float(np.std(known, ddof=1)) if complete and len(known) > 1 else None,
            }
    return found


def write_json(path: str | Path, data: Mapping[str, Any]) -> None:
    """Write plain data under a temporary name and rename it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def _finite(row: Mapping[str, Value]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for metric, value in row.items():
        plain[metric] = value if value is not None and math.isfinite(value) else None
        if value is not None and math.isinf(value):
            plain[f"{metric}_is_inf"] = True
    return plain
