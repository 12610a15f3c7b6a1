"""``xmdpt bench``: the speed of sampling on this machine, and what its subcommands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from xmdpt_cli.cli.console import Talk, warn_if_busy
from xmdpt_cli.cli.help import Group, panels
from xmdpt_cli.cli.options import AsJson, Device, pick_device, quiet_libraries
from xmdpt_cli.cli.workspace import BENCH
from xmdpt_cli.errors import ConfigError
from xmdpt_cli.files import check_writable
from xmdpt_cli.progress import Progress
from xmdpt_cli.training.model_config import SIZE_NAMES

if TYPE_CHECKING:
    import torch

    from xmdpt_cli.bench.report import Report
    from xmdpt_cli.report.tables import Table

SIZES_HELP = f"{', '.join(SIZE_NAMES[:-1])} or {SIZE_NAMES[-1]}"
bench_app = typer.Typer(cls=Group, invoke_without_command=True)

Sizes = Annotated[
    list[str] | None,
    typer.Option("--size", help=f"Model size: {SIZES_HELP}; repeat for several [S B L]."),
]
Pixels = Annotated[int, typer.Option(help="Side of the images in pixels: 256 or 512.")]
PixelsOrTiny = Annotated[
    int, typer.Option(help="Side of the images in pixels: 256 or 512; tiny alone always has 64.")
]
Rounds = Annotated[int, typer.Option(min=1, help="Number of rounds; each runs everything once.")]
BatchSize = Annotated[
    int | None, typer.Option(min=1, help="Images per batch [8 on a GPU, 2 on a CPU].")
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
        "Theoretical least time": "roof peak-tflops bandwidth",
    }
)
def bench(
    context: typer.Context,
    size: Sizes = None,
    pixels: PixelsOrTiny = 256,
    batch_size: BatchSize = None,
    rounds: Rounds = 10,
    steps_timed: Annotated[
        int | None,
        typer.Option(min=1, help="Number of sampling steps to time [all on a GPU, 1 on a CPU]."),
    ] = None,
    impl: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this implementation of X-MDPT: published, pruned, compiled ...; repeat for "
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
    """Measure the speed of sampling and training.

    Sampling: X-MDPT as published and as xmdpt computes it, beside networks like PIDM's and
    PoCoLD's. Every row adds one gain to the row above it. All run in turn, in one process.
    """
    if context.invoked_subcommand is not None:
        return
    if roof:
        show_roof(size, pixels, precision, peak_tflops, bandwidth, as_json)
        return
    if peak_tflops is not None or bandwidth is not None:
        raise ConfigError("--peak-tflops and --bandwidth need --roof")

    def measure(progress: Progress) -> Report:
        from xmdpt_cli.bench.implementations import Setting
        from xmdpt_cli.bench.sampling import measure_sampling

        sizes = check_sizes(size)
        tiny = sizes == ["tiny"]
        if "tiny" in sizes and not tiny:
            raise ConfigError("--size tiny has tiny baselines: measure it alone")
        check_pixels(pixels)
        where, dtype = device_and_dtype(device, precision)
        gpu = where.type == "cuda"
        batch, side = batch_size or (8 if gpu else 2), 64 if tiny else pixels
        report = measure_sampling(
            sizes,
            Setting(where, dtype, batch, side, compile_, tiny),
            rounds=rounds,
            measured_steps=steps_timed or (50 if gpu else 1),
            baselines=baselines and pixels == 256,
            only=impl,
            progress=progress,
        )
        if baselines and pixels != 256:
            report.notes.append("the baselines are networks for 256 px: left out")
        return report

    def more_tables(report: Report) -> list[Table]:
        from xmdpt_cli.bench.sampling import fit_table, paper_table

        beside = paper_table(report)
        return [] if beside is None else [beside, fit_table()]

    measure_and_report(measure, out, compare, as_json, more_tables)


def show_roof(
    size: list[str] | None,
    pixels: int,
    precision: str,
    peak_tflops: float | None,
    bandwidth: float | None,
    as_json: bool,
) -> None:
    """Print the least possible times on known devices, or on one with the given peaks."""
    from xmdpt_cli.bench.roof import Peaks, known_peaks, roofs

    check_pixels(pixels)
    precision = "bf16" if precision == "auto" else precision
    devices = known_peaks(precision)
    if (peak_tflops is None) != (bandwidth is None):
        raise ConfigError("give both --peak-tflops and --bandwidth")
    if peak_tflops is not None and bandwidth is not None:
        if peak_tflops <= 0 or bandwidth <= 0:
            raise ConfigError("--peak-tflops and --bandwidth must be positive")
        devices = [Peaks("given", peak_tflops * 1e12, bandwidth * 1e9)]
    report = roofs(check_sizes(size), devices, pixels=pixels, precision=precision)
    Talk(as_json).result(report.as_json(), report.table())


def check_sizes(given: list[str] | None) -> list[str]:
    """The names of sizes, which may be separated by commas. ConfigError for an unknown one."""
    from xmdpt_cli.model.xmdpt import SIZES

    names = [name for text in given or ["S", "B", "L"] for name in text.split(",") if name]
    for name in names:
        if name not in SIZES:
            raise ConfigError(f"no such size: {name!r}", f"choose from {', '.join(SIZES)}")
    return list(dict.fromkeys(names))


def check_pixels(pixels: int) -> None:
    if pixels not in (256, 512):
        raise ConfigError(f"--pixels is 256 or 512, not {pixels}")


def device_and_dtype(device: str, precision: str = "auto") -> tuple[torch.device, torch.dtype]:
    """The device, and the dtype to compute in."""
    import torch

    from xmdpt_cli.sampling.sampler import PRECISIONS

    where = torch.device(pick_device(device))
    if precision == "auto":
        precision = "bf16" if where.type == "cuda" else "fp32"
    return where, PRECISIONS[precision]


def measure_and_report(
    measure: Callable[[Progress], Report],
    out: Path,
    compare: Path | None,
    as_json: bool,
    more_tables: Callable[[Report], list[Table]] = lambda report: [],
) -> None:
    """Run ``measure``, then print, write and compare its report.

    ``out`` and the report to compare with are checked first. Exits with 1 if a row became slower.
    """
    from xmdpt_cli.bench.compare import change_table, load
    from xmdpt_cli.bench.compare import compare as changes_of

    quiet_libraries()
    check_writable(out / "bench.json")
    old = None if compare is None else load(compare)
    talk = Talk(as_json)
    warn_if_busy(talk)
    with talk.progress() as progress:
        report = measure(progress)
    changes = [] if old is None else changes_of(old, report)
    tables = [report.table(), *more_tables(report)]
    shown = tables if old is None else [*tables, change_table(changes)]
    data = {**report.as_json(), "changes": [vars(change) for change in changes]}
    talk.result(data, *shown, text="\n".join(report.summary()))
    # written last: the result is printed even if the disk is full
    talk.say(f"written: {', '.join(map(str, report.write(out, tables)))}")
    slower = [change.key for change in changes if change.verdict == "slower"]
    if slower:
        talk.warn(f"slower than before: {', '.join(slower)}")
        raise typer.Exit(1)
