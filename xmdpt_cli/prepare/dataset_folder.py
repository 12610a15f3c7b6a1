"""The folder of a dataset that is being prepared: what it was begun from, and its manifest."""

from __future__ import annotations

import json
from typing import Any

from xmdpt_cli.data.index import ShardIndex, write_json
from xmdpt_cli.data.manifest import (
    BEGUN,
    BESIDE,
    FORMAT,
    MANIFEST,
    OPTIONS,
    VERSION,
    finished_manifest,
    read_manifest,
)
from xmdpt_cli.datasets.listing import Listing
from xmdpt_cli.encoders.identity import DIFFERENCE, DINOS, HUB, POSITION_TABLE
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import left_by_system
from xmdpt_cli.prepare.make_shard import Settings, Target
from xmdpt_cli.storage.ranks import Meeting
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


def begin(store: Store, begun: dict[str, Any], meeting: Meeting, keep: bool) -> None:
    """Rank 0 claims the folder; the others wait for that and compare. ``keep``: the manifest of a
    dataset with damaged shards stays until there is a new one.

    Raises XmdptError if the folder holds something else, or was begun from something else.
    """
    if meeting.world.rank == 0:
        claim_folder(store, begun)
        if meeting.world.size == 1:
            remove_parts(store)
        if not keep and finished_manifest(store) is None:
            store.remove(MANIFEST)  # a shard was lost: not finished any more
    else:
        meeting.wait(lambda: check_begun(store, begun), "rank 0 to begin")


def left_out(store: Store) -> set[str] | None:
    """The images that a finished dataset was made without; None: it is not finished."""
    try:
        return {str(file) for file, _ in read_manifest(store)["skipped"]}
    except XmdptError:
        return None


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
        raise XmdptError(f"nothing usable is left to prepare ({first})", "check the images")
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
        "items": len(samples),
        "images": sum(len(sample.views) for sample in samples),
        "pairs": sum(len(sample.pairs) for sample in samples),
    }
