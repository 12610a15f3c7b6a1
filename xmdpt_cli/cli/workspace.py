"""The folder the user stands in: where commands put their results, and find each other's.

    data/<resolution>   xmdpt prepare       vae/<resolution>   xmdpt finetune-vae
    runs/<name>         xmdpt train         models/<name>      xmdpt convert
    samples/<run>       xmdpt sample, and the metrics of xmdpt evaluate beside them

Everything is recognised by its own record (dataset.json, xmdpt.json, ...). Of several, the newest
is taken: the one whose record was written last. A tie is an error, not a guess.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
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
#: what reading a record of another program or version may raise
UNEXPECTED = (KeyError, TypeError, ValueError, AttributeError, OverflowError)


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset of this folder, by its dataset.json.

    ``counts``: split -> images and pairs. ``sha256``: (split, sha256) of each shard.
    """

    path: Path
    written: int  # ns: when its record was written
    resolution: int
    toy: bool
    counts: dict[str, dict[str, int]]
    sha256: list[tuple[str, str]]
    old_tokens: bool  # made with another position table than the published tokens

    def shards(self, split: str | None = None) -> list[str]:
        """sha256 of its shards, which tell datasets apart wherever they lie."""
        return [digest for name, digest in self.sha256 if split in (None, name)]


@dataclass(frozen=True)
class Model:
    """A trained or converted model of this folder.

    ``path``: what ``--model`` takes. ``metadata``: its xmdpt.json. ``shards``: sha256 of the
    shards that it was trained on, None where that is not known.
    """

    path: Path
    metadata: dict[str, Any]
    written: int
    shards: list[str] | None

    @property
    def steps(self) -> int | None:
        """Training steps; None where they are not known."""
        steps = self.metadata.get("trained_steps")
        return steps if isinstance(steps, int) else None

    def brings_vae(self) -> bool:
        """Whether a VAE lies in its folder."""
        return any((self.path / sub / "vae" / "config.json").is_file() for sub in (".", "model"))

    def __str__(self) -> str:
        return f"{self.path}" + ("" if self.steps is None else f" at step {self.steps:,}")


Found = TypeVar("Found", Dataset, Model)


def datasets() -> list[Dataset]:
    """The finished datasets in ``data/``, the newest first."""
    return _newest_first([one for path in folders(DATA) if (one := dataset_at(path))])


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
    """Folders in ``data/`` that ``xmdpt prepare`` began and did not finish."""
    return [
        path
        for path in folders(DATA)
        if (path / "prepare.json").is_file() and not (path / "dataset.json").is_file()
    ]


def models() -> list[Model]:
    """The models in ``runs/`` and ``models/``, the newest first."""
    return _newest_first([m for path in [*folders(RUNS), *folders(MODELS)] for m in _model(path)])


def model_at(path: str | Path) -> Model | None:
    """A model folder or run by its path; None for anything else, and for a hub id."""
    return next(iter(_model(Path(path))), None)


def newest_model() -> tuple[Model, int]:
    """The newest model, and how many there are. XmdptError saying how to make one."""
    found = models()
    if not found:
        started = [path for path in folders(RUNS) if (path / "config.toml").is_file()]
        if started:
            raise XmdptError(
                f"{started[0]} has no model yet: its training was interrupted",
                f"resume it: {resume_command(started[0])}",
            )
        demo = demo_model()
        if demo is not None:
            raise XmdptError("no model in runs/ or models/", f"the demo's: --model {quote(demo)}")
        raise XmdptError("no model in runs/ or models/", _next_for_model())
    return _only_newest(found, "--model"), len(found)


def newest_dataset(resolution: int | None = None) -> tuple[Dataset, int]:
    """The newest dataset (of a resolution), and how many there are. XmdptError where none is."""
    found = [d for d in datasets() if resolution in (None, d.resolution)]
    if not found:
        begun = unfinished_datasets()
        if begun:
            raise XmdptError(
                f"{begun[0]} is not finished: its preparation was interrupted",
                "run the same xmdpt prepare command again: it resumes",
            )
        size = "" if resolution is None else f" --size {resolution}"
        of = "" if resolution is None else f" of {resolution} px"
        raise XmdptError(
            f"no prepared dataset{of} in {DATA}/",
            f"make one: xmdpt prepare --root {raw_dataset() or 'DEEPFASHION'}{size}; or name one: "
            "--data DIR",
        )
    return _only_newest(found, "--data"), len(found)


def dataset_of_run(run: Path) -> Dataset | None:
    """The dataset of this workspace that a run in ``run`` was begun with; None for no run.

    XmdptError where the run's dataset is not in the workspace (any more).
    """
    record = read_record(run / "run.json")
    shards = None if record is None else record.get("data")
    if not shards:
        return None
    for dataset in datasets():
        if dataset.shards() == shards:
            return dataset
    _check_no_url(run, data_of(run))
    raise XmdptError(
        f"the dataset that {run} was trained on is not in {DATA}/",
        f"was it moved? name it: --data DIR; or choose another folder for a new run: --out {run}-2",
    )


def dataset_of(model: Model) -> tuple[Path, str]:
    """The dataset that a model was trained on, and why it was taken.

    Found by the shards that the run names, then by the path that the model names; a converted
    model, which names neither, gets the newest dataset of its resolution. XmdptError where it is
    not there.
    """
    found = datasets()
    if model.shards is not None:
        for dataset in found:
            if dataset.shards() == model.shards:
                return dataset.path, f"what {model.path} was trained on"
    recorded = str(model.metadata.get("data") or "")
    _check_no_url(model.path, recorded)
    there = dataset_at(recorded) if recorded else None
    # another dataset may have come to the place
    if there is not None and model.shards in (None, there.shards()):
        return _short(there.path), f"what {model.path} was trained on"
    if model.shards is not None or recorded:
        was = f" (it was {_short(Path(recorded))})" if recorded else ""
        raise XmdptError(
            f"the dataset that {model.path} was trained on is no longer there{was}",
            "was it moved? name it: --data DIR",
        )
    newest, count = newest_dataset(int(model.metadata["resolution"]))
    return newest.path, f"newest of {count}"


def _check_no_url(run: Path, recorded: str | None) -> None:
    """XmdptError that names the URL of a run's data: a password in it is never stored."""
    if recorded and is_url(recorded):
        url = masked(recorded)
        what = "type the password again" if MASK in url else "name it"
        raise XmdptError(f"{run} was trained on {url}", f"{what}: --data {quote(url)}")


def dataset_of_samples(folder: Path) -> Path | None:
    """The dataset whose pairs are in a folder of ``xmdpt sample``; None where it is not known."""
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
    """Where the samples of a model belong: ``samples/<run>``.

    Where that holds samples of an earlier state of the same run, ``samples/<run>-step_0400000``;
    where they were decoded before ``vae`` was fine-tuned, ``samples/<run>-vae``.
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
    """Whether samples with this record were decoded by the fine-tuned VAE in a folder."""
    tuned = read_record(vae / "xmdpt_training.json") or {}
    return "sha256" in tuned and record.get("vae") == tuned["sha256"]


def last_activity(run: Path) -> int:
    """ns: when a run was last written to."""
    names = ("metrics.jsonl", "config.toml", "checkpoints/latest")
    return max((_written(run / name) for name in names if (run / name).exists()), default=0)


def demo_model() -> Path | None:
    """The run of ``xmdpt demo`` in this folder, of several the newest, or None."""
    found = [m for name in ("run-tokens", "run-vector") for m in _model(DEMO / name)]
    return _newest_first(found)[0].path if found else None


def next_train(toy: bool) -> str:
    """How to train on a dataset: on a toy by the recipe that takes minutes."""
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
    """The command that continues a run with its own settings."""
    return f"xmdpt train --config {quote(run / 'config.toml')} --out {quote(run)}"


def quote(path: str | Path) -> str:
    """A path or URL as a shell takes it; a password in it is masked, to be typed again."""
    return shlex.quote(masked(str(path)))


def read_record(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where the file is not there, broken or something else."""
    try:
        found: dict[str, Any] | None = records.read_if_there(dict[str, Any], path)
    except XmdptError:
        return None
    return found


def raw_dataset() -> str | None:
    """A folder here that is called like the raw dataset."""
    return next((p.name for p in folders(Path()) if p.name.lower() == "deepfashion"), None)


def _next_for_model() -> str:
    if datasets():
        return "train one: xmdpt train --size B; or convert a published checkpoint: xmdpt convert"
    root = raw_dataset() or "DEEPFASHION"
    return f"xmdpt prepare --root {root}, then xmdpt train --size B; or name a model: --model"


def _model(path: Path) -> list[Model]:
    """The model that lies in a folder or in the run there: one or none."""
    for folder in (path, path / "model"):
        metadata = read_record(folder / "xmdpt.json")
        if metadata is None or metadata.get("format") != "xmdpt-model":
            continue
        if isinstance(metadata.get("resolution"), int):
            run = read_record((path if folder != path else path.parent) / "run.json") or {}
            shards = run.get("data")
            known = shards if isinstance(shards, list) else None
            with suppress(XmdptError, *UNEXPECTED):  # records of another program
                metadata = with_places(folder, metadata)
            return [Model(path, metadata, _written(folder / "xmdpt.json"), known)]
    return []


def folders(parent: Path) -> list[Path]:
    """The folders in one, hidden ones aside; none where it cannot be read."""
    try:
        return sorted(p for p in parent.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError:  # not there, a file, or not to be read
        return []


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns


def _newest_first(found: Sequence[Found]) -> list[Found]:
    return sorted(found, key=lambda one: (-one.written, str(one.path)))


def _only_newest(found: Sequence[Found], option: str) -> Found:
    first = found[0]
    tied = [str(one.path) for one in found if one.written == first.written]
    if len(tied) > 1:
        raise XmdptError(f"{' and '.join(tied)} are equally new", f"choose one: {option} {tied[0]}")
    return first


def _short(path: Path) -> Path:
    """Relative to here where it lies below."""
    try:
        return path.resolve().relative_to(Path.cwd())
    except ValueError:
        return path
