"""The current folder as a workspace: where commands write results and find each other's.

    data/<resolution>   xmdpt prepare       vae/<resolution>   xmdpt finetune-vae
    vae-tiny/<resolution>                   xmdpt finetune-vae --decoder tiny
    runs/<name>         xmdpt train, xmdpt distill
    models/<name>       xmdpt convert
    samples/<run>       xmdpt sample, and the metrics of xmdpt evaluate beside them

Datasets, models and VAEs are recognised by their own records (dataset.json, xmdpt.json, ...). The
default is the newest, by the time its record was written; two that are equally new are an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from xmdpt_cli.cli.next_command import quote, resume_command
from xmdpt_cli.config import parse_toml, read_toml
from xmdpt_cli.encoders.places import tiny_beside, with_places
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.utils import records
from xmdpt_cli.utils.splits import SPLITS

DATA, VAE, TINY, RUNS, MODELS, SAMPLES, BENCH = map(
    Path, ("data", "vae", "vae-tiny", "runs", "models", "samples", "bench")
)
DEMO = Path("xmdpt-demo")  # the folder of ``xmdpt demo``
#: errors of records that another program or version wrote
UNEXPECTED = (KeyError, TypeError, ValueError, AttributeError, OverflowError)


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset, as its dataset.json describes it."""

    path: Path
    written: int  # ns: modification time of its record
    resolution: int  # side of its images in pixels
    toy: bool
    counts: dict[str, dict[str, int]]  # split -> number of images and pairs
    sha256: list[tuple[str, str]]  # split and sha256 of each shard

    def shards(self, split: str | None = None) -> list[str]:
        """sha256 of its shards (of a split), which identify a dataset wherever it is."""
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
        """Training steps; None if not known."""
        steps = self.metadata.get("trained_steps")
        return steps if isinstance(steps, int) else None

    @property
    def distilled(self) -> str | None:
        """The stage to which it is distilled: "guidance", "steps"; None: it is not."""
        record = self.metadata.get("distilled")
        return str(record.get("stage")) if isinstance(record, dict) else None

    def has_vae(self) -> bool:
        """Whether its folder contains a VAE."""
        return any((self.path / sub / "vae" / "config.json").is_file() for sub in (".", "model"))

    def tiny(self) -> Path | None:
        """The tiny decoder in its folder, if any."""
        found = (tiny_beside(self.path / sub) for sub in (".", "model"))
        return next((place for place in found if place is not None), None)

    def __str__(self) -> str:
        return f"{self.path}" + ("" if self.steps is None else f" at step {self.steps:,}")


Found = TypeVar("Found", Dataset, Model)


def datasets() -> list[Dataset]:
    """The complete datasets in ``data/``, newest first."""
    return _newest_first(dataset_at(path) for path in folders(DATA))


def dataset_at(path: str | Path) -> Dataset | None:
    """The complete dataset in a folder; None for any other folder, and for a URL."""
    record = Path(path) / "dataset.json"
    manifest = read_record(record)
    if manifest is None or manifest.get("format") != "xmdpt-dataset":
        return None
    with suppress(*UNEXPECTED):  # of another version, or broken
        return Dataset(
            Path(path),
            written(record),
            int(manifest["resolution"]),
            bool(manifest["toy"]),
            {s: {k: int(manifest["counts"][s][k]) for k in ("images", "pairs")} for s in SPLITS},
            [(str(shard["split"]), str(shard["sha256"])) for shard in manifest["shards"]],
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
    return _newest_first(model_at(path) for path in [*folders(RUNS), *folders(MODELS)])


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
            return Model(path, metadata, written(folder / "xmdpt.json"), known)
    return None


def demo_model() -> Path | None:
    """The newest run of ``xmdpt demo`` in this folder, or None."""
    found = _newest_first(model_at(DEMO / name) for name in ("run-tokens", "run-vector"))
    return found[0].path if found else None


def has_models() -> bool:
    """Whether there is a model in this folder, also of the demo, or one in training."""
    return bool(models() or started_runs() or demo_model())


def started_runs() -> list[Path]:
    """The runs in ``runs/``, with or without a model."""
    return [path for path in folders(RUNS) if (path / "config.toml").is_file()]


def newest_model() -> tuple[Model, str]:
    """The newest model and the reason to choose it; XmdptError with the next command if none."""
    found = models()
    if found:
        return _only_newest(found, "--model"), f"newest of {len(found)}"
    if started := started_runs():
        raise XmdptError(
            f"{started[0]} has no model yet: its training was interrupted",
            f"resume it: {resume_command(started[0], run_settings(started[0])[0])}",
        )
    demo = demo_model()
    if demo is not None:
        hint = f"use the demo's: --model {quote(demo)}"
    elif datasets():
        hint = "train one: xmdpt train --size B; or convert a published checkpoint: xmdpt convert"
    else:
        hint = f"{prepare_command()}, then xmdpt train --size B; or name a model: --model"
    raise XmdptError("no model in runs/ or models/", hint)


def newest_teacher(stage: str) -> tuple[Model, str]:
    """The newest model that ``stage`` can distil, and the reason to choose it; XmdptError if there
    is none."""
    newest_model()  # the error that helps where there is no model at all
    possible = (None, "guidance") if stage == "steps" else (None,)
    found = [model for model in models() if model.distilled in possible]
    if not found:
        raise XmdptError(
            f"every model in {RUNS}/ and {MODELS}/ is a distilled one",
            "name the teacher: --model DIR",
        )
    return _only_newest(found, "--model"), f"newest of {len(found)} that can be a teacher"


def run_settings(run: Path) -> tuple[str, dict[str, Any]]:
    """The command that writes a run ("train", "distill") and its settings, from its config.toml;
    no settings if it cannot be read."""
    file = run / "config.toml"
    with suppress(XmdptError):
        for command, table in parse_toml(read_toml(file), str(file)).items():
            if command in ("train", "distill") and isinstance(table, dict):
                return command, table
    return "train", {}


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
    kind, size = (f" of {resolution} px", f" --resolution {resolution}") if resolution else ("", "")
    raise XmdptError(
        f"no prepared dataset{kind} in {DATA}/",
        f"make one: {prepare_command()}{size}; or name one: --data DIR",
    )


def run_name(model: str | Path) -> str:
    """``runs/B`` and ``runs/B/model`` -> ``B``; a hub id ``me/mine`` -> ``mine``."""
    path = Path(model)
    if path.name == "model" and (path.parent / "run.json").is_file():
        path = path.parent
    return path.name or path.resolve().name


def run_folder(size: str, size_given: bool, preset: str | None, config: Path | None) -> Path:
    """``runs/paper-S-256`` for a preset, ``runs/mine`` for mine.toml, ``runs/B`` for neither.

    A size that is given is added: ``runs/paper-table2a-mdt-B``. The config.toml of a run has the
    run's name.
    """
    names = [] if preset is None else [preset.replace("/", "-")]
    if config is not None:
        run = config.absolute().parent
        names.append(run.name if (run / "run.json").is_file() else config.stem.lstrip("."))
    if size_given or not names:
        names.append(size)
    return RUNS / "-".join(names)


def read_record(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None if the file does not exist or contains something else."""
    try:
        found: dict[str, Any] | None = records.read_if_there(dict[str, Any], path)
    except XmdptError:
        return None
    return found


def prepare_command() -> str:
    """``xmdpt prepare`` for the raw dataset in this folder, found by its name."""
    named = [path.name for path in folders(Path()) if path.name.lower() == "deepfashion"]
    return f"xmdpt prepare --root {named[0] if named else 'DEEPFASHION'}"


def folders(parent: Path) -> list[Path]:
    """The folders in ``parent``, without hidden ones; empty if it cannot be read."""
    try:
        return sorted(p for p in parent.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError:
        return []


def written(path: Path) -> int:
    """The modification time of a file in ns; 0 if it does not exist."""
    return path.stat().st_mtime_ns if path.exists() else 0


def _newest_first(found: Iterable[Found | None]) -> list[Found]:
    known = [item for item in found if item is not None]
    return sorted(known, key=lambda item: (-item.written, str(item.path)))


def _only_newest(found: Sequence[Found], option: str) -> Found:
    tied = [str(item.path) for item in found if item.written == found[0].written]
    if len(tied) > 1:
        raise XmdptError(f"{' and '.join(tied)} are equally new", f"choose one: {option} {tied[0]}")
    return found[0]
