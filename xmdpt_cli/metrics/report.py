"""What an evaluation found: as JSON that any parser reads, and as cells for a table."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xmdpt_cli.files import write_text

Value = float | None  # None: not measured or not defined; may be infinite (PSNR of equal pictures)

# In the order of the table: higher is better?, decimals shown.
METRICS: dict[str, tuple[bool, int]] = {
    "fid": (False, 4),
    "fid_toy": (False, 4),
    "fid_toyconv": (False, 4),
    "lpips_alex": (False, 4),
    "lpips_alex_toy": (False, 4),
    "ssim_w51": (True, 4),
    "ssim_256": (True, 4),
    "psnr": (True, 2),
    "l1": (False, 4),
    "torso_colour_error": (False, 1),
    "silhouette_iou": (True, 3),
}


@dataclass
class Row:
    """The pictures of one row so far, metric by metric."""

    count: int = 0
    values: dict[str, list[float]] = field(default_factory=dict)  # the defined ones
    undefined: dict[str, int] = field(default_factory=dict)

    def add(self, values: Mapping[str, Value]) -> None:
        self.count += 1
        for metric, value in values.items():
            defined = self.values.setdefault(metric, [])
            if value is None:
                self.undefined[metric] = self.undefined.get(metric, 0) + 1
            else:
                defined.append(value)

    def means(self) -> dict[str, Value]:
        """Means over the pictures where the metric is defined; None where it never is."""
        return {m: math.fsum(v) / len(v) if v else None for m, v in self.values.items()}


@dataclass
class Report:
    """The values of one evaluation and everything needed to say what they mean.

    Rows are ``generated`` and the calibration rows beside it; a mean over pictures is taken
    where the measure is defined, and ``undefined`` counts where it is not.
    """

    protocol: str
    rows: dict[str, dict[str, Value]]  # row -> metric -> mean over the pictures, or the FID
    counts: dict[str, int]  # row -> pictures; "real" -> pictures of the real set
    undefined: dict[str, dict[str, int]]  # row -> metric -> pictures without a value
    sizes: list[str]  # "WIDTHxHEIGHT" of the compared pictures
    weights: dict[str, str]  # metric -> which network weights
    toy: list[str]  # metrics of random networks or made for drawn people: compare with no paper
    notes: list[str] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)  # name, then row -> metric -> value

    def to_json(self) -> dict[str, Any]:
        """Plain data without NaN or infinity: null, and ``<metric>_is_inf`` where it was one."""
        return {
            "protocol": self.protocol,
            "rows": {name: _finite(row) for name, row in self.rows.items()},
            "counts": self.counts,
            "undefined": self.undefined,
            "sizes": self.sizes,
            "weights": self.weights,
            "toy": self.toy,
            "notes": self.notes,
            "images": [
                {"name": image["name"], "rows": {n: _finite(r) for n, r in image["rows"].items()}}
                for image in self.images
            ],
        }


@dataclass(frozen=True)
class Table:
    header: list[str]
    rows: list[list[str]]


def table(report: Report) -> Table:
    """Cells as text: a line for each metric, with an arrow that says which way is better."""
    measured = {metric for row in report.rows.values() for metric in row}
    lines = [
        [
            f"{metric} {'↑' if better else '↓'}",
            *(_cell(metric, row.get(metric)) for row in report.rows.values()),
        ]
        for metric, (better, _) in METRICS.items()
        if metric in measured
    ]
    lines.append(["pictures", *(str(report.counts[name]) for name in report.rows)])
    return Table(["", *report.rows], lines)


def write_json(path: str | Path, report: Report) -> None:
    """Write ``report.to_json()`` under a temporary name and rename it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(report.to_json(), indent=1, allow_nan=False) + "\n")


def _finite(row: Mapping[str, Value]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for metric, value in row.items():
        plain[metric] = value if value is not None and math.isfinite(value) else None
        if value is not None and math.isinf(value):
            plain[f"{metric}_is_inf"] = True
    return plain


def _cell(metric: str, value: Value) -> str:
    if value is None or math.isnan(value):
        return "-"
    return "inf" if math.isinf(value) else f"{value:.{METRICS[metric][1]}f}"
