"""``xmdpt bench``: the speed of sampling on this machine, beside baselines, and its causes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from xmdpt_cli.cli.console import Talk, warn_if_busy
from xmdpt_cli.cli.help import Group, panels
from xmdpt_cli.cli.options import AsJson, Device, pick_device, quiet_libraries
from xmdpt_cli.cli.workspace import BENCH
from xmdpt_cli.errors import ConfigError
from xmdpt_cli.files import check_writable

if TYPE_CHECKING:
    from xmdpt_cli.report.tables import Table

bench_app = typer.Typer(cls=Group, invoke_without_command=True)

Sizes = Annotated[
    list[str] | None,
    typer.Option("--size", help="Model size: tiny, S, B, L or XL; repeat for several [S B L]."),
]
Rounds = Annotated[int, typer.Option(min=1, help="Number of rounds; each runs everything once.")]
BatchSize = Annotated[
    int | None, typer.Option(min=1, help="Images or pairs per batch [8 on a GPU, 2 on a CPU].")
]
Precision = Annotated[
    Literal["auto", "fp32", "bf16"], typer.Option(help="Precision; auto: bf16 on a GPU, else fp32.")
]
Compile = Annotated[
    bool, typer.Option("--compile/--no-compile", help="Measure torch.compile as well.")
]
Out = Annotated[Path, typer.Option(help="Folder for the report: JSON, Markdown, a plot.")]
Compare = Annotated[
    Path | None,
    typer.Option(help="Earlier report (JSON) of this machine; exit code 1 if something is slower."),
]
REPORT = "rounds out compare"


@bench_app.callback()
@panels(
    {
        "What is measured": "size pixels batch-size impl baselines precision compile steps-timed",
        "Report": REPORT,
        "Least time on paper": "roof peak-tflops bandwidth",
    }
)
def bench(
    context: typer.Context,
    size: Sizes = None,
    pixels: Annotated[int, typer.Option(help="Side of the images in pixels: 256 or 512.")] = 256,
    batch_size: BatchSize = None,
    rounds: Rounds = 10,
    steps_timed: Annotated[
        int | None,
        typer.Option(min=1, help="Number of sampling steps to time [all on a GPU, 1 on a CPU]."),
    ] = None,
    impl: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this implementation of X-MDPT: published, pruned, compiled ...; again for "
            "several [all]."
        ),
    ] = None,
    baselines: Annotated[
        bool, typer.Option(help="Measure networks like PIDM's and PoCoLD's as well.")
    ] = True,
    precision: Precision = "auto",
    compile_: Compile = True,
    roof: Annotated[
        bool, typer.Option("--roof", help="Compute the least possible time instead of measuring.")
    ] = False,
    peak_tflops: Annotated[
        float | None, typer.Option(help="Peak TFLOP/s of the device for --roof.")
    ] = None,
    bandwidth: Annotated[
        float | None, typer.Option(help="Memory bandwidth of the device in GB/s for --roof.")
    ] = None,
    out: Out = BENCH,
    compare: Compare = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure the speed of sampling and training here.

    Sampling: X-MDPT as published and as here, beside PIDM's and PoCoLD's kind of network. Every
    row adds one gain to the row above it. All run in turn, in one process.
    """
    if context.invoked_subcommand is not None:
        return
    quiet_libraries()
    sizes = named_sizes(size)
    check_pixels(pixels)
    if roof:
        _roof(sizes, pixels, precision, peak_tflops, bandwidth, as_json)
        return
    if peak_tflops is not None or bandwidth is not None:
        raise ConfigError("--peak-tflops and --bandwidth need --roof")
    from xmdpt_cli.bench.implementations import Setting
    from xmdpt_cli.bench.tables import fit_table, notes, paper_table, speed_table
    from xmdpt_cli.bench.throughput import measure

    old = earlier(compare, out)
    where, dtype = where_and_type(device, precision)
    tiny = sizes == ["tiny"]
    if "tiny" in sizes and not tiny:
        raise ConfigError("--size tiny has tiny baselines: measure it alone")
    talk = Talk(as_json)
    warn_if_busy(talk)
    if pixels != 256 and baselines:
        talk.say("PIDM's and PoCoLD's kind are for 256 px: left out")
        baselines = False
    gpu = where.type == "cuda"
    setting = Setting(
        where,
        dtype,
        batch_size or (8 if gpu else 2),
        64 if tiny else pixels,
        compile_,
        tiny,
    )
    with talk.progress() as progress:
        report = measure(
            sizes,
            setting,
            rounds=rounds,
            measured_steps=steps_timed or (50 if gpu else 1),
            baselines=baselines,
            only=impl,
            progress=progress,
        )
    shown = [speed_table(report)]
    if baselines and not tiny:
        beside = paper_table(report)
        shown += [*([] if beside is None else [beside]), fit_table()]
    finish(talk, report, shown, notes(report), out, old)


def earlier(path: Path | None, out: Path) -> dict[str, Any] | None:
    """The report to compare with. Checked before the work, as is that ``out`` can be written to."""
    from xmdpt_cli.bench.compare import load

    check_writable(out / "bench.json")
    return None if path is None else load(path)


def named_sizes(given: list[str] | None) -> list[str]:
    """As given, also with commas; ConfigError for what is no size."""
    from xmdpt_cli.model.xmdpt import SIZES

    named = [name for text in given or ["S", "B", "L"] for name in text.split(",") if name]
    for name in named:
        if name not in SIZES:
            raise ConfigError(f"no such size: {name!r}", f"choose from {', '.join(SIZES)}")
    return list(dict.fromkeys(named))


def check_pixels(pixels: int) -> None:
    """ConfigError for what no model here is made for."""
    if pixels not in (256, 512):
        raise ConfigError(f"--pixels is 256 or 512, not {pixels}")


def where_and_type(device: str, precision: str) -> tuple[Any, Any]:
    """The device, and the type that is computed in."""
    import torch

    from xmdpt_cli.sampling.sampler import PRECISIONS

    where = torch.device(pick_device(device))
    if precision == "auto":
        precision = "bf16" if where.type == "cuda" else "fp32"
    return where, PRECISIONS[precision]


def _roof(
    sizes: list[str],
    pixels: int,
    precision: str,
    peak: float | None,
    bandwidth: float | None,
    as_json: bool,
) -> None:
    from xmdpt_cli.bench.roof import Peaks, known_peaks, roofs
    from xmdpt_cli.bench.tables import roof_table

    precision = "bf16" if precision == "auto" else precision
    if (peak is None) != (bandwidth is None):
        raise ConfigError("give both --peak-tflops and --bandwidth")
    devices = known_peaks(precision)
    if peak is not None and bandwidth is not None:
        if peak <= 0 or bandwidth <= 0:
            raise ConfigError("--peak-tflops and --bandwidth must be positive")
        devices = [Peaks("given", peak * 1e12, bandwidth * 1e9)]
    report = roofs(sizes, devices, pixels=pixels, precision=precision)
    Talk(as_json).result(report, roof_table(report))


def finish(
    talk: Talk,
    report: dict[str, Any],
    shown: list[Table],
    notes: list[str],
    out: Path,
    old: dict[str, Any] | None,
) -> None:
    """Compare, tell and write; exit 1 where something became slower."""
    from xmdpt_cli.bench.compare import compare
    from xmdpt_cli.bench.report import write_report
    from xmdpt_cli.bench.tables import change_table

    changes = [] if old is None else compare(old, report)
    rows = [
        {**change._asdict(), "ratio": change.ratio if change.ratio > 0 else None}
        for change in changes
    ]
    beside = [] if old is None else [change_table(changes)]
    talk.result({**report, "changes": rows}, *shown, *beside, text="\n".join(notes))
    # last: what was measured is printed even if the disk is full
    talk.say(f"written: {', '.join(map(str, write_report(out, report, shown, notes)))}")
    slower = [change.key for change in changes if change.verdict == "slower"]
    if slower:
        talk.warn(f"slower than before: {', '.join(slower)}")
        raise typer.Exit(1)
