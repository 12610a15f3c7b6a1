"""The report of a measurement of ``xmdpt bench``: rows, a table, and files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xmdpt_cli.bench.machine import Machine
from xmdpt_cli.bench.timing import Spread, ratios
from xmdpt_cli.files import write_text
from xmdpt_cli.report.tables import Table

FORMAT = "xmdpt-bench"
VERSION = 2


@dataclass
class Row:
    """One measured implementation. None or empty: not measured, or not applicable."""

    model: str
    implementation: str
    seconds: Spread  # of ``images`` images or pairs
    images: float
    images_per_second: float
    gflop: float | None = None  # of one image or pair
    mfu: Spread | None = None  # share of the machine's own peak, measured in the same rounds
    #: speedup over another row; the keys are "first" (the model's first row), "published",
    #: "published, steps alone", "base" (what ``gain`` is added to), "PIDM-style" and
    #: "PIDM-style, compiled"
    speedup: dict[str, Spread] = field(default_factory=dict)
    gain: str = ""
    precision: str = ""
    steps: int | None = None
    steps_timed: int | None = None
    forwards: int | None = None
    parameters: int | None = None  # in training
    parameters_inference: int | None = None
    peak_memory: int | None = None  # bytes
    parts: dict[str, float] = field(default_factory=dict)  # seconds of each part of ``seconds``
    efficiency: float | None = None  # of several processes: 1 if each is as fast as one alone

    @classmethod
    def of(
        cls,
        name: str,
        seconds: Sequence[float],
        images: float = 1.0,
        *,
        flop: float | None = None,
        peak: Sequence[float] = (),
        **more: Any,
    ) -> Row:
        """A row of ``images`` images that took ``seconds`` in each round.

        ``name``: "model / implementation", or the model alone. ``flop``: FLOP of one image;
        ``peak``: the machine's FLOP/s in each round. ``more``: other fields of the row.
        """
        model, _, implementation = name.partition(" / ")
        spread, mfu = Spread(tuple(seconds)), None
        if flop is not None:
            mfu = Spread(tuple(flop * images / s / p for s, p in zip(seconds, peak, strict=True)))
        gflop = None if flop is None else flop / 1e9
        rate = images / spread.median
        return cls(model, implementation, spread, images, rate, gflop, mfu, **more)

    @property
    def key(self) -> str:
        return f"{self.model} / {self.implementation}" if self.implementation else self.model

    def compare_to(self, base: Row | None, name: str) -> None:
        """Add the speedup over ``base``, unless it is this row or None."""
        if base is not None and base is not self:
            self.speedup[name] = ratios(base.seconds.rounds, self.seconds.rounds)


def compare_to_first(rows: Iterable[Row]) -> None:
    """Add to each row its speedup over the first row of its model."""
    first: dict[str, Row] = {}
    for row in rows:
        row.compare_to(first.setdefault(row.model, row), "first")


@dataclass
class Report:
    """The result of one command."""

    kind: str  # the subcommand; "sampling" without one
    title: str  # of the table of rows
    settings: dict[str, Any]
    machine: Machine  # read before the measurement
    rows: list[Row]
    peak: dict[str, Spread] = field(default_factory=dict)  # FLOP/s and, of "copy", bytes/s
    notes: list[str] = field(default_factory=list)
    data_wait: dict[str, float] = field(default_factory=dict)  # training: share of the time, 0..1
    format: str = FORMAT
    version: int = VERSION

    def as_json(self) -> dict[str, Any]:
        rows = [{"key": row.key, **dataclasses.asdict(row)} for row in self.rows]
        return {**dataclasses.asdict(self), "rows": rows}

    def summary(self) -> list[str]:
        """Lines that describe the machine, its state and the settings."""
        lines = [str(self.machine)]
        if self.peak:
            rates = [
                f"{_flops(spread)} in {name.removeprefix('peak ')}"
                for name, spread in self.peak.items()
                if name != "copy"
            ]
            copy = f"memory {self.peak['copy'].median / 1e9:.3g} GB/s"
            lines.append(f"measured peak, in the same rounds: {', '.join(rates)}; {copy}")
        settings = [f"{name.replace('_', ' ')} {_text(v)}" for name, v in self.settings.items()]
        lines += [f"{', '.join(settings)}; rounds interleaved", *self.notes]
        odd = [row.key for row in self.rows if row.seconds.odd]
        if odd:
            lines.append(f"with outlier rounds, which the median tolerates: {'; '.join(odd)}")
        return lines

    def table(self) -> Table:
        """The rows, without empty columns."""
        shown = _LATENCY if self.kind == "latency" else _COLUMNS
        columns = {name: [cell(row) for row in self.rows] for name, cell in shown.items()}
        columns = {name: cells for name, cells in columns.items() if any(c != "-" for c in cells)}
        keys = {"model": [row.model for row in self.rows]}
        if any(row.implementation for row in self.rows):
            keys["implementation"] = [row.implementation for row in self.rows]
        lines = zip(*keys.values(), *columns.values(), strict=True)
        return Table(self.title, [*keys, *columns], [list(line) for line in lines], keys=len(keys))

    def write(self, folder: Path, tables: Sequence[Table]) -> list[Path]:
        """Write JSON for ``--compare``, Markdown and, for sampling, a chart; returns the paths."""
        folder.mkdir(parents=True, exist_ok=True)
        sampling = self.kind == "sampling"
        path = folder / ("bench" if sampling else f"bench-{self.kind}")
        files = {path.with_suffix(".json"): json.dumps(self.as_json(), indent=1, allow_nan=False)}
        parts = ["\n".join(f"- {line}" for line in self.summary())]
        if sampling:
            files[path.with_suffix(".svg")] = self.chart()
            parts.append("![Time per image against its FLOPs, with the machine's roof](bench.svg)")
        parts += [f"**{table.title}**\n\n{table.markdown()}" for table in tables]
        files[path.with_suffix(".md")] = "\n\n".join(parts)
        for file, text in files.items():
            write_text(file, text.rstrip("\n") + "\n")
        return sorted(files)

    def chart(self) -> str:
        """The rows of sampling as an SVG roofline chart."""
        from xmdpt_cli.report.roof_chart import Dot, roof_chart  # matplotlib, slow to import

        dots = [
            Dot(row.model, row.key, row.gflop, 1 / row.images_per_second, row.mfu.median)
            for row in self.rows
            if row.gflop is not None and row.mfu is not None
        ]
        roofs = {
            name.removeprefix("peak "): spread.median / 1e9
            for name, spread in self.peak.items()
            if name != "copy"
        }
        return roof_chart(dots, roofs, f"Time against work, {self.machine.name}")


def times(spread: Spread | None) -> str:
    """``1.47x``; ``-`` for None."""
    return "-" if spread is None else f"{three_digits(spread.median)}x"


def three_digits(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _seconds(row: Row, scale: float = 1.0) -> str:
    s = row.seconds
    median, low, high = (three_digits(value * scale) for value in (s.median, s.low, s.high))
    return f"{median} ({low} to {high})"


def _gain(row: Row) -> str:
    """``2.23x pruning``: the speedup over the row that the gain is added to."""
    base = row.speedup.get("base")
    return "-" if base is None else f"{times(base)} {row.gain}"


def _parameters(row: Row) -> str:
    if row.parameters is None or row.parameters_inference is None:
        return "-"
    training, inference = row.parameters / 1e6, row.parameters_inference / 1e6
    return f"{training:.1f}" if training == inference else f"{training:.1f} ({inference:.1f})"


def _optional(value: float | None, form: str, scale: float = 1.0) -> str:
    return "-" if value is None else format(value / scale, form)


_COLUMNS: dict[str, Callable[[Row], str]] = {
    "steps": lambda row: _optional(row.steps, ".0f"),
    "forwards": lambda row: _optional(row.forwards, ".0f"),
    "seconds (95 %)": _seconds,
    "per second": lambda row: three_digits(row.images_per_second),
    "over PIDM-style": lambda row: times(row.speedup.get("PIDM-style")),
    "over published": lambda row: times(row.speedup.get("published")),
    "steps alone": lambda row: times(row.speedup.get("published, steps alone")),
    "over the first": lambda row: times(row.speedup.get("first")),
    "gain": _gain,
    "M parameters (inference)": _parameters,
    "peak GiB": lambda row: _optional(row.peak_memory, ".2f", 2**30),
    "GFLOP each": lambda row: _optional(row.gflop, ",.0f" if (row.gflop or 0) >= 100 else ".3g"),
    "MFU": lambda row: "-" if row.mfu is None else f"{row.mfu.median:.0%}",
    "efficiency": lambda row: _optional(row.efficiency, ".0%"),
}
#: of one image: fits 80 columns
_LATENCY: dict[str, Callable[[Row], str]] = {
    "ms (95 %)": lambda row: _seconds(row, 1000),
    "gain": lambda row: times(row.speedup.get("base")),
    "GFLOP each": _COLUMNS["GFLOP each"],
    "MFU": _COLUMNS["MFU"],
}


def _text(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _flops(rate: Spread) -> str:
    scale, unit = (1e12, "TFLOP/s") if rate.median > 5e12 else (1e9, "GFLOP/s")
    middle, low, high = (f"{value / scale:.3g}" for value in (rate.median, rate.low, rate.high))
    return f"{middle} {unit} ({low} to {high})"
