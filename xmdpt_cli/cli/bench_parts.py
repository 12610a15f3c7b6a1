"""``xmdpt bench train``, ``latency``, ``encode``, ``data`` and ``scale``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xmdpt_cli.cli.bench import (
    REPORT,
    SIZES_HELP,
    Compare,
    Compile,
    Out,
    Pixels,
    PixelsOrTiny,
    Precision,
    Rounds,
    Sizes,
    bench_app,
    check_pixels,
    check_sizes,
    device_and_dtype,
    measure_and_report,
)
from xmdpt_cli.cli.help import Command, panels
from xmdpt_cli.cli.options import AsJson, Device
from xmdpt_cli.cli.workspace import BENCH
from xmdpt_cli.errors import ConfigError
from xmdpt_cli.progress import Progress

if TYPE_CHECKING:
    from xmdpt_cli.bench.report import Report


@bench_app.command("train", cls=Command)
@panels({"What is measured": "size pixels batch-size online precision compile", "Report": REPORT})
def train(
    size: Sizes = None,
    pixels: Pixels = 256,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Pairs per batch [32 on a GPU, 2 on a CPU].")
    ] = None,
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

    As published and as xmdpt computes it, and how long it waits for its data.
    """

    def measure(progress: Progress) -> Report:
        from xmdpt_cli.bench.train import measure_training

        check_pixels(pixels)
        where, dtype = device_and_dtype(device, precision)
        return measure_training(
            check_sizes(size),
            where,
            dtype,
            batch_size or (32 if where.type == "cuda" else 2),
            pixels=pixels,
            compiled=compile_,
            online=online,
            rounds=rounds,
            progress=progress,
        )

    measure_and_report(measure, out, compare, as_json)


@bench_app.command("latency", cls=Command)
@panels({"What is measured": "size pixels precision compile", "Report": REPORT})
def latency(
    size: Sizes = None,
    pixels: PixelsOrTiny = 256,
    rounds: Rounds = 10,
    precision: Precision = "auto",
    compile_: Annotated[
        bool | None,
        typer.Option("--compile/--no-compile", help="Use torch.compile [on a GPU]."),
    ] = None,
    out: Out = BENCH,
    compare: Compare = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure how long one image takes.

    From the keypoints of a pose to a PNG file, whole and in parts. The source is encoded already.
    """

    def measure(progress: Progress) -> Report:
        from xmdpt_cli.bench.latency import measure_latency

        sizes = check_sizes(size)
        check_pixels(pixels)
        where, dtype = device_and_dtype(device, precision)
        return measure_latency(
            sizes,
            where,
            dtype,
            64 if sizes == ["tiny"] else pixels,
            compiled=where.type == "cuda" if compile_ is None else compile_,
            rounds=rounds,
            progress=progress,
        )

    measure_and_report(measure, out, compare, as_json)


@bench_app.command("encode", cls=Command)
@panels({"What is measured": "pixels batch-size precision", "Report": REPORT})
def encode(
    pixels: Pixels = 256,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images per batch [32 on a GPU, 1 on a CPU].")
    ] = None,
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

    def measure(progress: Progress) -> Report:
        from xmdpt_cli.bench.encode import measure_encoders

        check_pixels(pixels)
        where, dtype = device_and_dtype(device, precision)
        batch = batch_size or (32 if where.type == "cuda" else 1)
        return measure_encoders(where, dtype, batch, pixels, rounds, progress)

    measure_and_report(measure, out, compare, as_json)


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

    def measure(progress: Progress) -> Report:
        from xmdpt_cli.bench.data import measure_data

        if url is not None and dataset is None:
            raise ConfigError("--url needs --dataset DIR: the folder that is served there")
        if image is not None and not image.is_file():
            raise ConfigError(f"image not found: {image}")
        return measure_data(
            batch_size,
            image=image,
            items=items,
            dataset_bytes=int(gigabytes * 1e9),
            rounds=rounds,
            url=url,
            out=dataset,
            progress=progress,
        )

    measure_and_report(measure, out, compare, as_json)


@bench_app.command("scale", cls=Command)
@panels({"What is measured": "size processes batch-size steps", "Report": REPORT})
def scale(
    size: Annotated[str, typer.Option(help=f"Model size: {SIZES_HELP}.")] = "S",
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

    def measure(progress: Progress) -> Report:
        from xmdpt_cli.bench.scale import measure_scaling

        where, _ = device_and_dtype(device)
        (name,) = check_sizes([size])
        batch = batch_size or (32 if where.type == "cuda" else 2)
        return measure_scaling(
            name, where, batch, processes, steps=steps, rounds=rounds, progress=progress
        )

    measure_and_report(measure, out, compare, as_json)
