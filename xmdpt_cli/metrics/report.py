"""What an evaluation found: as JSON that any parser reads, and as cells for a table."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import NotRequired, TypedDict

from xmdpt_cli.files import write_text
from xmdpt_cli.metrics.intervals import resampled_means

Value = float | None  # None: not measured or not defined; may be infinite (PSNR of equal pictures)

# In the order of the table: higher is better?, decimals shown.
METRICS: dict[str, tuple[bool, int]] = {
    "fid_tvinception": (False, 4),
    "fid_tvinception_toy": (False, 4),
    "fid_tfinception": (False, 4),
    "fid_tfinception_toy": (False, 4),
    "fid_toyconv": (False, 4),
    "kid_tvinception": (False, 5),
    "kid_tvinception_toy": (False, 5),
    "kid_tfinception": (False, 5),
    "kid_tfinception_toy": (False, 5),
    "kid_toyconv": (False, 5),
    "lpips_alex_v0.1": (False, 4),
    "lpips_alex_v0.1_unsigned": (False, 4),
    "lpips_alex_v0.1_toy": (False, 4),
    "lpips_alex_v0.1_toy_unsigned": (False, 4),
    "ssim_w51": (True, 4),
    "ssim_256": (True, 4),
    "ssim": (True, 4),
    "psnr": (True, 2),
    "l1": (False, 4),
    "mae": (False, 4),
    "torso_colour_error": (False, 1),
    "silhouette_iou": (True, 3),
}


@dataclass
class Row:
    """The pictures of one row so far, metric by metric."""

    count: int = 0
    values: dict[str, list[float]] = field(default_factory=dict)  # NaN: undefined, or dropped
    undefined: dict[str, int] = field(default_factory=dict)
    infinite: dict[str, int] = field(default_factory=dict)

    def add(self, values: Mapping[str, Value], dropped: Collection[str] = ()) -> None:
        """Of one more picture; the metrics that are ``dropped`` leave it out."""
        self.count += 1
        for metric, value in values.items():
            if metric in dropped:
                self.values.setdefault(metric, []).append(math.nan)
                continue
            self.values.setdefault(metric, []).append(math.nan if value is None else value)
            if value is None or math.isinf(value):
                counted = self.undefined if value is None else self.infinite
                counted[metric] = counted.get(metric, 0) + 1

    def means(self) -> dict[str, Value]:
        """Means over the pictures with a finite value; without one: infinity if there is that (the
        PSNR of equal pictures), else None."""
        found: dict[str, Value] = {}
        for metric, values in self.values.items():
            finite = [value for value in values if math.isfinite(value)]
            found[metric] = math.fsum(finite) / len(finite) if finite else None
            if not finite and self.infinite.get(metric):
                found[metric] = math.inf
        return found

    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % intervals of the means, where two pictures have a value."""
        found = resampled_means([np.array(values) for values in self.values.values()])
        named = zip(self.values, found, strict=True)
        return {metric: interval for metric, interval in named if interval is not None}


class WrittenImage(TypedDict):
    """One of ``Report.images``."""

    name: str
    joints: NotRequired[int | None]
    rows: dict[str, dict[str, float | bool | None]]


class WrittenReport(TypedDict):
    """The JSON of ``Report.to_json``."""

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
    # of each pair: "name", "joints" (seen in the truth; None: not known), "rows": row -> metric
    # -> value
    images: list[dict[str, Any]] = field(default_factory=list)
    # row -> metric -> pictures left out of the mean because their value is infinite
    infinite: dict[str, dict[str, int]] = field(default_factory=dict)
    # role -> "WIDTHxHEIGHT" -> images, before the protocol resized them
    input_sizes: dict[str, dict[str, int]] = field(default_factory=dict)
    # of --drop-last: metric -> "batch_size", "used" and "of" (pairs), "dropped" (names of pairs);
    # of FID and KID also "reference_used" and "reference_of" (images of the reference set)
    drop_last: dict[str, dict[str, Any]] = field(default_factory=dict)
    # row -> metric -> (low, high): 95 % interval of the mean, or of the distance
    intervals: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)

    def keep(self, kinds: Sequence[str]) -> None:
        """Leave out the metrics that are none of these kinds ("ssim": ssim_w51, ssim_256 ...)."""

        def kept(row: dict[str, Any]) -> dict[str, Any]:
            return {m: v for m, v in row.items() if m.partition("_")[0] in kinds}

        self.rows, self.undefined, self.infinite, self.intervals = (
            {name: kept(dict(row)) for name, row in table_.items()}
            for table_ in (self.rows, self.undefined, self.infinite, self.intervals)
        )
        for image in self.images:
            image["rows"] = {name: kept(row) for name, row in image["rows"].items()}
        self.weights = kept(self.weights)
        self.drop_last = kept(self.drop_last)
        self.toy = list(kept(dict.fromkeys(self.toy)))

    def to_json(self) -> dict[str, Any]:
        """Plain data without NaN or infinity: null, and ``<metric>_is_inf`` where it was one."""
        return {
            "protocol": self.protocol,
            "rows": {name: _finite(row) for name, row in self.rows.items()},
            "counts": self.counts,
            "undefined": self.undefined,
            "infinite": self.infinite,
            "sizes": self.sizes,
            "input_sizes": self.input_sizes,
            "drop_last": self.drop_last,
            "weights": self.weights,
            "toy": self.toy,
            "notes": self.notes,
            "images": [
                {**image, "rows": {n: _finite(r) for n, r in image["rows"].items()}}
                for image in self.images
            ],
            "intervals": self.intervals,
        }


@dataclass(frozen=True)
class Table:
    header: list[str]
    rows: list[list[str]]


def table(report: Report) -> Table:
    """Cells as text: a line for each metric, with an arrow that says which way is better. Behind
    ± stands half of the 95 % interval."""
    lines = _lines(
        report.rows.values(), lambda metric: [_shown(report, name, metric) for name in report.rows]
    )
    lines.append(["pictures", *(str(report.counts[name]) for name in report.rows)])
    lines += [
        [f"pictures, {metric}", *(_used(report, name, metric) for name in report.rows)]
        for metric in report.drop_last
    ]
    return Table(["", *report.rows], lines)


def beside(reports: Sequence[Report], row: str = "generated") -> Table:
    """One row of several reports: a line for each metric, a column for each protocol."""
    lines = _lines(
        [report.rows[row] for report in reports],
        lambda metric: [_shown(report, row, metric) for report in reports],
    )
    return Table(["", *(report.protocol for report in reports)], lines)


def plain(reports: Sequence[Report]) -> dict[str, Any]:
    """JSON-ready: the first protocol's report, the others' as ``others``."""
    first, *others = (report.to_json() for report in reports)
    return {**first, "others": others}


def over_seeds(runs: Sequence[Sequence[Report]]) -> dict[str, dict[str, Any]]:
    """What each seed gave of ``generated``, and mean and standard deviation (None where a value is
    missing): protocol -> metric."""
    found: dict[str, dict[str, Any]] = {}
    for reports in zip(*runs, strict=True):
        rows = [report.rows["generated"] for report in reports]
        of = found[reports[0].protocol] = {}
        for metric in rows[0]:
            values = [row.get(metric) for row in rows]
            known = [value for value in values if value is not None and math.isfinite(value)]
            whole = len(known) == len(values)
            of[metric] = {
                "values": [v if v is not None and math.isfinite(v) else None for v in values],
                "mean": float(np.mean(known)) if whole else None,
                "std": float(np.std(known, ddof=1)) if whole and len(known) > 1 else None,
            }
    return found


def seeds_table(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Table:
    """``over_seeds`` as cells: a line for each metric, a column for each protocol."""

    def cell(metric: str, metrics: Mapping[str, Mapping[str, Any]]) -> str:
        decimals = METRICS[metric][1]
        mean, std = (metrics.get(metric, {}).get(name) for name in ("mean", "std"))
        shown = "-" if mean is None else f"{mean:.{decimals}f}"
        return shown if std is None else f"{shown}, {std:.{decimals}f}"

    lines = _lines(found.values(), lambda metric: [cell(metric, one) for one in found.values()])
    return Table(["", *found], lines)


def _lines(measured: Iterable[Iterable[str]], cells: Callable[[str], list[str]]) -> list[list[str]]:
    """For every metric of ``measured`` a line: its name, an arrow that says which way is better,
    its cells."""
    names = {metric for metrics in measured for metric in metrics}
    return [
        [f"{metric} {'↑' if better else '↓'}", *cells(metric)]
        for metric, (better, _) in METRICS.items()
        if metric in names
    ]


def write_json(path: str | Path, data: Mapping[str, Any]) -> None:
    """Write plain data under a temporary name and rename it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def _used(report: Report, row: str, metric: str) -> str:
    """How many pictures of a row a metric without the last partial batch is of."""
    return str(report.drop_last[metric]["used"]) if metric in report.rows[row] else "-"


def _finite(row: Mapping[str, Value]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for metric, value in row.items():
        plain[metric] = value if value is not None and math.isfinite(value) else None
        if value is not None and math.isinf(value):
            plain[f"{metric}_is_inf"] = True
    return plain


def _shown(report: Report, row: str, metric: str) -> str:
    """The value, and half of its interval where there is one."""
    value, interval = report.rows[row].get(metric), report.intervals.get(row, {}).get(metric)
    if value is None or math.isnan(value):
        return "-"
    if math.isinf(value):
        return "inf"
    decimals = METRICS[metric][1]
    half = "" if interval is None else f" ±{(interval[1] - interval[0]) / 2:.{decimals}f}"
    return f"{value:.{decimals}f}{half}"
