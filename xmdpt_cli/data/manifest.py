"""The two JSON files of a prepared dataset: prepare.json (begun from) and dataset.json (done)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from xmdpt_cli.data.lists import SPLITS, Problem
from xmdpt_cli.data.shards import ShardIndex, index_path, write_json
from xmdpt_cli.errors import XmdptError

FORMAT = "xmdpt-dataset"
VERSION = 1
MANIFEST = "dataset.json"
BEGUN = "prepare.json"
BESIDE = {"encoders", ".lock"}  # may lie in the folder before it is begun: toy encoders, the lock


def claim_folder(out: Path, fingerprint: dict[str, Any]) -> None:
    """Make ``out`` the folder of this fingerprint, or recognise it as such.

    Removes what an interrupted run left half-written. Raises XmdptError if the folder holds
    something else, or was begun from something else, naming what differs.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        begun = out / BEGUN
        if begun.exists():
            _refuse_other(out, json.loads(begun.read_text(encoding="utf-8")), fingerprint)
            for part in out.glob("*.part"):
                part.unlink()
        elif any(path.name not in BESIDE for path in out.iterdir()):
            raise XmdptError(
                f"{out} is not empty and was not made by prepare",
                "choose an empty or new folder with --out",
            )
        else:
            write_json(begun, fingerprint)
    except (OSError, ValueError) as err:
        raise XmdptError(f"cannot prepare into {out}: {err}", "choose another --out") from None


def _refuse_other(out: Path, begun: dict[str, Any], wanted: dict[str, Any]) -> None:
    old, new = _flat(begun), _flat(json.loads(json.dumps(wanted)))
    differing = [
        f"{name} ({old.get(name, 'absent')} there, {new.get(name, 'absent')} now)"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    if differing:
        raise XmdptError(
            f"{out} was begun with other settings: {', '.join(differing)}",
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
    out: Path,
    indexes: list[ShardIndex],
    problems: list[Problem],
    size: int,
    encoders: dict[str, Any],
) -> dict[str, Any]:
    """Write dataset.json from the shards that are there; XmdptError if they hold nothing."""
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
        "encoders": encoders,
        "shards": [
            {
                "name": index.name,
                "split": index.split,
                "bytes": index.bytes,
                "sha256": index.sha256,
                "samples": len(index.samples),
            }
            for index in indexes
        ],
        "skipped": [list(entry) for entry in skipped],
    }
    write_json(out / MANIFEST, manifest)
    return read_manifest(out)


def _counts(indexes: list[ShardIndex]) -> dict[str, int]:
    samples = [sample for index in indexes for sample in index.samples]
    return {
        "garments": len(samples),
        "images": sum(len(sample.views) for sample in samples),
        "pairs": sum(len(sample.pairs) for sample in samples),
    }


def read_manifest(folder: Path) -> dict[str, Any]:
    """dataset.json, checked. Raises XmdptError if it is not there, broken or of another kind."""
    path = folder / MANIFEST
    if not path.is_file():
        if (folder / BEGUN).is_file():
            raise XmdptError(
                f"{folder} is not finished: its preparation was interrupted",
                "run the same prepare command again, it continues where it stopped",
            )
        what = "holds no prepared dataset" if folder.is_dir() else "does not exist"
        raise XmdptError(f"{folder} {what} (no {MANIFEST})", "make one with: xmdpt prepare")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kind, version = manifest["format"], manifest["version"]
    except (OSError, ValueError, KeyError, TypeError):
        raise XmdptError(f"{path} is not a dataset manifest", "run prepare again") from None
    if kind != FORMAT or version != VERSION:
        raise XmdptError(
            f"{path} is {kind!r} version {version}, this program reads {FORMAT!r} {VERSION}",
            "prepare the dataset again with this version",
        )
    return manifest


def missing_shard(folder: Path, manifest: dict[str, Any]) -> str | None:
    """The name of the first shard that is not there in its full size with its index, if any."""
    for shard in manifest["shards"]:
        path = folder / shard["name"]
        there = path.is_file() and index_path(path).is_file()
        if not there or path.stat().st_size != shard["bytes"]:
            return str(shard["name"])
    return None


def finished_manifest(out: Path) -> dict[str, Any] | None:
    """The manifest if the dataset is whole, else None."""
    try:
        manifest = read_manifest(out)
    except XmdptError:
        return None
    return manifest if missing_shard(out, manifest) is None else None
