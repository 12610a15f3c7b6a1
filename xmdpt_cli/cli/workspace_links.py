"""Which dataset and VAE belong to a run, a model or samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xmdpt_cli.cli.next_command import quote
from xmdpt_cli.cli.workspace import (
    DATA,
    TINY,
    VAE,
    Dataset,
    Model,
    dataset_at,
    datasets,
    folders,
    newest_dataset,
    read_record,
    written,
)
from xmdpt_cli.encoders.places import data_of
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.storage.stores import is_url
from xmdpt_cli.utils.redact import MASK, masked


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

    It is found by the shards that the run recorded, then by the path that the model recorded. A
    converted model has neither and gets the newest dataset of its resolution. XmdptError if the
    dataset does not exist.
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


def dataset_of_samples(folder: Path) -> Path | None:
    """The dataset whose pairs were generated in a folder; None if not known."""
    record = read_record(folder / "samples.json") or {}
    for dataset in datasets():
        if record.get("data") and dataset.shards(record.get("split", "test")) == record["data"]:
            return dataset.path
    return None


def tuned_vae(data: str | Path, *, tiny: bool = False) -> Path | None:
    """The newest VAE in ``vae/`` whose decoder was fine-tuned on this dataset, if any.

    ``tiny``: the newest tiny decoder in ``vae-tiny/`` that was trained on it.
    """
    dataset = dataset_at(data)
    if dataset is None:
        return None
    fitting = []
    for path in folders(TINY if tiny else VAE):
        run, record = read_record(path / "run.json"), read_record(path / "xmdpt_training.json")
        if run is None or record is None:
            continue  # not finished
        settings = run.get("settings")
        if not isinstance(settings, dict) or settings.get("all_weights"):
            continue  # another encoder: the dataset's latents do not fit it
        if (settings.get("decoder") == "tiny") != tiny:
            continue
        if run.get("images") == dataset.shards("train"):
            fitting.append((written(path / "xmdpt_training.json"), path))
    return max(fitting)[1] if fitting else None


def decoded_by(record: dict[str, Any], vae: Path) -> bool:
    """Whether samples with this record were decoded by the fine-tuned VAE in ``vae``."""
    tuned = read_record(vae / "xmdpt_training.json") or {}
    return "sha256" in tuned and record.get("vae") == tuned["sha256"]


def _check_no_url(run: Path, recorded: str | None) -> None:
    """XmdptError that names the URL of a run's data, since passwords in URLs are not stored."""
    if recorded and is_url(recorded):
        url = masked(recorded)
        what = "type the password again" if MASK in url else "name it"
        raise XmdptError(f"{run} was trained on {url}", f"{what}: --data {quote(url)}")


def _short(path: Path) -> Path:
    """The path relative to the current folder if it is below it."""
    try:
        return path.resolve().relative_to(Path.cwd())
    except ValueError:
        return path
