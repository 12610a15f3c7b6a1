"""Pipelines on the Hugging Face hub: downloading, and publishing with a model card."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xmdpt_cli.encoders import weights
from xmdpt_cli.encoders.identity import PARTS
from xmdpt_cli.encoders.places import TINY_FOLDER, without_places
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import expanded, write_text, writing
from xmdpt_cli.model import parameter_counts
from xmdpt_cli.model.checkpoint import METADATA, save_model
from xmdpt_cli.report.evaluation_json import WrittenEvaluation
from xmdpt_cli.sampling.encoders import LazyEncoders
from xmdpt_cli.sampling.model_card import model_card
from xmdpt_cli.sampling.sampler import Sampler
from xmdpt_cli.storage.stores import refuse_url
from xmdpt_cli.utils import records

#: a text that starts like a local path: root, home, drive, parent folder, file URL
_PATH = re.compile(r"[/~\\]|[A-Za-z]:[/\\]|\.{1,2}[/\\]|file:")


def fetch(source: str | Path, revision: str | None = None, *, option: str = "--model") -> Path:
    """A local folder, or the files of a hub id, downloaded or from the cache. XmdptError if the
    hub id cannot be downloaded. ``option``: what the source was given as, for errors."""
    refuse_url(option, source, hub=True)
    path = expanded(source)
    if path.exists() or not weights.is_hub_id(source):
        return path
    near = sorted(file.parent for file in path.parent.glob(f"*/{METADATA}"))
    near += sorted(file.parent.parent for file in path.parent.glob(f"*/model/{METADATA}"))
    models = f"models in {path.parent}: {', '.join(map(str, near))}; " if near else ""
    return weights.fetch(
        str(source),
        ["*.json", "*.safetensors", "README.md"],
        what=f"no such model folder: {source}; as a hub id it",
        hint=f"{models}with internet access: `hf download {source} --local-dir DIR`; then name DIR",
        revision=revision,
    )


def model_name(source: str | Path) -> str:
    """The name of a model in records: its hub id, or its folder's name without the path."""
    path = Path(source)
    if not path.exists():
        return str(source)
    path = path.resolve()
    if path.name != "model":
        return path.name
    is_run = (path.parent / "run.json").is_file()
    return path.parent.name if is_run else f"{path.parent.name}/model"


def save(
    folder: Path, sampler: Sampler, encoders: LazyEncoders, include: Sequence[str] | None = None
) -> None:
    """Write a folder that ``from_pretrained`` loads on any machine: the model and its encoders.

    ``include``: which of "vae", "source" and "pose" are written; None: the VAE (its decoder may be
    fine-tuned) and encoders that are not on the hub; a tiny decoder always is. Paths of this
    machine are left out.
    """
    metadata = without_places(sampler.metadata)
    if include is None:
        made = metadata["encoders"]
        include = [part for part in PARTS if part == "vae" or made[part].get("kind") != "hub"]
    unknown = sorted(set(include) - set(PARTS))
    if unknown:
        raise XmdptError(f"no such encoders: {', '.join(unknown)}", f"choose of {', '.join(PARTS)}")
    own_readme = (folder / "README.md").exists()
    save_model(folder, sampler.stored_model(), metadata)
    with writing(folder):
        if not own_readme:
            write_text(folder / "README.md", card(folder.name, sampler, encoders))
        for part in include:
            getattr(encoders, part).save(folder / PARTS[part].folder)
        if encoders.tiny is not None:
            encoders.tiny.save(folder / TINY_FOLDER)


def without_paths(text: str) -> str:
    """The text of a TOML file with only the last name of every local path in it."""

    def last(match: re.Match[str]) -> str:
        quote, value = match[1], match[2]
        if not _PATH.match(value):
            return match[0]
        parts = [part for part in re.split(r"[/\\]+", value) if part]
        return f"{quote}{parts[-1] if parts else ''}{quote}"

    return re.sub(r"""(["'])((?:(?!\1)[^\\\n]|\\.)*)\1""", last, text)


def card(
    repo_id: str, sampler: Sampler, encoders: LazyEncoders, metrics: str | Path | None = None
) -> str:
    """The model card, with the run's config.toml if the model is in its run's folder."""
    training_config = None
    if encoders.folder is not None and (encoders.folder.parent / "config.toml").is_file():
        text = (encoders.folder.parent / "config.toml").read_text(encoding="utf-8")
        training_config = without_paths(text)
    measured: dict[str, Any] | None = None
    if metrics is not None:
        hint = "name the metrics.json of xmdpt evaluate"
        measured = records.read(WrittenEvaluation, Path(metrics), hint)
    counts = parameter_counts(sampler.model)
    return model_card(
        repo_id,
        without_places(sampler.metadata),
        counts,
        training_config=training_config,
        metrics=measured,
        tiny=encoders.tiny is not None,
    )


def push(
    repo_id: str,
    sampler: Sampler,
    encoders: LazyEncoders,
    *,
    metrics: str | Path | None = None,
    private: bool = False,
    token: str | None = None,
) -> str:
    """Upload the saved folder with its card as ``repo_id``; returns its URL."""
    from huggingface_hub import HfApi

    text = card(repo_id, sampler, encoders, metrics)  # first: fails early if metrics are invalid
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        save(folder, sampler, encoders)
        write_text(folder / "README.md", text)
        try:
            api = HfApi(token=token)
            url = api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=repo_id, folder_path=folder, commit_message="An X-MDPT model, from xmdpt"
            )
        except Exception as err:  # offline, no token, no permission: a dozen types
            raise XmdptError(
                f"cannot publish {repo_id}: {weights.reason(err)}", "log in first: hf auth login"
            ) from err
    return str(url)
