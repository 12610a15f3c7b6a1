"""``xmdpt demo``: the whole workflow once, on synthetic people, in minutes on two CPU cores."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xmdpt_cli import __version__
from xmdpt_cli.cli.console import Talk, duration, say_resuming, table, warn_if_busy
from xmdpt_cli.cli.help import panels
from xmdpt_cli.cli.options import AsJson, plain, quiet_libraries
from xmdpt_cli.cli.workspace import DEMO
from xmdpt_cli.config import resolve
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import write_text
from xmdpt_cli.progress import Progress, Say
from xmdpt_cli.training.config import TrainConfig

if TYPE_CHECKING:
    from xmdpt_cli.metrics.evaluation import Evaluation

SIZE = 64  # pixels: what two cores can train in minutes
PEOPLE, TEST_PEOPLE, VIEWS, HEIGHT = 400, 32, 4, 128
VAE_STEPS = 500


@panels({"Demo": "out paper seed train-steps vae-steps people"})
def demo(
    out: Annotated[Path, typer.Option(help="Folder for all files of the demo.")] = DEMO,
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
        int | None, typer.Option(min=1, help="Training steps of the model [800; with --paper 500].")
    ] = None,
    vae_steps: Annotated[
        int, typer.Option(min=1, help="Training steps of the toy VAE.")
    ] = VAE_STEPS,
    people: Annotated[
        int, typer.Option(min=1, help="Number of synthetic people to train on.")
    ] = PEOPLE,
    as_json: AsJson = False,
) -> None:
    """Run the complete workflow on synthetic people, in minutes.

    Renders people, prepares, trains, samples and evaluates in about 5 minutes, without downloads.
    """
    quiet_libraries()
    preset = "demo/paper-64" if paper else "demo/tokens-64"
    recipe = resolve(TrainConfig, "train", {"steps": train_steps, "seed": seed}, preset=preset)
    talk = Talk(as_json)
    warn_if_busy(talk)
    talk.say(f"xmdpt demo: synthetic people at {SIZE} px into {out} (interrupted? run it again)")
    talk.say(departure(paper))
    with talk.progress() as progress, _settings_hint(out):
        summary, report = run_demo(out, recipe, seed, vae_steps, people, progress, talk.say)
    from xmdpt_cli.report.evaluation_text import table as cells

    shown = cells(report)
    record = out / ("demo-paper.json" if paper else "demo.json")
    write_text(record, json.dumps(summary, indent=1, allow_nan=False) + "\n")
    talk.result(
        summary,
        table(f"held-out people, TOY networks, {SIZE} px", shown.header, shown.rows),
        text=f"{verdict(summary)}\n"
        f"look at: {summary['image']} (source, pose, ground truth, generated)\n"
        f"numbers: {record}; {duration(summary['seconds']['total'])} in all\n"
        + next_commands(out, summary),
    )


@contextmanager
def _settings_hint(out: Path) -> Iterator[None]:
    """Give the error about other settings a hint that fits the demo."""
    try:
        yield
    except XmdptError as err:
        if "what differs" not in err.message and "other settings" not in err.message:
            raise
        hint = f"repeat the settings it was started with, choose another --out, or delete {out}"
        raise XmdptError(err.message, hint) from err


def next_commands(out: Path, summary: dict[str, Any]) -> str:
    """The commands after the demo: the page with the same model, then the user's own data."""
    model = "" if out == DEMO else f" --model {Path(summary['model']).parent}"
    return (
        f"next: xmdpt ui{model}  (pose people by hand; pip install 'xmdpt-cli[ui]')\n"
        "then: xmdpt prepare --root DeepFashion  (your own data; xmdpt status tells what follows)"
    )


def departure(paper: bool) -> str:
    """How the model departs from the paper, and what to expect of its images."""
    if paper:
        return (
            "the paper's model and losses (single condition vector, noise prediction, linear "
            "schedule, MIPNet) at toy size: after minutes it generates patches of colour, it "
            "needs days"
        )
    return (
        "this departs from the paper: conditioning 'tokens' (our extension), v prediction, cosine "
        "schedule, Muon, toy encoders; `xmdpt demo --paper` shows the paper's vector model"
    )


def run_demo(
    out: Path,
    recipe: TrainConfig,
    seed: int,
    vae_steps: int,
    people: int,
    progress: Progress,
    say: Say,
) -> tuple[dict[str, Any], Evaluation]:
    """Run all steps; each resumes. Returns the summary as plain data, and the evaluation."""
    clock = _Clock()  # importing the libraries takes its seconds too
    from xmdpt_cli.data.dataset import PairDataset
    from xmdpt_cli.datasets.find import find_dataset
    from xmdpt_cli.metrics.evaluate import Networks, evaluate_pairs
    from xmdpt_cli.metrics.features import toy_features
    from xmdpt_cli.metrics.lpips_metric import LpipsNetwork
    from xmdpt_cli.prepare.pipeline import prepare_dataset
    from xmdpt_cli.report.evaluation_json import plain as plain_reports
    from xmdpt_cli.report.evaluation_json import write_json
    from xmdpt_cli.sampling.dataset_images import generate
    from xmdpt_cli.sampling.ground_truth import DatasetGroundTruth
    from xmdpt_cli.sampling.sampler import Sampler
    from xmdpt_cli.toy.measures import TOY_METRICS
    from xmdpt_cli.toy.synthetic import make_synthetic
    from xmdpt_cli.toy.train_encoders import make_toy_encoders
    from xmdpt_cli.training.loop import train

    clock.lap("imports")
    make_synthetic(
        out / "people",
        people_train=people,
        people_test=TEST_PEOPLE,
        views=VIEWS,
        seed=seed,
        height=HEIGHT,
        plain=True,  # at this size patterns cannot be seen
        progress=progress,
    )
    listing = find_dataset(out / "people")
    clock.lap("people")
    toy = make_toy_encoders(
        listing, out / "data" / "encoders", size=SIZE, seed=seed, vae_steps=vae_steps,
        progress=progress,
    )  # fmt: skip
    clock.lap("vae")
    prepare_dataset(listing, out / "data", size=SIZE, encoder=toy.encoders, progress=progress)
    clock.lap("prepare")
    run = out / f"run-{recipe.conditioning}"
    trained = train(recipe, out / "data", run, progress=progress, say=say)
    clock.lap("train")
    samples = out / f"samples-{recipe.conditioning}"
    sampler = Sampler.load(trained.model)
    record = generate(
        sampler,
        PairDataset(out / "data", "test"),
        toy.encoders.vae,
        samples,
        sampler.sampling_config(seed=seed),
        batch_size=16,
        progress=say_resuming(progress, say, "images"),
    )
    clock.lap("sample")
    truth = DatasetGroundTruth(out / "data", "test", samples)
    report = evaluate_pairs(
        truth.pairs(),
        protocol="native",
        networks=Networks(LpipsNetwork("toy"), {"torchvision": toy_features()}),
        reference=truth.reference_set(),
        extra=TOY_METRICS,
        progress=progress,
    )
    plain_report = plain_reports([report])
    write_json(samples / "metrics.json", plain_report)
    clock.lap("evaluate")
    summary = plain(
        {
            "what": "xmdpt demo: toy networks on synthetic people, no published protocol",
            "version": __version__,
            "paper_model": recipe.conditioning == "vector",
            "departs_from_paper": recipe.conditioning != "vector",
            "toy": True,
            "seed": seed,
            "recipe": vars(recipe),
            "people": {"train": people, "test": TEST_PEOPLE, "views": VIEWS, "plain": True},
            "pairs": {"test": report.counts["generated"]},
            "vae_psnr_held_out": toy.vae.psnr,
            "rows": plain_report["rows"],
            "beats": beats(plain_report["rows"]),
            "seconds": clock.seconds(),
            "steps_per_second": trained.steps_per_second,
            "image": record["sheet"],
            "model": trained.model,
        }
    )
    return summary, report


def beats(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, bool]]:
    """Per baseline and metric, whether the generated images are better.

    FID is not compared with copies of the source, since these are real images.
    """
    from xmdpt_cli.metrics.registry import METRICS

    generated = rows["generated"]
    out: dict[str, dict[str, bool]] = {}
    for name in ("copy-source", "mean-image"):
        baseline = {k: v for k, v in rows[name].items() if k in METRICS and v is not None}
        out[name] = {
            k: bool(generated[k] > v if METRICS[k][0] else generated[k] < v)
            for k, v in baseline.items()
            if generated.get(k) is not None and not (name == "copy-source" and k.startswith("fid"))
        }
    return out


def verdict(summary: dict[str, Any]) -> str:
    """A sentence about the metrics in which the model beats the baselines, or does not."""
    lost = {
        name: [metric for metric, better in measures.items() if not better]
        for name, measures in summary["beats"].items()
    }
    if not any(lost.values()):
        return (
            "better than copying the source and than the mean image in every measure "
            "(FID aside for the copies, which are real images)"
        )
    return "; ".join(
        f"NOT better than {name} in {', '.join(metrics)}"
        for name, metrics in lost.items()
        if metrics
    )


class _Clock:
    def __init__(self) -> None:
        self.started = self.last = time.perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self.last = round(now - self.last, 1), now

    def seconds(self) -> dict[str, float]:
        return {**self.laps, "total": round(time.perf_counter() - self.started, 1)}
