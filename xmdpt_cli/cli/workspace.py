"""The current folder as a workspace: where commands write results and find each other's.

    data/<resolution>   xmdpt prepare       vae/<resolution>   xmdpt finetune-vae
    runs/<name>         xmdpt train         models/<name>      xmdpt convert
    samples/<run>       xmdpt sample, and the metrics of xmdpt evaluate beside them

Datasets, models and VAEs are recognised by their own records (dataset.json, xmdpt.json, ...). The
default is the newest, by the time its record was written; two that are equally new are an error.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from xmdpt_cli.encoders.identity import old_tokens
from xmdpt_cli.encoders.places import data_of, with_places
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.storage.stores import is_url
from xmdpt_cli.utils import records
from xmdpt_cli.utils.redact import MASK, masked
from xmdpt_cli.utils.splits import SPLITS

DATA, VAE, RUNS, MODELS, SAMPLES, BENCH = (
    Path(name) for name in ("data", "vae", "runs", "models", "samples", "bench")
)
DEMO = Path("xmdpt-demo")  # the folder of ``xmdpt demo``
#: errors of records that another program or version wrote
UNEXPECTED = (KeyError, TypeError, ValueError, AttributeError, OverflowError)


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset, as its dataset.json describes it."""

    path: Path
    written: int  # ns: modification time of its record
    resolution: int
    toy: bool
    counts: dict[str, dict[str, int]]  # split -> images and pairs
    sha256: list[tuple[str, str]]  # split and sha256 of each shard
    old_tokens: bool  # made with another position table than the published tokens

    def shards(self, split: str | None = None) -> list[str]:
        """sha256 of its shards (of a split), which identify a dataset wherever it lies."""
        return [digest for name, digest in self.sha256 if split in (None, name)]


@dataclass(frozen=True)
class Model:
    """A trained or converted model."""

    path: Path  # the value for --model
    metadata: dict[str, Any]  # its xmdpt.json
    written: int  # ns: modification time of its record
    shards: list[str] | None  # sha256 of the shards it was trained on; None: not known

    @property
    def steps(self) -> int | None:
        """Training steps; None where they are not known."""
        steps = self.metadata.get("trained_steps")
        return steps if isinstance(steps, int) else None

    def has_vae(self) -> bool:
        """Whether its folder contains a VAE."""
        return any((self.path / sub / "vae" / "config.json").is_file() for sub in (".", "model"))

    def __str__(self) -> str:
        return f"{self.path}" + ("" if self.steps is None else f" at step {self.steps:,}")


Found = TypeVar("Found", Dataset, Model)


def datasets() -> list[Dataset]:
    """The finished datasets in ``data/``, newest first."""
    return _newest_first([dataset_at(path) for path in folders(DATA)])


def dataset_at(path: str | Path) -> Dataset | None:
    """The finished dataset in a folder; None for any other folder, and for a URL."""
    record = Path(path) / "dataset.json"
    manifest = read_record(record)
    if manifest is None or manifest.get("format") != "xmdpt-dataset":
        return None
    with suppress(*UNEXPECTED):  # of another version, or broken
        return Dataset(
            Path(path),
            _written(record),
            int(manifest["resolution"]),
            bool(manifest["toy"]),
            {s: {k: int(manifest["counts"][s][k]) for k in ("images", "pairs")} for s in SPLITS},
            [(str(shard["split"]), str(shard["sha256"])) for shard in manifest["shards"]],
            old_tokens(manifest.get("encoders") or {}),
        )
    return None


def unfinished_datasets() -> list[Path]:
    """Folders in ``data/`` whose preparation was interrupted."""
    return [
        path
        for path in folders(DATA)
        if (path / "prepare.json").is_file() and not (path / "dataset.json").is_file()
    ]


def models() -> list[Model]:
    """The models in ``runs/`` and ``models/``, newest first."""
    return _newest_first([model_at(path) for path in [*folders(RUNS), *folders(MODELS)]])


def model_at(path: str | Path) -> Model | None:
    """The model in a model folder or run; None for anything else, such as a hub id."""
    path = Path(path)
    for folder, run in ((path, path.parent), (path / "model", path)):
        metadata = read_record(folder / "xmdpt.json") or {}
        if metadata.get("format") == "xmdpt-model" and isinstance(metadata.get("resolution"), int):
            shards = (read_record(run / "run.json") or {}).get("data")
            with suppress(XmdptError, *UNEXPECTED):
                metadata = with_places(folder, metadata)
            known = shards if isinstance(shards, list) else None
            return Model(path, metadata, _written(folder / "xmdpt.json"), known)
    return None


def newest_model() -> tuple[Model, str]:
    """The newest model and the reason to choose it; XmdptError with the next command if none."""
    found = models()
    if found:
        return _only_newest(found, "--model"), f"newest of {len(found)}"
    started = [path for path in folders(RUNS) if (path / "config.toml").is_file()]
    if started:
        raise XmdptError(
            f"{started[0]} has no model yet: its training was interrupted",
            f"resume it: {resume_command(started[0])}",
        )
    demo = demo_model()
    if demo is not None:
        hint = f"the demo's: --model {quote(demo)}"
    elif datasets():
        hint = "train one: xmdpt train --size B; or convert a published checkpoint: xmdpt convert"
    else:
        hint = f"{prepare_command()}, then xmdpt train --size B; or name a model: --model"
    raise XmdptError("no model in runs/ or models/", hint)


def newest_dataset(resolution: int | None = None) -> tuple[Dataset, str]:
    """The newest dataset (of a resolution) and the reason to choose it; XmdptError if none."""
    found = [d for d in datasets() if resolution in (None, d.resolution)]
    if found:
        return _only_newest(found, "--data"), f"newest of {len(found)}"
    interrupted = unfinished_datasets()
    if interrupted:
        raise XmdptError(
            f"{interrupted[0]} is not finished: its preparation was interrupted",
            "run the same xmdpt prepare command again: it resumes",
        )
    size, which = (
        ("", "") if resolution is None else (f" --size {resolution}", f" of {resolution} px")
    )
    raise XmdptError(
        f"no prepared dataset{which} in {DATA}/",
        f"make one: {prepare_command()}{size}; or name one: --data DIR",
    )


def dataset_of_run(run: Path) -> Dataset | None:
    """The dataset of this workspace that the run in ``run`` trains on; None if there is no run.

    XmdptError if the run's dataset is not in the workspace.
    """
    shards = (read_record(run / "run.json") or {}).get("data")
    if not shards:
        return None
    for dataset in datasets():
        if dataset.shards() == shards:
            return dataset
    _check_no_url(run, data_of(run))
    raise XmdptError(
        f"the dataset that {run} was trained on is not in {DATA}/",
        f"if it was moved, name it: --data DIR; to start a new run: --out {run}-2",
    )


def dataset_of(model: Model) -> tuple[Path, str]:
    """The dataset that a model was trained on, and the reason to choose it.

    Found by the shards that the run names, then by the path that the model names. A converted
    model names neither and gets the newest dataset of its resolution. XmdptError if the dataset
    does not exist.
    """
    reason = f"what {model.path} was trained on"
    for dataset in datasets():
        if model.shards is not None and dataset.shards() == model.shards:
            return dataset.path, reason
    recorded = str(model.metadata.get("data") or "")
    _check_no_url(model.path, recorded)
    known = dataset_at(recorded) if recorded else None
    # the path may contain another dataset by now
    if known is not None and model.shards in (None, known.shards()):
        return _short(known.path), reason
    if model.shards is not None or recorded:
        was = f" (its path was {_short(Path(recorded))})" if recorded else ""
        raise XmdptError(
            f"the dataset that {model.path} was trained on is not found{was}",
            "if it was moved, name it: --data DIR",
        )
    newest, reason = newest_dataset(int(model.metadata["resolution"]))
    return newest.path, reason


def _check_no_url(run: Path, recorded: str | None) -> None:
    """XmdptError that names the URL of a run's data, since passwords in URLs are not stored."""
    if recorded and is_url(recorded):
        url = masked(recorded)
        what = "type the password again" if MASK in url else "name it"
        raise XmdptError(f"{run} was trained on {url}", f"{what}: --data {quote(url)}")


def dataset_of_samples(folder: Path) -> Path | None:
    """The dataset whose pairs are in a folder of ``xmdpt sample``; None if not known."""
    record = read_record(folder / "samples.json") or {}
    for dataset in datasets():
        if record.get("data") and dataset.shards(record.get("split", "test")) == record["data"]:
            return dataset.path
    return None


def tuned_vae(data: str | Path) -> Path | None:
    """The newest VAE in ``vae/`` whose decoder was fine-tuned on this dataset, if any."""
    dataset = dataset_at(data)
    if dataset is None:
        return None
    fitting = []
    for path in folders(VAE):
        run, record = read_record(path / "run.json"), read_record(path / "xmdpt_training.json")
        if run is None or record is None:
            continue  # not finished
        settings = run.get("settings")
        if not isinstance(settings, dict) or settings.get("all_weights"):
            continue  # another encoder: the dataset's latents do not fit it
        if run.get("images") == dataset.shards("train"):
            fitting.append((_written(path / "xmdpt_training.json"), path))
    return max(fitting)[1] if fitting else None


def samples_folder(
    model: str | Path, steps: int | None, suffix: str = "", vae: Path | None = None
) -> Path:
    """The default folder for the samples of a model: ``samples/<run>``.

    If it has samples of an earlier step of the run: ``samples/<run>-step_0400000``; if those were
    decoded by another VAE than ``vae``: ``samples/<run>-vae``.
    """
    folder = SAMPLES / f"{run_name(model)}{suffix}"
    record = read_record(folder / "samples.json")
    if record and steps is not None and record.get("trained_steps") not in (None, steps):
        folder = folder.with_name(f"{folder.name}-step_{steps:07d}")
        record = read_record(folder / "samples.json")
    if record and vae is not None and not decoded_by(record, vae):
        folder = folder.with_name(f"{folder.name}-vae")
    return folder


def decoded_by(record: dict[str, Any], vae: Path) -> bool:
    """Whether samples with this record were decoded by the fine-tuned VAE in ``vae``."""
    tuned = read_record(vae / "xmdpt_training.json") or {}
    return "sha256" in tuned and record.get("vae") == tuned["sha256"]


def last_activity(run: Path) -> int:
    """Time in ns at which a run was last written to."""
    names = ("metrics.jsonl", "config.toml", "checkpoints/latest")
    return max((_written(run / name) for name in names if (run / name).exists()), default=0)


def demo_model() -> Path | None:
    """The newest run of ``xmdpt demo`` in this folder, or None."""
    found = _newest_first([model_at(DEMO / name) for name in ("run-tokens", "run-vector")])
    return found[0].path if found else None


def next_train(toy: bool) -> str:
    """The command that trains on a dataset; on a toy dataset with a preset of minutes."""
    return f"xmdpt train {'--preset demo/tokens-64' if toy else '--size B'}"


def run_name(model: str | Path) -> str:
    """``runs/B`` and ``runs/B/model`` -> ``B``; a hub id ``me/mine`` -> ``mine``."""
    path = Path(model)
    if path.name == "model" and (path.parent / "run.json").is_file():
        path = path.parent
    return path.name or path.resolve().name


def run_folder(size: str, preset: str | None, size_given: bool) -> Path:
    """``runs/B``, ``runs/paper-S-256``, ``runs/paper-table2a-mdt-B``: by preset, else by size."""
    if preset is None:
        return RUNS / size
    name = preset.replace("/", "-")
    return RUNS / (f"{name}-{size}" if size_given else name)


def resume_command(run: Path) -> str:
    """The command that resumes a run with its own settings."""
    return f"xmdpt train --config {quote(run / 'config.toml')} --out {quote(run)}"


def quote(path: str | Path) -> str:
    """A path or URL quoted for a shell; passwords are masked."""
    return shlex.quote(masked(str(path)))


def read_record(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None if it does not exist or is not a JSON object."""
    try:
        found: dict[str, Any] | None = records.read_if_there(dict[str, Any], path)
    except XmdptError:
        return None
    return found


def prepare_command() -> str:
    """``xmdpt prepare`` for the raw dataset in this folder, known by its name."""
    named = [path.name for path in folders(Path()) if path.name.lower() == "deepfashion"]
    return f"xmdpt prepare --root {named[0] if named else 'DEEPFASHION'}"


def folders(parent: Path) -> list[Path]:
    """The folders in ``parent`` without hidden ones; empty if it cannot be read."""
    try:
        return sorted(p for p in parent.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError:
        return []


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns


def _newest_first(found: Iterable[Found | None]) -> list[Found]:
    known = [one for one in found if one is not None]
    return sorted(known, key=lambda one: (-one.written, str(one.path)))


def _only_newest(found: Sequence[Found], option: str) -> Found:
    first = found[0]
    tied = [str(one.path) for one in found if one.written == first.written]
    if len(tied) > 1:
        raise XmdptError(f"{' and '.join(tied)} are equally new", f"choose one: {option} {tied[0]}")
    return first


def _short(path: Path) -> Path:
    """The path relative to the current folder if it is below it."""
    try:
        return path.resolve().relative_to(Path.cwd())
    except ValueError:
        return path
