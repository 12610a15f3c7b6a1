"""The output folder of a preparation: its settings in prepare.json, and its manifest."""

from __future__ import annotations

import json
from typing import Any

from xmdpt_cli.data.index import ShardIndex, write_json
from xmdpt_cli.data.manifest import (
    BESIDE,
    FORMAT,
    MANIFEST,
    OPTIONS,
    SETTINGS,
    VERSION,
    finished_manifest,
    read_manifest,
)
from xmdpt_cli.datasets.listing import Listing
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import left_by_system
from xmdpt_cli.prepare.make_shard import Settings, Target
from xmdpt_cli.storage.ranks import ProcessGroup
from xmdpt_cli.storage.stores import Store
from xmdpt_cli.utils import records
from xmdpt_cli.utils.problems import Problem
from xmdpt_cli.utils.safe_names import is_plain
from xmdpt_cli.utils.splits import SPLITS


def fingerprint(
    listing: Listing,
    target: Target,
    settings: Settings,
    items_per_shard: int,
    limit: int | None,
) -> dict[str, Any]:
    """Everything the bytes depend on, apart from the images themselves."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "resolution": target.size,
        "items_per_shard": items_per_shard,
        "limit": limit,
        "tokens": settings.tokens,
        "dataset": {
            "items": len(listing.items),
            "images": listing.images(),
            "sha256": listing.digest(),
        },
        "poses": describe_poses(settings),
        "encoders": target.encoder.describe(),
        OPTIONS: {**listing.options, "batch_size": settings.batch_size},
    }


def describe_poses(settings: Settings) -> dict[str, Any]:
    """Where the keypoints come from."""
    return {"kind": "listed"} if settings.detector is None else settings.detector.describe()


def start_or_resume(
    store: Store, settings: dict[str, Any], group: ProcessGroup, keep: bool
) -> None:
    """Rank 0 writes prepare.json or compares with it; the other ranks wait for it and compare.

    ``keep``: keep the manifest of a dataset with damaged shards until a new one is written.

    Raises XmdptError if the folder holds something else, or was started from something else.
    """
    if group.world.rank == 0:
        claim_folder(store, settings)
        if group.world.size == 1:
            remove_parts(store)
        if not keep and finished_manifest(store) is None:
            store.remove(MANIFEST)  # a shard was lost: not finished any more
    else:
        group.wait(lambda: check_settings(store, settings), "rank 0 to start")


def skipped_files(store: Store) -> set[str] | None:
    """The image files that a finished dataset skipped; None if it is not finished."""
    try:
        return {str(file) for file, _ in read_manifest(store)["skipped"]}
    except XmdptError:
        return None


def claim_folder(out: Store, fingerprint: dict[str, Any]) -> None:
    """Write the settings into a new folder, or check that it was started with the same.

    Raises XmdptError if the folder holds something else, or was started from something else,
    naming what differs.
    """
    try:
        if check_settings(out, fingerprint):
            return
        check_output_folder(out)
        write_json(out, SETTINGS, fingerprint)
    except OSError as err:
        raise XmdptError(f"cannot prepare into {out.url}: {err}", "choose another --out") from None


def check_output_folder(out: Store) -> None:
    """Raises XmdptError if the folder is not empty and not made by prepare, or is read-only."""
    if out.read_only:
        raise XmdptError(
            f"cannot prepare into {out.url}: web servers are read only",
            "give a folder, or a URL that can be written: sftp://, s3://, gs://",
        )
    names = out.names()
    if SETTINGS not in names and any(
        not name.startswith(BESIDE) and not left_by_system(name) for name in names
    ):
        raise XmdptError(
            f"{out.url} is not empty and was not made by prepare",
            "choose an empty or new folder with --out",
        )


def check_settings(out: Store, fingerprint: dict[str, Any]) -> bool | None:
    """True if ``out`` was started with these settings, None if it was not started.

    Raises XmdptError, naming the differences, if it was started with other settings.
    """
    try:
        data = out.read(SETTINGS)
    except FileNotFoundError:
        return None
    recorded = records.parse(dict[str, Any], data, f"{out.url}/{SETTINGS}")
    _refuse_other(out, recorded, fingerprint)
    return True


def remove_parts(out: Store) -> None:
    """Remove the unfinished files of killed processes. No process may be writing to ``out``."""
    for name in out.names():
        if name.endswith(".part") and is_plain(name):
            out.remove(name)


def _refuse_other(out: Store, recorded: dict[str, Any], wanted: dict[str, Any]) -> None:
    old, new = (
        _flat({name: value for name, value in content.items() if name != OPTIONS})
        for content in (recorded, json.loads(json.dumps(wanted)))
    )
    differing = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    if differing:
        named = ", ".join(
            f"{name} ({old.get(name, 'absent')} there, {new.get(name, 'absent')} now)"
            for name in differing
        )
        raise XmdptError(
            f"{out.url} was started with other settings: {named}",
            "choose another --out, or repeat the settings it was started with",
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
    extra: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write dataset.json for these shards; XmdptError if they hold no pair.

    The dataset's ``skipped`` lists (file, reason) of everything left out, a shard's ``skipped``
    only what was planned for that shard. ``extra``: more fields of the manifest.
    """
    counts = {split: _counts([i for i in indexes if i.split == split]) for split in SPLITS}
    skipped = [(p.file, p.reason) for p in problems if not p.kept]
    skipped += [entry for index in indexes for entry in index.skipped]
    if not any(count["pairs"] for count in counts.values()):
        first = "; ".join(f"{file}: {reason}" for file, reason in skipped[:3])
        raise XmdptError(f"nothing usable is left to prepare ({first})", "check the images")
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "resolution": size,
        "toy": bool(encoders.get("toy", False)),
        "counts": counts,
        **(extra or {}),
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
        "items": len(samples),
        "images": sum(len(sample.views) for sample in samples),
        "pairs": sum(len(sample.pairs) for sample in samples),
    }
