"""The two JSON files of a prepared dataset: prepare.json (begun from) and dataset.json (done)."""

from __future__ import annotations

import json
from typing import Any

from xmdpt_cli.data.index import ShardIndex, index_name, write_json
from xmdpt_cli.data.lists import SPLITS, Problem
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.plain_names import SHARD, is_plain, plain
from xmdpt_cli.stores import Store

FORMAT = "xmdpt-dataset"
VERSION = 2
MANIFEST = "dataset.json"
BEGUN = "prepare.json"
# What prepare.json holds of the command's options, to repeat it: another command that finds the
# same dataset goes on all the same.
OPTIONS = "options"
# May lie in the folder before it is begun: toy encoders, locks, the beats of other ranks, and what
# a process that was killed while it began left behind.
BESIDE = ("encoders", ".lock", ".rank-", f"{BEGUN}.")


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
    except (OSError, ValueError) as err:
        raise XmdptError(f"cannot prepare into {out.url}: {err}", "choose another --out") from None


def refuse_strangers(out: Store) -> None:
    """XmdptError if the folder holds something and was not made by prepare, or is read only."""
    if out.read_only:
        raise XmdptError(
            f"cannot prepare into {out.url}: web servers are read only",
            "give a folder, or a URL that can be written: sftp://, s3://, gs://",
        )
    names = out.names()
    if BEGUN not in names and any(not name.startswith(BESIDE) for name in names):
        raise XmdptError(
            f"{out.url} is not empty and was not made by prepare",
            "choose an empty or new folder with --out",
        )


def check_begun(out: Store, fingerprint: dict[str, Any]) -> bool | None:
    """True if ``out`` was begun with this fingerprint, None if it was not begun.

    Raises XmdptError if it was begun with another one, naming what differs.
    """
    try:
        begun = json.loads(out.read(BEGUN))
    except FileNotFoundError:
        return None
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
    differing = [
        f"{name} ({old.get(name, 'absent')} there, {new.get(name, 'absent')} now)"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    if differing:
        raise XmdptError(
            f"{out.url} was begun with other settings: {', '.join(differing)}",
            "choose another --out, or repeat the settings it was begun with",
        )


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
        manifest: dict[str, Any] = json.loads(folder.read(MANIFEST))
        kind, version = manifest["format"], manifest["version"]
        names = [shard["name"] for shard in manifest["shards"]] if version == VERSION else []
    except FileNotFoundError:
        raise _no_manifest(folder) from None
    except (OSError, ValueError, KeyError, TypeError):
        raise XmdptError(f"{path} is not a dataset manifest", "run prepare again") from None
    if kind != FORMAT or version != VERSION:
        raise XmdptError(
            f"{path} is {kind!r} version {version}, this program reads {FORMAT!r} {VERSION}",
            "prepare the dataset again with this version",
        )
    for name in names:
        plain(name, path, SHARD)
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
