"""``xmdpt bench train``, ``encode``, ``data`` and ``scale``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from xmdpt_cli.cli.bench import (
    REPORT,
    BatchSize,
    Compare,
    Compile,
    Out,
    Precision,
    Rounds,
    Sizes,
    bench_app,
    check_pixels,
    earlier,
    finish,
    named_sizes,
    where_and_type,
)
from xmdpt_cli.cli.console import Talk, warn_if_busy
from xmdpt_cli.cli.help import Command, panels
from xmdpt_cli.cli.options import AsJson, Device, quiet_libraries
from xmdpt_cli.cli.workspace import BENCH
from xmdpt_cli.errors import ConfigError

Pixels = Annotated[int, typer.Option(help="Side of the images in pixels: 256 or 512.")]


@bench_app.command("train", cls=Command)
@panels({"What is measured": "size pixels batch-size online precision compile", "Report": REPORT})
def train(
    size: Sizes = None,
    pixels: Pixels = 256,
    batch_size: BatchSize = None,
    rounds: Rounds = 10,
    online: Annotated[
        bool,
        typer.Option(
            "--online", help="Measure the published step with its encoders in every step as well."
        ),
    ] = False,
    precision: Precision = "auto",
    compile_: Compile = True,
    out: Out = BENCH,
    compare: Compare = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure a training step.

    As published and as here, and how long it waits for its data.
    """
    quiet_libraries()
    old = earlier(compare, out)
    from xmdpt_cli.bench.train import measure_training

    check_pixels(pixels)
    where, dtype = where_and_type(device, precision)
    talk = Talk(as_json)
    warn_if_busy(talk)
    with talk.progress() as progress:
        report = measure_training(
            named_sizes(size),
            where,
            dtype,
            batch_size or (32 if where.type == "cuda" else 2),
            pixels=pixels,
            compiled=compile_,
            online=online,
            rounds=rounds,
            progress=progress,
        )
    waits = ", ".join(f"{name} {share:.1%}" for name, share in report["data_wait"].items())
    _tell(talk, report, out, old, [f"time that steps wait for cached batches: {waits}"])


@bench_app.command("encode", cls=Command)
@panels({"What is measured": "pixels batch-size precision", "Report": REPORT})
def encode(
    pixels: Pixels = 256,
    batch_size: BatchSize = None,
    rounds: Rounds = 10,
    precision: Precision = "auto",
    out: Out = BENCH,
    compare: Compare = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure the frozen encoders.

    DINOv2-G and -B, the VAE's encoder and decoder.
    """
    quiet_libraries()
    old = earlier(compare, out)
    from xmdpt_cli.bench.encode import measure_encoders

    check_pixels(pixels)
    where, dtype = where_and_type(device, precision)
    talk = Talk(as_json)
    warn_if_busy(talk)
    with talk.progress() as progress:
        report = measure_encoders(
            where,
            dtype,
            batch_size or (32 if where.type == "cuda" else 1),
            pixels,
            rounds,
            progress,
        )
    _tell(talk, report, out, old)


@bench_app.command("data", cls=Command)
@panels({"What is measured": "image batch-size url dataset gigabytes items", "Report": REPORT})
def data(
    image: Annotated[
        Path | None, typer.Option(help="Image that is prepared repeatedly [a synthetic one].")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pairs per batch.")] = 64,
    url: Annotated[
        str | None, typer.Option(help="URL where --dataset is served: measure streaming as well.")
    ] = None,
    dataset: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the dataset of random numbers, reused if it is there [temporary]."
        ),
    ] = None,
    gigabytes: Annotated[
        float, typer.Option(min=0.01, help="Size in GB of the dataset of random numbers.")
    ] = 0.5,
    items: Annotated[
        int, typer.Option(min=1, help="People with four images each, prepared per round.")
    ] = 64,
    rounds: Rounds = 5,
    out: Out = BENCH,
    compare: Compare = None,
    as_json: AsJson = False,
) -> None:
    """Measure prepare and the loader.

    Prepare without its networks; the loader with one thread, with all, or streamed.
    """
    quiet_libraries()
    old = earlier(compare, out)
    from xmdpt_cli.bench.data_rates import measure_data

    if url is not None and dataset is None:
        raise ConfigError("--url needs --dataset DIR: the folder that is served there")
    if image is not None and not image.is_file():
        raise ConfigError(f"image not found: {image}")
    talk = Talk(as_json)
    warn_if_busy(talk)
    talk.say("making a dataset of random numbers, then in turn")
    report = measure_data(
        batch_size,
        image=image,
        items=items,
        dataset_bytes=int(gigabytes * 1e9),
        rounds=rounds,
        url=url,
        out=dataset,
    )
    _tell(talk, report, out, old)


@bench_app.command("scale", cls=Command)
@panels({"What is measured": "size processes batch-size steps", "Report": REPORT})
def scale(
    size: Annotated[str, typer.Option(help="Model size: tiny, S, B, L or XL.")] = "S",
    processes: Annotated[
        int | None, typer.Option(min=1, help="Largest number of processes [all GPUs, or cores].")
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Pairs per batch in each process [32 on a GPU, 2 on a CPU]."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Training steps per round.")] = 5,
    rounds: Rounds = 3,
    out: Out = BENCH,
    compare: Compare = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure training in several processes.

    In 1, 2, 4 ... of them, started by torchrun.
    """
    quiet_libraries()
    old = earlier(compare, out)
    from xmdpt_cli.bench.scale import measure_scaling, most

    where, _ = where_and_type(device, "auto")
    (named,) = named_sizes([size])
    last = processes or most(where)
    counts = sorted({*(2**k for k in range(last.bit_length()) if 2**k <= last), last})
    talk = Talk(as_json)
    warn_if_busy(talk)
    with talk.progress() as progress:
        report = measure_scaling(
            named,
            where,
            batch_size or (32 if where.type == "cuda" else 2),
            counts,
            steps=steps,
            rounds=rounds,
            progress=progress,
        )
    shared = ["the processes share this machine's cores"] if where.type == "cpu" else []
    _tell(talk, report, out, old, shared)


def _tell(
    talk: Talk,
    report: dict[str, Any],
    out: Path,
    old: dict[str, Any] | None,
    more: list[str] | None = None,
) -> None:
    from xmdpt_cli.bench.tables import notes, rate_table

    finish(talk, report, [rate_table(report)], [*notes(report), *(more or [])], out, old)
