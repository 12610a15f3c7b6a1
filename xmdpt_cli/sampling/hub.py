"""Pipelines on the Hugging Face hub: fetching one, and publishing one with its card."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xmdpt_cli.encoders.identity import PARTS
from xmdpt_cli.encoders.places import without_places
from xmdpt_cli.encoders.weights import HUB_ID, reason
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import expanded, write_text, writing
from xmdpt_cli.model.checkpoint import save_model
from xmdpt_cli.report.evaluation_json import WrittenEvaluation
from xmdpt_cli.sampling.encoders import LazyEncoders
from xmdpt_cli.sampling.model_card import model_card
from xmdpt_cli.sampling.sampler import Sampler
from xmdpt_cli.storage.stores import refuse_url
from xmdpt_cli.utils import records

#: begins like a path of a machine: root, home, drive, a folder above, a file URL
_PATH = re.compile(r"[/~\\]|[A-Za-z]:[/\\]|\.{1,2}[/\\]|file:")


def fetch(source: str | Path, revision: str | None = None) -> Path:
    """A local folder as it is; a hub id's files, fetched or from the cache. XmdptError else."""
    refuse_url("--model", source, hub=True)
    path = expanded(source)
    if path.exists() or isinstance(source, Path) or not HUB_ID.fullmatch(str(source)):
        return path
    from huggingface_hub import snapshot_download

    try:
        patterns = ["*.json", "*.safetensors", "README.md"]
        return Path(snapshot_download(str(source), revision=revision, allow_patterns=patterns))
    except Exception as err:  # offline, no such repository, no right to it, a dozen types more
        at = f" at revision {revision}" if revision else ""
        raise XmdptError(
            f"no such model folder: {source}; as a hub id it{at} is not on this machine and "
            f"cannot be fetched ({reason(err)})",
            f"where there is a network: `hf download {source} --local-dir DIR`; then name DIR",
        ) from None


def save(
    folder: Path, sampler: Sampler, encoders: LazyEncoders, include: Sequence[str] | None = None
) -> None:
    """A folder that ``from_pretrained`` reads anywhere: the model, and encoders beside it.

    ``include``: which of "vae", "source" and "pose" are written; None: the VAE (its decoder may be
    a fine-tuned one) and whatever a hub id alone does not name. Paths of this machine stay behind.
    """
    metadata = public_metadata(sampler)
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


def public_metadata(sampler: Sampler) -> dict[str, Any]:
    """The model's metadata without paths of this machine: local encoders keep the folder's name."""
    return without_places(sampler.metadata)


def without_paths(text: str) -> str:
    """A TOML file's text with the last name alone of every path of this machine in it."""

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
    """The card, with the run's config.toml where the model lies in its run's folder."""
    training_config = None
    if encoders.folder is not None and (encoders.folder.parent / "config.toml").is_file():
        text = (encoders.folder.parent / "config.toml").read_text(encoding="utf-8")
        training_config = without_paths(text)
    measured: dict[str, Any] | None = None
    if metrics is not None:
        hint = "name the metrics.json of xmdpt evaluate"
        measured = records.read(WrittenEvaluation, Path(metrics), hint)
    counts = sampler.model.parameter_counts()
    return model_card(
        repo_id, public_metadata(sampler), counts, training_config=training_config, metrics=measured
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
    """Save, write the card, upload; returns the repository's address."""
    from huggingface_hub import HfApi

    text = card(repo_id, sampler, encoders, metrics)  # before the work: metrics may be wrong
    with tempfile.TemporaryDirectory() as there:
        folder = Path(there) / "model"
        save(folder, sampler, encoders)
        write_text(folder / "README.md", text)
        try:
            api = HfApi(token=token)
            url = api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=repo_id, folder_path=folder, commit_message="An X-MDPT model, from xmdpt"
            )
        except Exception as err:  # offline, no token, no right to it, a dozen types more
            raise XmdptError(
                f"cannot publish {repo_id}: {reason(err)}", "log in first: hf auth login"
            ) from err
    return str(url)
