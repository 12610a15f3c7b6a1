"""Where on this machine a run's data and networks lie: kept in the run, not in the model.

The model folder is what people publish; a path tells of the machine and of its user. The run's
``places.json`` beside it keeps the paths, so that ``sample`` and ``ui`` find the networks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from typing_extensions import TypedDict

from xmdpt_cli.encoders.identity import PARTS
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import write_text
from xmdpt_cli.utils import records

PLACES = "places.json"


class Places(TypedDict):
    """places.json; ``encoders``: the folders of local networks, by part."""

    data: str | None
    encoders: dict[str, str]


def without_places(facts: Mapping[str, Any]) -> dict[str, Any]:
    """A model's facts without this machine's paths: of local networks the folder's name."""
    public = {key: value for key, value in facts.items() if key != "data"}
    encoders = dict(facts["encoders"])
    for part in PARTS:
        if encoders[part].get("kind") == "local":
            encoders[part] = {**encoders[part], "id": PurePath(encoders[part]["id"]).name}
    return {**public, "encoders": encoders}


def write_places(run: Path, facts: Mapping[str, Any]) -> None:
    """Keep in the run what ``without_places`` leaves out."""
    local = {part: facts["encoders"][part] for part in PARTS}
    networks = {part: made["id"] for part, made in local.items() if made.get("kind") == "local"}
    places = {"data": facts.get("data"), "encoders": networks}
    write_text(run / PLACES, json.dumps(places, indent=2) + "\n")


def data_of(run: Path) -> str | None:
    """Where the data of a run lies, as the run keeps it; a URL without its password."""
    try:
        places = records.read_if_there(Places, run / PLACES)
    except XmdptError:
        return None
    return None if places is None else places["data"]


def with_places(folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """The facts of the model in ``folder`` with the paths that its run keeps, if it is in one."""
    try:
        places = records.read_if_there(Places, folder.absolute().parent / PLACES)
    except XmdptError:  # it only saves naming them
        places = None
    if places is None:
        return facts  # published, moved, or of an earlier version, which has the paths itself
    data, networks = places["data"], places["encoders"]
    encoders = {part: dict(made) for part, made in facts["encoders"].items() if part in PARTS}
    for part, made in encoders.items():
        place = networks.get(part)
        # a name alone, and of that folder: the model may have been replaced by another one
        if place is not None and PurePath(place).name == made.get("id"):
            made["id"] = place
    found = {**facts, "encoders": {**facts["encoders"], **encoders}}
    if data is not None:
        found.setdefault("data", data)
    return found
