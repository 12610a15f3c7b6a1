"""dataset.json, the manifest of a prepared dataset: written last: it marks a complete dataset."""

from __future__ import annotations

import shlex
from typing import Annotated, Any, Literal

from annotated_types import Ge
from typing_extensions import NotRequired, TypedDict

from xmdpt_cli.data.index import index_name
from xmdpt_cli.encoders.identity import EncodersRecord
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.storage.stores import Store
from xmdpt_cli.utils import records
from xmdpt_cli.utils.safe_names import SHARD, plain

FORMAT = "xmdpt-dataset"
VERSION = 3
MANIFEST = "dataset.json"
SETTINGS = "prepare.json"
RUN_AGAIN = "run the same prepare command again"
# The command's options in prepare.json, with which it can be repeated. They may differ when the
# command is resumed, as long as it finds the same dataset.
OPTIONS = "options"
# May exist before prepare.json is written: toy encoders, locks, the heartbeats of other ranks, and
# temporary files of a killed process.
BESIDE = ("encoders", ".lock", ".rank-", f"{SETTINGS}.")

Count = Annotated[int, Ge(0)]


class ShardEntry(TypedDict):
    """One shard in dataset.json; ``skipped`` holds (file, reason)."""

    name: str
    split: Literal["train", "test"]
    bytes: Count
    sha256: str
    samples: Count
    skipped: NotRequired[list[tuple[str, str]]]


class SplitCounts(TypedDict):
    items: Count
    images: Count
    pairs: Count


class Counts(TypedDict):
    train: SplitCounts
    test: SplitCounts


class Manifest(TypedDict):
    """dataset.json."""

    format: str
    version: int
    resolution: Annotated[int, Ge(1)]
    toy: bool
    counts: Counts
    encoders: EncodersRecord
    shards: list[ShardEntry]
    skipped: list[tuple[str, str]]
    tokens: NotRequired[str]


class Kind(TypedDict):
    """The fields that identify the manifest of another program or version."""

    format: str
    version: int


def read_manifest(folder: Store) -> dict[str, Any]:
    """The content of dataset.json; XmdptError if it is missing, damaged or of another version."""
    path = f"{folder.url}/{MANIFEST}"
    try:
        data = folder.read(MANIFEST)
    except FileNotFoundError:
        raise _no_manifest(folder) from None
    except OSError as err:
        raise XmdptError(f"cannot read {path}: {err}", RUN_AGAIN) from None
    kind = records.parse(Kind, data, path, RUN_AGAIN)
    if (kind["format"], kind["version"]) != (FORMAT, VERSION):
        raise XmdptError(
            f"{path} is {kind['format']!r} version {kind['version']}, this program reads "
            f"{FORMAT!r} {VERSION}",
            "prepare the dataset again with this version",
        )
    manifest: dict[str, Any] = records.parse(Manifest, data, path, RUN_AGAIN)
    for shard in manifest["shards"]:
        plain(shard["name"], path, SHARD)
    return manifest


def _no_manifest(folder: Store) -> XmdptError:
    if folder.size(SETTINGS) is not None:
        return XmdptError(
            f"{folder.url} is not finished: its preparation was interrupted",
            "run the same prepare command again, it continues where it stopped",
        )
    gone = folder.folder is not None and not folder.folder.is_dir()
    what = "does not exist" if gone else "holds no prepared dataset"
    return XmdptError(f"{folder.url} {what} (no {MANIFEST})", "make one with: xmdpt prepare")


def repair_command(dataset: str) -> str:
    """The command that prepares the damaged or missing shards of a dataset again."""
    return (
        f"xmdpt prepare --check {shlex.quote(dataset)} --repair --root ROOT, where ROOT is the raw "
        "dataset that it was prepared from"
    )


def missing_shard(folder: Store, manifest: dict[str, Any]) -> str | None:
    """The name of the first shard that is missing, of another size or without its index, if any."""
    for shard in manifest["shards"]:
        name = str(shard["name"])
        if folder.size(name) != shard["bytes"] or folder.size(index_name(name)) is None:
            return name
    return None


def finished_manifest(out: Store) -> dict[str, Any] | None:
    """The manifest if the dataset is complete, else None."""
    try:
        manifest = read_manifest(out)
    except XmdptError:
        return None
    return manifest if missing_shard(out, manifest) is None else None
