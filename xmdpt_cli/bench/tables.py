"""Reports of ``xmdpt bench`` as tables, for terminals and for Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from xmdpt_cli.bench.baselines import BASELINES, BRANCHES, PAPER_SECONDS, fit
from xmdpt_cli.bench.compare import Change
from xmdpt_cli.bench.machine import described
from xmdpt_cli.report.tables import Table

_COLUMNS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "steps": lambda row: str(row["steps"]),
    "forwards": lambda row: str(row["forwards"]),
    "seconds (95 %)": lambda row: _seconds(row["seconds"]),
    "img/s": lambda row: _three(row["images_per_second"]),
    "over PIDM-style": lambda row: _times(row["over_pidm"]),
    "over published": lambda row: _times(row["over_published"]),
    "steps alone": lambda row: _times(row["denoising_over_published"]),
    "gain": lambda row: _gain(row),
    "M parameters (to draw)": lambda row: _parameters(row),
    "peak GiB": lambda row: _gibibytes(row["peak_memory"]),
    "GFLOP/img": lambda row: f"{row['gflop']:,.0f}",
    "MFU": lambda row: f"{row['mfu']['median']:.0%}",
}


def speed_table(report: Mapping[str, Any]) -> Table:
    """Tables 2f and 3 in shape, with a row for each gain."""
    settings, rows = report["settings"], report["rows"]
    title = f"seconds for {settings['images']} images of {settings['pixels']} px"
    cells = [
        [row["model"], row["implementation"], *(show(row) for show in _COLUMNS.values())]
        for row in rows
    ]
    return Table(title, ["model", "implementation", *_COLUMNS], cells, keys=2)


def fit_table() -> Table:
    """The baselines' networks, and the originals in brackets."""

    def beside(found: float, original: float | None) -> str:
        return f"{found:.1f} ({'not known' if original is None else f'{original:.1f}'})"

    rows = []
    for make in BASELINES.values():
        found = fit(make())
        known = found.original
        assert known is not None
        rows.append([
            f"{found.name}-style",
            beside(found.parameters / 1e6, known.parameters / 1e6),
            beside(found.gflop, known.gflop),
            beside(found.encoder_gflop, known.encoder_gflop),
        ])  # fmt: skip
    title = f"the baselines, the originals in brackets; {BRANCHES} forwards a step, as theirs"
    return Table(title, ["", "M parameters", "GFLOP a forward", "encoder, once"], rows)


def paper_table(report: Mapping[str, Any]) -> Table | None:
    """The paper's seconds and ratios beside ratios of this run; None without the baselines."""
    own: dict[str, list[Mapping[str, Any]]] = {}
    for row in report["rows"]:
        own.setdefault(row["model"], []).append(row)
    first = next((name for name in PAPER_SECONDS if name in own), None)
    if first != "PIDM-style":
        return None
    rows = []
    for name, seconds in PAPER_SECONDS.items():
        here = {row["implementation"]: row for row in own.get(name, [])}
        # as published, and the last implementation with the same result in as many steps
        published = here.get("published", here.get("D-CFG"))
        ours = next(
            (here[impl] for impl in ("compiled", "oneDNN", "attention") if impl in here), None
        )
        fastest = here.get("D-CFG, compiled", here.get("compiled"))
        rows.append([
            name,
            f"{seconds:.3f}",
            f"{PAPER_SECONDS['PIDM-style'] / seconds:.3g}x",
            "-" if published is None else _times(published["over_pidm"]),
            "-" if ours is None else _times(ours["over_pidm"]),
            _times(None if fastest is None else fastest["over_pidm_compiled"]),
        ])  # fmt: skip
    header = ["", "paper, A100, s", "over PIDM", "here as published", "here, ours", "both compiled"]
    return Table("the paper's table beside this run: 8 images, 50 steps", header, rows)


def rate_table(report: Mapping[str, Any]) -> Table:
    """Images or pairs a second: training, encoders, data, several processes."""
    header = ["seconds (95 %)", "a second", "over the first", "GFLOP each", "MFU"]
    several = any("processes" in row for row in report["rows"])
    rows = []
    for row in report["rows"]:
        line = [_seconds(row["seconds"]), _three(row["images_per_second"])]
        line.append(_times(row["over_first"]))
        line.append("-" if row["gflop"] is None else f"{row['gflop']:,.1f}")
        line.append("-" if row["mfu"] is None else f"{row['mfu']['median']:.0%}")
        rows.append([*line, *([f"{row['efficiency']:.0%}"] if several else [])])
    title = {
        "train": "a training step, pairs",
        "encode": "frozen networks, images",
        "data": "images prepared, pairs read; seconds for one",
        "scale": "training in several processes, pairs; seconds for one",
    }[report["kind"]]
    header += ["efficiency"] if several else []
    keys = [row["key"] for row in report["rows"]]
    told = [i for i in range(len(header)) if any(line[i] != "-" for line in rows)]
    header, rows = [header[i] for i in told], [[line[i] for i in told] for line in rows]
    whole = [[key, *line] for key, line in zip(keys, rows, strict=True)]
    return Table(title, ["", *header], whole)


def notes(report: Mapping[str, Any]) -> list[str]:
    """What the numbers are of, line by line."""
    settings, peaks = report["settings"], report["peak"]
    out = [described(report["machine"])]
    if peaks:
        told = [
            f"{_rate_of(value)} in {name.removeprefix('peak ')}"
            for name, value in peaks.items()
            if name != "copy"
        ]
        out.append(
            f"its own peak, in the same rounds: {', '.join(told)}; memory "
            f"{peaks['copy']['median'] / 1e9:.3g} GB/s"
        )
    if report["kind"] == "drawing":
        out += _of_drawing(report)
    else:
        kept = [f"{name.replace('_', ' ')} {_plain(value)}" for name, value in settings.items()]
        weights = "" if report["kind"] == "data" else "; random weights"
        out.append(f"{', '.join(kept)}; rounds in turn{weights}")
    if settings.get("tiny"):
        out.append("TINY networks: nothing here can be compared with the paper's table")
    odd = [row["key"] for row in report["rows"] if row["seconds"]["odd"]]
    if odd:
        out.append(f"rounds far from the others, which the median bears: {'; '.join(odd)}")
    return out


def _of_drawing(report: Mapping[str, Any]) -> list[str]:
    settings, rows = report["settings"], report["rows"]
    timed = sorted({row["steps_timed"] for row in rows})
    whole = all(row["steps_timed"] == row["steps"] for row in rows)
    few = f"{' or '.join(map(str, timed))} of the steps timed, the others are put as long"
    return [
        f"batches of {settings['batch']}, {settings['rounds']} rounds in turn, "
        f"{settings['precision']} unless the row says otherwise; "
        f"{'all steps timed' if whole else few}; decoding by the VAE is in, conditions (DINOv2) "
        "are given; random weights"
    ]


def _plain(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _rate_of(flops: Mapping[str, Any]) -> str:
    unit, name = (1e12, "TFLOP/s") if flops["median"] > 5e12 else (1e9, "GFLOP/s")
    middle, low, high = (f"{flops[key] / unit:.3g}" for key in ("median", "low", "high"))
    return f"{middle} {name} ({low} to {high})"


def roof_table(report: Mapping[str, Any]) -> Table:
    """The least seconds on each device."""
    s = report["settings"]
    title = (
        f"the least seconds for {s['images']} images of {s['pixels']} px, {s['steps']} guided "
        f"steps, {s['precision']}"
    )
    header = [f"{row['model']} ({row['gflop']:,.0f} GFLOP/img)" for row in report["rows"]]
    rows = []
    for device in report["devices"]:
        name = device["name"]
        least = [
            f"{row['seconds'][name]:.3g}{' (memory)' if row['bound'][name] == 'memory' else ''}"
            for row in report["rows"]
        ]
        flops, moved = device["flops"] / 1e12, device["bandwidth"] / 1e12
        rows.append([name, f"{flops:,.4g}", f"{moved:.3g}", *least])
    return Table(title, ["", "TFLOP/s", "TB/s", *header], rows)


def change_table(changes: Sequence[Change]) -> Table:
    """What ``compare`` found."""
    rows = [
        [change.key, "-" if change.ratio != change.ratio else f"{change.ratio:.3f}", change.verdict]
        for change in changes
    ]
    return Table("beside the old run, in units of the machine's peak", ["", "time", ""], rows)


def _seconds(spread: Mapping[str, Any]) -> str:
    """Median, and low to high in one unit."""
    return f"{_three(spread['median'])} ({_three(spread['low'])} to {_three(spread['high'])})"


def _times(spread: Mapping[str, Any] | None) -> str:
    return "-" if spread is None else f"{_three(spread['median'])}x"


def _gain(row: Mapping[str, Any]) -> str:
    """``2.23x pruning``: what the row adds to the row it is built on."""
    return "-" if row["over_base"] is None else f"{_times(row['over_base'])} {row['gain']}"


def _parameters(row: Mapping[str, Any]) -> str:
    training, inference = row["parameters_training"] / 1e6, row["parameters_inference"] / 1e6
    return f"{training:.1f}" if training == inference else f"{training:.1f} ({inference:.1f})"


def _gibibytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 2**30:.2f}"


def _three(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
