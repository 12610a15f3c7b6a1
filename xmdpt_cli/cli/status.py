"""``xmdpt status``, or ``xmdpt`` alone: the content of this folder and the next command."""

from __future__ import annotations

import math
import shutil
import textwrap
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from xmdpt_cli.cli import workspace
from xmdpt_cli.cli.console import WIDEST, Talk
from xmdpt_cli.cli.help import panels
from xmdpt_cli.cli.next_command import resume_command, train_command
from xmdpt_cli.cli.options import AsJson
from xmdpt_cli.cli.workspace_defaults import samples_folder
from xmdpt_cli.cli.workspace_links import dataset_of, tuned_vae
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import is_hidden
from xmdpt_cli.toy import pretrained
from xmdpt_cli.utils import records
from xmdpt_cli.utils.counts import counted
from xmdpt_cli.utils.safe_names import CHECKPOINT

#: metrics of the generated images that a line shows, by how their names begin
_SHOWN = ("fid", "ssim", "lpips")


@dataclass
class Status:
    """The content of the workspace, as ``--json`` prints it."""

    datasets: list[dict[str, Any]] = field(default_factory=list)
    vaes: list[dict[str, Any]] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    demo: str | None = None
    next: str = ""


@panels({})
def status(as_json: AsJson = False) -> None:
    """Show the content of this folder, and the next command.

    Lists datasets, runs with their steps and last loss, samples and their metrics.
    """
    talk = Talk(as_json)
    found = read_status()
    shown = _lines(found)
    lines = shown or [f"no dataset, run or samples in {Path.cwd()}"]
    lines += ["", f"next: {found.next}"]
    if not shown:
        lines.append("without data: xmdpt demo")
        if pretrained.is_available():
            lines.append("with the toy model of the package (synthetic people): xmdpt sample")
    lines.append("all commands: xmdpt --help")
    talk.result(asdict(found), text="\n".join(lines))


def read_status() -> Status:
    """Read the records of the current folder; nothing large is opened."""
    found = Status(
        [_dataset(one) for one in workspace.datasets()],
        _all(workspace.VAE, _vae) + _all(workspace.TINY, _vae),
        _all(workspace.RUNS, _run),
        _all(workspace.SAMPLES, _samples),
    )
    for path in workspace.unfinished_datasets():
        found.datasets.append({"path": str(path), "finished": False})
    for model in workspace.models():
        if model.path.parent == workspace.MODELS:
            found.runs.append(
                {"path": str(model.path), "step": model.steps, "steps": model.steps,
                 "loss": None, "model": True, "toy": bool(model.metadata.get("toy")),
                 "distilled": None}
            )  # fmt: skip
    demo = workspace.demo_model()
    found.demo = None if demo is None else str(demo)
    found.next = _next(found)
    return found


def _all(parent: Path, read: Callable[[Path], dict[str, Any] | None]) -> list[dict[str, Any]]:
    """What ``read`` returns for each folder; records of another program are skipped."""
    found = []
    for path in workspace.folders(parent):
        with suppress(*workspace.UNEXPECTED):
            one = read(path)
            found += [] if one is None else [one]
    return found


def _dataset(one: workspace.Dataset) -> dict[str, Any]:
    return {
        "path": str(one.path),
        "finished": True,
        "resolution": one.resolution,
        "images": sum(split["images"] for split in one.counts.values()),
        "train_pairs": one.counts["train"]["pairs"],
        "test_pairs": one.counts["test"]["pairs"],
        "toy": one.toy,
    }


def _vae(path: Path) -> dict[str, Any] | None:
    started = workspace.read_record(path / "run.json")
    done = workspace.read_record(path / "xmdpt_training.json")
    if started is None:
        return None
    settings = started.get("settings", {})
    kind = "decoder fine-tuned"
    if settings.get("all_weights"):
        kind = "trained from scratch"
    elif settings.get("decoder") == "tiny":
        kind = "tiny decoder"
    return {"path": str(path), "finished": done is not None, "kind": kind}


def _run(path: Path) -> dict[str, Any] | None:
    command, config = workspace.run_settings(path)
    if not config:
        return None
    model = workspace.model_at(path)
    step, loss = _last_line(path / "metrics.jsonl")
    if model is not None:
        step = max(step, model.steps or 0)
    for checkpoint in sorted((path / "checkpoints").glob("step_*")):
        if CHECKPOINT.fullmatch(checkpoint.name):
            step = max(step, int(checkpoint.name.removeprefix("step_")))
    return {
        "path": str(path),
        "step": step,
        "steps": int(config.get("steps", 0)),
        "loss": loss,
        "model": model is not None,
        "toy": bool(model and model.metadata.get("toy")),
        "distilled": _student(config) if command == "distill" else None,
    }


def _student(config: dict[str, Any]) -> str:
    """What a run distils: "4 steps", "guidance"."""
    stage = str(config.get("stage"))
    steps = config.get("student_steps")
    return stage if stage != "steps" or steps is None else counted(steps, "step")


def _last_line(path: Path) -> tuple[int, float | None]:
    """The last step logged with a loss, and that loss."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return 0, None
    for line in reversed(lines):
        try:
            row = records.parse(dict[str, Any], line, path)
            step, loss = int(row["step"]), float(row["loss"])
        except (XmdptError, *workspace.UNEXPECTED):  # a line cut short, or of a validation
            continue
        return step, loss if math.isfinite(loss) else None
    return 0, None


def _samples(path: Path) -> dict[str, Any] | None:
    record = workspace.read_record(path / "samples.json")
    if record is None:
        return None
    done, files = record.get("complete"), record.get("files")
    count = len(done or files or [p for p in path.glob("*_2_*.png") if not is_hidden(p.name)])
    report = workspace.read_record(path / "metrics.json") or {}
    row = report.get("rows", {}).get("generated", {})
    numbers = {k: float(v) for k, v in row.items() if k.startswith(_SHOWN) and v is not None}
    sampling, step = record["sampling"], record.get("trained_steps")
    return {
        "path": str(path),
        "images": count,
        "complete": bool(done or files),
        "own": files is not None,
        "step": None if step is None else int(step),
        "sampling": f"{counted(int(sampling['steps']), 'step')} of {sampling['solver']}"
        + (f" with cache {sampling['cache']:g}" if sampling.get("cache", 0) > 1 else ""),
        "toy": bool(record.get("toy")),
        "protocol": str(report.get("protocol")),
        "measured": int(report["counts"]["generated"]) if numbers else None,
        "metrics": {k: v for k, v in numbers.items() if math.isfinite(v)},
    }


def _lines(found: Status) -> list[str]:
    """A heading for each kind of result, and one line for each of them."""
    kinds = {
        "datasets": [(one["path"], _dataset_words(one)) for one in found.datasets],
        "VAEs": [
            (one["path"], one["kind"] + ("" if one["finished"] else ", not finished"))
            for one in found.vaes
        ],
        "runs and models": [(one["path"], _run_words(one)) for one in found.runs],
        "samples": [(one["path"], _samples_words(one)) for one in found.samples],
        "demo": [(found.demo, "try it: xmdpt ui")] if found.demo else [],
    }
    longest = max((len(path) for rows in kinds.values() for path, _ in rows), default=0)
    width = min(shutil.get_terminal_size().columns, WIDEST)
    lines = []
    for kind, rows in kinds.items():
        lines += [kind] if rows else []
        for path, words in rows:
            indent = " " * (longest + 4)
            text = textwrap.fill(words, max(width, longest + 40), initial_indent=indent,
                                 subsequent_indent=indent, break_on_hyphens=False,
                                 break_long_words=False)  # fmt: skip
            lines.append(f"  {path:<{longest}}  {text[len(indent) :]}")
    return lines


def _dataset_words(one: dict[str, Any]) -> str:
    if not one["finished"]:
        return "not finished: the same xmdpt prepare command resumes"
    return (
        f"{one['resolution']} px, {counted(one['images'], 'image')}, "
        f"{one['train_pairs']:,} training and {counted(one['test_pairs'], 'test pair')}{_note(one)}"
    )


def _run_words(one: dict[str, Any]) -> str:
    if one["step"] is None:
        return f"converted{_note(one)}"
    loss = "" if one["loss"] is None else f", last loss {one['loss']:.4f}"
    student = "" if one["distilled"] is None else f", distilled: {one['distilled']}"
    of = f" of {one['steps']:,}" if one["step"] <= one["steps"] else ""  # --steps was lowered later
    return f"step {one['step']:,}{of}{loss}{student}{_note(one)}"


def _samples_words(one: dict[str, Any]) -> str:
    count = counted(one["images"], "image") + ("" if one["complete"] else " so far")
    step = "" if one["step"] is None else f" of step {one['step']:,}"
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in one["metrics"].items())
    part = ""
    if one["measured"] not in (None, one["images"]):
        part = f", of {counted(one['measured'], 'image')}"
    by = f"; {one['protocol']}{part}: {metrics}" if metrics else ""
    return f"{count}{step}, {one['sampling']}{by}{_note(one)}"


def _note(one: dict[str, Any]) -> str:
    return " (toy)" if one["toy"] else ""


def _next(found: Status) -> str:
    """The next command of the workflow, for the newest results."""
    ready = [one for one in found.datasets if one["finished"]]
    models = workspace.models()
    unfinished = [run for run in found.runs if _unfinished(run)]
    for run in unfinished:
        path = Path(run["path"])
        if not models or _last_written(path) > models[0].written:
            return resume_command(path, workspace.run_settings(path)[0])
    if not models:
        if ready:
            return train_command(ready[0]["toy"])
        return workspace.prepare_command() + (" (it resumes)" if found.datasets else "")
    model = models[0]
    if not ready and model.shards is None:  # converted: there is no dataset that it belongs to
        return "xmdpt sample --source person.jpg --pose pose.json"
    try:
        workspace.newest_model()
        data = dataset_of(model)[0]
    except XmdptError as err:
        return f"{err.message}: {err.hint}"
    vae = None if model.has_vae() else tuned_vae(data)
    folder = str(samples_folder(model.path, model.steps, vae=vae))
    samples = next((one for one in found.samples if one["path"] == folder), None)
    if samples is None or not samples["complete"]:
        return "xmdpt sample"
    if not samples["metrics"]:
        return "xmdpt evaluate --fid --ssim --lpips"
    return "xmdpt ui, or xmdpt sample --source person.jpg --pose pose.json"


def _unfinished(run: dict[str, Any]) -> bool:
    """Whether steps are left, or the model is not yet written after the last one."""
    return bool(run["steps"]) and (run["step"] < run["steps"] or not run["model"])


def _last_written(run: Path) -> int:
    """Time in ns at which a run was last written to."""
    names = ("metrics.jsonl", "config.toml", "checkpoints/latest")
    return max(workspace.written(run / name) for name in names)
