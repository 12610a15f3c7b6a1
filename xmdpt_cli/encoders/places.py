"""Folders of encoders: which holds an encoder, and the paths that a run keeps of this machine.

A model folder is published, so it contains no paths, which name the machine and its user. They are
in the run's ``places.json`` beside it, where ``sample`` and ``ui`` find them.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from typing_extensions import TypedDict

from xmdpt_cli.encoders.identity import FOLDERS, PARTS
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.files import write_text
from xmdpt_cli.storage.stores import is_url
from xmdpt_cli.utils import records

PLACES = "places.json"
LATENTS = "xmdpt_latents.json"  # in the folder of a tiny decoder: whose latents it decodes
TINY_FOLDER = "vae-tiny"  # of a tiny decoder in a model's folder
TINY = "tiny"  # the value of --vae for the tiny decoder beside the model


def folders_of_encoders(model: Path | None, *datasets: str | Path | None) -> list[Path]:
    """The folders that may hold encoders: the model's own, then ``encoders/`` of local datasets."""
    beside = [Path(data) / "encoders" for data in datasets if data and not is_url(data)]
    return beside if model is None else [model, *beside]


def encoder_in(part: str, folders: Sequence[Path]) -> Path | None:
    """The first folder of encoder ``part`` ("vae", "source", "pose") among ``folders``."""
    places = [folder / PARTS[part].folder for folder in folders]
    return next((place for place in places if (place / "config.json").is_file()), None)


def find_encoder(part: str, record: Mapping[str, Any], folders: Sequence[Path], user: str) -> str:
    """Where the weights of an encoder are: in one of ``folders``, else at the id of its ``record``.

    Raises XmdptError for a toy that is in no folder, since toys are not on the hub; its message
    starts with ``user`` ("the model was trained").
    """
    found = encoder_in(part, folders)
    if found is not None:
        return str(found)
    if record["toy"]:
        folder, option, what = PARTS[part]
        raise XmdptError(
            f"{user} with a toy {what} ({record['id']}), which is not beside it",
            "toy networks are in the folder that `xmdpt prepare --encoders` read, and in "
            f"DATA/encoders: {option} ENCODERS/{folder}",
        )
    return str(record["id"])


def find_vae(encoders: Mapping[str, Any], data: str | Path, given: str | None = None) -> str:
    """Where the VAE of a prepared dataset is: as given, else ``find_encoder``.

    ``encoders``: the records in the manifest of the dataset ``data``.
    """
    folders = folders_of_encoders(None, data)
    return given or find_encoder("vae", encoders["vae"], folders, f"{data} was prepared")


def check_encoders(folder: Path, named: Container[str] = ()) -> None:
    """ConfigError unless ``folder`` holds all encoders but those that are ``named`` apart."""
    wanted = [f"{name}/" for name in FOLDERS if name not in named]
    missing = [name for name in wanted if not (folder / name).is_dir()]
    if missing:
        what = f"has no {', '.join(missing)}" if folder.is_dir() else "is not a folder"
        raise ConfigError(
            f"--encoders: {folder} {what}",
            f"name a folder with {', '.join(wanted)}, such as DATA/encoders of a prepared dataset; "
            "or leave the option out",
        )


def is_tiny_word(vae: str | Path | None) -> bool:
    """Whether the value of --vae is ``TINY``, and not a folder of that name."""
    return vae is not None and str(vae) == TINY and not Path(TINY).is_dir()


def tiny_beside(model: Path | None) -> Path | None:
    """The tiny decoder in a model's folder, if there is one."""
    place = None if model is None else model / TINY_FOLDER
    return place if place is not None and (place / "config.json").is_file() else None


def tiny_of(model: Path | None) -> Path:
    """The tiny decoder in a model's folder. XmdptError if there is none."""
    found = tiny_beside(model)
    if found is None:
        raise XmdptError(
            "the model has no tiny decoder beside it",
            "make one: xmdpt finetune-vae --decoder tiny; or name its folder: --vae DIR",
        )
    return found


class Places(TypedDict):
    """places.json; ``encoders``: the folders of local networks, by part."""

    data: str | None
    encoders: dict[str, str]


def without_path(record: Mapping[str, Any]) -> dict[str, Any]:
    """An encoder's record without a path of this machine: a local network keeps the folder's
    name."""
    if record.get("kind") != "local":
        return dict(record)
    return {**record, "id": PurePath(record["id"]).name}


def without_places(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """A model's metadata without paths of this machine: local networks keep the folder's name."""
    public = {key: value for key, value in metadata.items() if key != "data"}
    encoders = metadata["encoders"]
    named = {part: without_path(encoders[part]) for part in PARTS}
    return {**public, "encoders": {**encoders, **named}}


def write_places(run: Path, metadata: Mapping[str, Any]) -> None:
    """Write the paths that ``without_places`` removes into the run's folder."""
    local = {part: metadata["encoders"][part] for part in PARTS}
    networks = {part: made["id"] for part, made in local.items() if made.get("kind") == "local"}
    places = {"data": metadata.get("data"), "encoders": networks}
    write_text(run / PLACES, json.dumps(places, indent=2) + "\n")


def data_of(run: Path) -> str | None:
    """The dataset of a run, as the run recorded it; a URL without its password."""
    places = _read(run)
    return None if places is None else places["data"]


def with_places(folder: Path, metadata: dict[str, Any]) -> dict[str, Any]:
    """The metadata of the model in ``folder`` with the paths that its run recorded, if any."""
    places = _read(folder.absolute().parent)
    if places is None:
        return metadata  # published, moved, or of an earlier version, which has the paths itself
    encoders = dict(metadata["encoders"])
    for part, place in places["encoders"].items():
        made = encoders.get(part) if part in PARTS else None
        # the names must agree: the model may have been replaced by another one
        if made is not None and PurePath(place).name == made.get("id"):
            encoders[part] = {**made, "id": place}
    found = {**metadata, "encoders": encoders}
    if places["data"] is not None:
        found.setdefault("data", places["data"])
    return found


def _read(run: Path) -> Places | None:
    try:
        return records.read_if_there(Places, run / PLACES)
    except XmdptError:  # damaged: the paths can be given as options
        return None
