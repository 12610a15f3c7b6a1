"""The two JSON files of a prepared dataset: prepare.json (begun from) and dataset.json (done)."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from annotated_types import Ge
from typing_extensions import NotRequired, TypedDict

from xmdpt_cli.data.index import ShardIndex, index_name, write_json
from xmdpt_cli.encoders.identity import DIFFERENCE, DINOS, HUB, POSITION_TABLE, EncodersRecord
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import left_by_system
from xmdpt_cli.storage.stores import Store
from xmdpt_cli.utils import records
from xmdpt_cli.utils.problems import Problem
from xmdpt_cli.utils.safe_names import SHARD, is_plain, plain
from xmdpt_cli.utils.splits import SPLITS

FORMAT = "xmdpt-dataset"
VERSION = 2
MANIFEST = "dataset.json"
BEGUN = "prepare.json"
RUN_AGAIN = "run the same prepare command again"
# What prepare.json holds of the command's options, to repeat it: another command that finds the
# same dataset goes on all the same.
OPTIONS = "options"
# May lie in the folder before it is begun: toy encoders, locks, the beats of other ranks, and what
# a process that was killed while it began left behind.
BESIDE = ("encoders", ".lock", ".rank-", f"{BEGUN}.")

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
    garments: Count
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
    """What tells the manifest of another program, or of another version."""

    format: str
    version: int


def claim_folder(out: Store, fingerprint: dict[str, Any]) -> None:
    """Make ``out`` the folder of this fingerprint, or recognise it as such.

    Raises XmdptError if the folder holds something else, or was begun from something else,
    naming what differs.
    """
    try:
        if check_begun(out, fingerprint):
            return
        refuse_strangers(out)
        write_json(out, BEGUN, fingerprint)
    except OSError as err:
        raise XmdptError(f"cannot prepare into {out.url}: {err}", "choose another --out") from None


def refuse_strangers(out: Store) -> None:
    """XmdptError if the folder holds something and was not made by prepare, or is read only."""
    if out.read_only:
        raise XmdptError(
            f"cannot prepare into {out.url}: web servers are read only",
            "give a folder, or a URL that can be written: sftp://, s3://, gs://",
        )
    names = out.names()
    if BEGUN not in names and any(
        not name.startswith(BESIDE) and not left_by_system(name) for name in names
    ):
        raise XmdptError(
            f"{out.url} is not empty and was not made by prepare",
            "choose an empty or new folder with --out",
        )


def check_begun(out: Store, fingerprint: dict[str, Any]) -> bool | None:
    """True if ``out`` was begun with this fingerprint, None if it was not begun.

    Raises XmdptError if it was begun with another one, naming what differs.
    """
    try:
        data = out.read(BEGUN)
    except FileNotFoundError:
        return None
    begun = records.parse(dict[str, Any], data, f"{out.url}/{BEGUN}")
    _refuse_other(out, begun, fingerprint)
    return True


def remove_parts(out: Store) -> None:
    """Remove what killed processes left half-written; nobody may be writing."""
    for name in out.names():
        if name.endswith(".part") and is_plain(name):
            out.remove(name)


def _refuse_other(out: Store, begun: dict[str, Any], wanted: dict[str, Any]) -> None:
    old, new = (
        _flat({name: value for name, value in content.items() if name != OPTIONS})
        for content in (begun, json.loads(json.dumps(wanted)))
    )
    differing = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    if _of_other_table(old, new):
        of_table = {f"encoders.{part}.{key}" for part in DINOS for key in _TABLE_KEYS}
        if set(differing) <= of_table and finished_manifest(out) is not None:
            return  # nothing more is written into it: it is used as it is
        raise XmdptError(
            f"{out.url} was begun by an earlier version, which resized DINOv2's position table "
            f"otherwise: its tokens differ by {DIFFERENCE} from the published ones, which this "
            "version makes, and one dataset holds tokens of one table",
            "make it anew: choose another --out, or remove that folder; or finish it with its own "
            f"table: xmdpt prepare --check {out.url} --repair --root ROOT",
        )
    if differing:
        named = ", ".join(
            f"{name} ({old.get(name, 'absent')} there, {new.get(name, 'absent')} now)"
            for name in differing
        )
        raise XmdptError(
            f"{out.url} was begun with other settings: {named}",
            "choose another --out, or repeat the settings it was begun with",
        )


#: what of a DINOv2's record says how an earlier version ran it
_TABLE_KEYS = (POSITION_TABLE, "autocast", "dtype")


def _of_other_table(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether two sets of settings name the same DINOv2 with different position tables, one of them
    that of an earlier version; other settings may differ besides."""
    files = [f"encoders.{part}.sha256" for part in DINOS]
    if any(old.get(name) is None or old.get(name) != new.get(name) for name in files):
        return False
    tables = [f"encoders.{part}.{POSITION_TABLE}" for part in DINOS]
    return any(old.get(name) is None and new.get(name) == HUB for name in tables)


def _flat(content: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    if not isinstance(content, dict):
        return {prefix: content}
    flat: dict[str, Any] = {}
    for name, value in content.items():
        flat.update(_flat(value, f"{prefix}.{name}" if prefix else name))
    return flat


def make_manifest(
    out: Store,
    indexes: list[ShardIndex],
    problems: list[Problem],
    size: int,
    encoders: dict[str, Any],
    more: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write dataset.json from the shards that are there; XmdptError if they hold nothing.

    ``skipped`` of the dataset is all that is not in it, (file, reason); that of a shard what was
    to be in this shard.
    """
    counts = {split: _counts([i for i in indexes if i.split == split]) for split in SPLITS}
    skipped = [(p.file, p.reason) for p in problems if not p.kept]
    skipped += [entry for index in indexes for entry in index.skipped]
    if not any(count["pairs"] for count in counts.values()):
        first = "; ".join(f"{file}: {reason}" for file, reason in skipped[:3])
        raise XmdptError(f"nothing usable is left to prepare ({first})", "check the pictures")
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "resolution": size,
        "toy": bool(encoders.get("toy", False)),
        "counts": counts,
        **(more or {}),
        "encoders": encoders,
        "shards": [
            {
                "name": index.name,
                "split": index.split,
                "bytes": index.bytes,
                "sha256": index.sha256,
                "samples": len(index.samples),
                "skipped": [list(entry) for entry in index.skipped],
            }
            for index in indexes
        ],
        "skipped": [list(entry) for entry in skipped],
    }
    write_json(out, MANIFEST, manifest)
    return read_manifest(out)


def _counts(indexes: list[ShardIndex]) -> dict[str, int]:
    samples = [sample for index in indexes for sample in index.samples]
    return {
        "garments": len(samples),
        "images": sum(len(sample.views) for sample in samples),
        "pairs": sum(len(sample.pairs) for sample in samples),
    }


def read_manifest(folder: Store) -> dict[str, Any]:
    """dataset.json, checked. Raises XmdptError if it is not there, broken or of another kind."""
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
    if folder.size(BEGUN) is not None:
        return XmdptError(
            f"{folder.url} is not finished: its preparation was interrupted",
            "run the same prepare command again, it continues where it stopped",
        )
    gone = folder.folder is not None and not folder.folder.is_dir()
    what = "does not exist" if gone else "holds no prepared dataset"
    return XmdptError(f"{folder.url} {what} (no {MANIFEST})", "make one with: xmdpt prepare")


def missing_shard(folder: Store, manifest: dict[str, Any]) -> str | None:
    """The name of the first shard that is not there in its full size with its index, if any."""
    for shard in manifest["shards"]:
        name = str(shard["name"])
        if folder.size(name) != shard["bytes"] or folder.size(index_name(name)) is None:
            return name
    return None


def finished_manifest(out: Store) -> dict[str, Any] | None:
    """The manifest if the dataset is whole, else None."""
    try:
        manifest = read_manifest(out)
    except XmdptError:
        return None
    return manifest if missing_shard(out, manifest) is None else None
