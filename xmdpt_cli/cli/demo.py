"""``xmdpt demo``: the complete workflow once, on synthetic people, in minutes on two CPU cores."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from xmdpt_cli.cli.console import Talk, duration, table, warn_if_busy
from xmdpt_cli.cli.help import panels
from xmdpt_cli.cli.options import AsJson, plain, quiet_libraries
from xmdpt_cli.cli.workspace import DEMO
from xmdpt_cli.config import resolve
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import write_text
from xmdpt_cli.toy import pretrained
from xmdpt_cli.training.config import TrainConfig
from xmdpt_cli.training.config_notes import departures

#: what --paper trains, and what to expect of its images
_PAPER = (
    "the paper's model and losses (single condition vector, noise prediction, linear schedule, "
    "MIPNet) at toy size: it needs days of training; after minutes it generates patches of colour"
)


@panels({"Demo": "out train paper seed train-steps vae-steps people"})
def demo(
    out: Annotated[Path, typer.Option(help="Folder for all files of the demo.")] = DEMO,
    train: Annotated[
        bool,
        typer.Option(
            "--train/--no-train",
            help="Train a model, after the images of the toy model of the package.",
        ),
    ] = True,
    paper: Annotated[
        bool,
        typer.Option(
            "--paper", help="Train the paper's single-vector model instead of the token model."
        ),
    ] = False,
    seed: Annotated[
        int, typer.Option(min=0, help="Random seed; the same seed gives the same numbers.")
    ] = 0,
    train_steps: Annotated[
        int | None,
        typer.Option(min=1, help="Training steps of the model [1600; with --paper 500]."),
    ] = None,
    vae_steps: Annotated[int, typer.Option(min=1, help="Training steps of the toy VAE.")] = 500,
    people: Annotated[
        int, typer.Option(min=1, help="Number of synthetic people to train on.")
    ] = 400,
    as_json: AsJson = False,
) -> None:
    """Run the complete workflow on synthetic people, in minutes.

    First the toy model of the package generates images, in seconds (--no-train stops there). Then
    the demo renders people, prepares, trains a model of its own, samples and evaluates, in about 3
    minutes. Nothing is downloaded.
    """
    quiet_libraries()
    started = time.perf_counter()
    preset = "demo/paper-64" if paper else "fast/tokens-64"
    recipe = resolve(TrainConfig, "train", {"steps": train_steps, "seed": seed}, preset=preset)
    talk = Talk(as_json)
    warn_if_busy(talk)
    toy = None
    if pretrained.is_available() or not train:
        with _settings_hint(out):
            toy = _toy_images(talk, out / "toy-model", started)
    if not train:
        talk.result({"toy_model": toy}, text="next: xmdpt ui, or train a model: xmdpt demo")
        return
    talk.say(f"xmdpt demo: synthetic people into {out} (run it again to resume)")
    talk.say(_PAPER if paper else _departures(recipe))
    from xmdpt_cli.report.evaluation_text import table as cells
    from xmdpt_cli.toy.demo import Scale, describe_comparison, run_demo

    scale = Scale(people=people, vae_steps=vae_steps)

    with talk.progress() as progress, _settings_hint(out):
        summary, evaluation = run_demo(
            out, recipe, scale, seed=seed, started=started, progress=progress, say=talk.say
        )  # fmt: skip
    summary = {**plain(summary), "toy_model": toy}
    record = out / ("demo-paper.json" if paper else "demo.json")
    write_text(record, json.dumps(summary, indent=1, allow_nan=False) + "\n")
    shown = cells(evaluation)
    talk.result(
        summary,
        table(f"held-out people, TOY networks, {scale.size} px", shown.header, shown.rows),
        text=f"{describe_comparison(summary['beats'])}\n"
        f"images (source, pose, ground truth, generated): {summary['image']}\n"
        f"report: {record}; total time {duration(summary['seconds']['total'])}\n"
        + _next_commands(out, summary),
    )


def _departures(recipe: TrainConfig) -> str:
    named = ", ".join([*departures(recipe), "toy encoders"])
    return (
        f"this departs from the paper: {named}; `xmdpt demo --paper` shows the paper's vector model"
    )


def _toy_images(talk: Talk, out: Path, started: float) -> dict[str, Any]:
    """Generate synthetic people with the toy model of the package; says where they are."""
    folder = pretrained.folder()
    talk.say("the toy model of the package generates synthetic people that it was not trained on")
    from xmdpt_cli.sampling.pipeline import XMDPTPipeline
    from xmdpt_cli.toy.examples import examples_of, generate_examples

    pipe = XMDPTPipeline.from_pretrained(folder)
    config = pipe.sampling_config()
    _remove_images_of_another_version(out, pipe.sampler.identity)
    with talk.progress() as progress:
        record = generate_examples(pipe, examples_of(), config, out, progress=progress)
    image, seconds = out / record["sheet"], time.perf_counter() - started
    talk.say(f"images (source, pose, ground truth, generated): {image}, after {seconds:.0f} s")
    return {"image": str(image), "images": len(record["files"]), "seconds": round(seconds, 1)}


def _remove_images_of_another_version(out: Path, model: str) -> None:
    """Remove what the toy model of another version of the package has generated into ``out``."""
    from xmdpt_cli.sampling.record import RECORD, read_record

    if not (out / RECORD).is_file():
        return
    record = read_record(out)
    if record.get("model") != model:
        for name in (*record.get("files", ()), RECORD):
            (out / name).unlink(missing_ok=True)


@contextmanager
def _settings_hint(out: Path) -> Iterator[None]:
    """Give the error about other settings a hint that fits the demo."""
    try:
        yield
    except XmdptError as err:
        if "what differs" not in err.message and "other settings" not in err.message:
            raise
        hint = f"use the settings it was started with, choose another --out, or delete {out}"
        raise XmdptError(err.message, hint) from err


def _next_commands(out: Path, summary: dict[str, Any]) -> str:
    """The commands after the demo: the page with the same model, then the user's own data."""
    model = "" if out == DEMO else f" --model {Path(summary['model']).parent}"
    return (
        f"next: xmdpt ui{model}  (try the model on a page; pip install 'xmdpt-cli[ui]')\n"
        "then: xmdpt prepare --root DeepFashion  (your own data; next commands: xmdpt status)"
    )
