"""``xmdpt status``, or ``xmdpt`` alone: what is in this folder, and the next command."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from xmdpt_cli.commands import workspace
from xmdpt_cli.commands.help import panels
from xmdpt_cli.commands.options import AsJson
from xmdpt_cli.config import tomllib
from xmdpt_cli.console import Talk, table

#: metrics of the generated images that a line shows, by how their names begin
_SHOWN = ("fid", "ssim", "lpips")


@dataclass
class Status:
    """Plain data, as ``--json`` prints it."""

    datasets: list[dict[str, Any]] = field(default_factory=list)
    vaes: list[dict[str, Any]] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    next: str = ""


@panels({})
def status(as_json: AsJson = False) -> None:
    """Show what is in this folder, and the next command.

    Datasets, runs with their steps and last loss, samples, and their metrics.
    """
    talk = Talk(as_json)
    found = read_status()
    tables = [table(title, header, rows) for title, header, rows in _tables(found) if rows]
    lines = [] if tables else [f"no dataset, run or samples in {Path.cwd()}"]
    lines.append(f"next: {found.next}")
    if not tables:
        lines.append("without data: xmdpt demo")
    lines.append("all commands: xmdpt --help")
    talk.result(asdict(found), *tables, text="\n".join(lines))


def read_status() -> Status:
    """Read the records of the current folder; nothing large is opened."""
    found = Status(
        [_dataset(one) for one in workspace.datasets()],
        [one for path in workspace.folders(workspace.VAE) for one in _vae(path)],
        [one for path in workspace.folders(workspace.RUNS) for one in _run(path)],
        [one for path in workspace.folders(workspace.SAMPLES) for one in _samples(path)],
    )
    for path in workspace.unfinished_datasets():
        found.datasets.append({"path": str(path), "finished": False})
    for model in workspace.models():
        if model.path.parent == workspace.MODELS:
            found.runs.append(
                {"path": str(model.path), "step": model.steps, "steps": model.steps,
                 "loss": None, "model": True, "toy": bool(model.metadata.get("toy"))}
            )  # fmt: skip
    found.next = _next(found)
    return found


def _dataset(one: workspace.Dataset) -> dict[str, Any]:
    counts = one.manifest["counts"]
    return {
        "path": str(one.path),
        "finished": True,
        "resolution": one.resolution,
        "images": sum(split["images"] for split in counts.values()),
        "train_pairs": counts["train"]["pairs"],
        "test_pairs": counts["test"]["pairs"],
        "toy": bool(one.manifest["toy"]),
    }


def _vae(path: Path) -> list[dict[str, Any]]:
    begun = workspace.read_record(path / "run.json")
    done = workspace.read_record(path / "xmdpt_training.json")
    return [] if begun is None else [{"path": str(path), "finished": done is not None}]


def _run(path: Path) -> list[dict[str, Any]]:
    config = _config(path)
    if not config:
        return []
    model = workspace.model_at(path)
    step, loss = _last_line(path / "metrics.jsonl")
    if model is not None:
        step = max(step, model.steps or 0)
    for checkpoint in sorted((path / "checkpoints").glob("step_*")):
        step = max(step, int(checkpoint.name.removeprefix("step_")))
    return [
        {
            "path": str(path),
            "step": step,
            "steps": int(config.get("steps", 0)),
            "loss": loss,
            "model": model is not None,
            "toy": bool(model and model.metadata.get("toy")),
        }
    ]


def _config(path: Path) -> dict[str, Any]:
    try:
        table_ = tomllib.loads((path / "config.toml").read_text(encoding="utf-8")).get("train", {})
    except (OSError, ValueError):
        return {}
    return table_ if isinstance(table_, dict) else {}


def _last_line(path: Path) -> tuple[int, float | None]:
    """The last step that was logged with a loss, and that loss."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return 0, None
    for line in reversed(lines):
        try:
            row = json.loads(line)
            return int(row["step"]), float(row["loss"])
        except (ValueError, KeyError, TypeError):  # a line cut short, or of a validation
            continue
    return 0, None


def _samples(path: Path) -> list[dict[str, Any]]:
    record = workspace.read_record(path / "samples.json")
    if record is None:
        return []
    done, files = record.get("complete"), record.get("files")
    count = len(done or files or list(path.glob("*_2_*.png")))
    report = workspace.read_record(path / "metrics.json") or {}
    row = report.get("rows", {}).get("generated", {})
    metrics = {k: v for k, v in row.items() if k.startswith(_SHOWN) and v is not None}
    return [
        {
            "path": str(path),
            "images": count,
            "complete": bool(done or files),
            "own": files is not None,
            "step": record.get("trained_steps"),
            "toy": bool(record.get("toy")),
            "protocol": report.get("protocol"),
            "metrics": metrics,
        }
    ]


def _tables(found: Status) -> list[tuple[str, list[str], list[list[str]]]]:
    datasets = [
        [
            one["path"],
            f"{one['resolution']} px",
            f"{one['images']:,}",
            f"{one['train_pairs']:,}",
            f"{one['test_pairs']:,}",
            _note(one),
        ]
        if one["finished"]
        else [one["path"], "-", "-", "-", "-", "not finished"]
        for one in found.datasets
    ]
    runs = [
        [
            one["path"],
            "-" if one["step"] is None else f"{one['step']:,}",
            "-" if one["steps"] is None else f"{one['steps']:,}",
            "-" if one["loss"] is None else f"{one['loss']:.4f}",
            _note(one) if one["model"] else "no model yet",
        ]
        for one in found.runs
    ]
    samples = [
        [
            one["path"],
            f"{one['images']:,}" + ("" if one["complete"] else " (not all)"),
            "-" if one["step"] is None else f"{one['step']:,}",
            ", ".join(f"{name} {value:.4g}" for name, value in one["metrics"].items()) or "-",
            _note(one),
        ]
        for one in found.samples
    ]
    vaes = [
        [one["path"], "fine-tuned" if one["finished"] else "not finished"] for one in found.vaes
    ]
    return [
        ("datasets", ["", "size", "images", "training pairs", "test pairs", ""], datasets),
        ("VAEs", ["", ""], vaes),
        ("runs", ["", "step", "of", "last loss", ""], runs),
        ("samples", ["", "images", "of step", "metrics", ""], samples),
    ]


def _note(one: dict[str, Any]) -> str:
    return "TOY" if one["toy"] else ""


def _next(found: Status) -> str:
    """The next command of the way: what is unfinished first."""
    ready = [one for one in found.datasets if one["finished"]]
    root = workspace.raw_dataset() or "DEEPFASHION"
    for run in found.runs:
        if run["steps"] is not None and (run["step"] or 0) < run["steps"]:
            return workspace.resume_command(Path(run["path"]))
    if not any(run["model"] for run in found.runs):
        if ready:
            toy = ready[0]["toy"]
            return f"xmdpt train {'--preset demo/tokens-64' if toy else '--size B'}"
        begun = " (it resumes)" if found.datasets else ""
        return f"xmdpt prepare --root {root}{begun}"
    model = workspace.models()[0]
    folder = str(workspace.samples_folder(model.path, model.steps))
    samples = next((one for one in found.samples if one["path"] == folder), None)
    if samples is None or not samples["complete"]:
        return "xmdpt sample"
    if not samples["metrics"]:
        return "xmdpt evaluate --fid --ssim --lpips"
    return "xmdpt ui, or xmdpt sample --source person.jpg --pose pose.json"
