"""Verify a prepared dataset: its files, their content, and whether they fit together.

Shards are read once, an item at a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from xmdpt_cli.data.index import index_name
from xmdpt_cli.data.manifest import (
    BESIDE,
    FORMAT,
    MANIFEST,
    OPTIONS,
    RUN_AGAIN,
    SETTINGS,
    VERSION,
    Kind,
    read_manifest,
)
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import left_by_system
from xmdpt_cli.pose.frames import AUTO
from xmdpt_cli.prepare.findings import CheckReport, Finding
from xmdpt_cli.prepare.verify_across import AcrossShards
from xmdpt_cli.prepare.verify_shard import ShardCheck
from xmdpt_cli.progress import Progress, silent
from xmdpt_cli.storage.stores import Store
from xmdpt_cli.utils import records
from xmdpt_cli.utils.safe_names import SHARD

REPORTS = ("sheet.png", "report.html")  # written beside the shards by a report


def check_dataset(store: Store, *, deep: bool = True, progress: Progress = silent) -> CheckReport:
    """Verify a prepared folder. Nothing is changed.

    ``deep``: read every shard and check its SHA-256, images, keypoints and tensors; otherwise
    only the files' sizes and whether indexes and manifest agree. ``progress`` counts images.

    Raises XmdptError if there is no prepared dataset, finished or not, or of another version.
    """
    report = CheckReport(store.url, deep)
    names = _names(store)
    manifest = _manifest(store, names, report)
    settings = read_settings(store)
    _settings(settings, manifest, SETTINGS in names, report)
    resolution = (manifest or settings or {}).get("resolution")
    resolution = resolution if isinstance(resolution, int) else None
    entries = {str(entry["name"]): entry for entry in manifest["shards"]} if manifest else {}
    shards = list(entries) or [name for name in names if SHARD.fullmatch(name)]
    report.shards = len(shards)
    total = sum(int(c["images"]) for c in manifest["counts"].values()) if manifest else 0
    progress("check", 0, total)
    across, done, complete = AcrossShards(report), 0, True
    for shard in shards:

        def seen(views: int, shard: str = shard) -> None:
            nonlocal done
            done = min(done + views, total)
            progress("check", done, total, shard=shard)

        entry = entries.get(shard)
        check = ShardCheck(store, shard, entry, report.add)
        samples = check.samples(deep, resolution, seen)
        across.keypoints += check.keypoints
        if samples is None:
            complete = False
            continue
        report.bytes += store.size(shard) or 0
        for sample in samples:
            across.add(shard, entry["split"] if entry else shard.split("-")[0], sample)
            if not deep:
                across.add_pairs(shard, sample)
    if manifest is not None and complete:
        across.compare_counts(manifest)
    if resolution is not None:
        options = (settings or {}).get(OPTIONS)
        frame = options.get("frame", AUTO) if isinstance(options, dict) else AUTO
        across.check_keypoints(resolution, forced=frame != AUTO)
    _strays(names, shards, report)
    progress("check", total, total)
    return report


def _names(store: Store) -> list[str]:
    """The files in the folder; of a web server, which lists none, only the two known ones."""
    if store.read_only:
        return [name for name in (SETTINGS, MANIFEST) if store.size(name) is not None]
    return store.names()


def try_manifest(store: Store) -> dict[str, Any] | XmdptError:
    """dataset.json, or the error of reading it."""
    try:
        return read_manifest(store)
    except XmdptError as err:
        return err


def read_settings(store: Store) -> dict[str, Any] | None:
    """prepare.json, None if it is missing or not readable."""
    return _json_object(store, SETTINGS, dict[str, Any])


def _json_object(store: Store, name: str, schema: Any) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = records.parse(schema, store.read(name), name)
    except (OSError, XmdptError):
        return None
    return content


def _manifest(store: Store, names: list[str], report: CheckReport) -> dict[str, Any] | None:
    manifest = try_manifest(store)
    if not isinstance(manifest, XmdptError):
        return manifest
    if MANIFEST not in names and SETTINGS not in names:
        raise manifest  # no prepared dataset at all
    kind = _json_object(store, MANIFEST, Kind)
    if kind is not None and (kind["format"], kind["version"]) != (FORMAT, VERSION):
        raise manifest  # this version cannot check its shards
    wrong = "manifest-broken" if MANIFEST in names else "manifest-missing"
    report.add(Finding(wrong, manifest.message, RUN_AGAIN))
    return None


def _settings(
    settings: dict[str, Any] | None,
    manifest: dict[str, Any] | None,
    exists: bool,
    report: CheckReport,
) -> None:
    if settings is None:
        kind, state = ("broken", "not readable") if exists else ("missing", "missing")
        message = f"{SETTINGS}, which records what it was made from, is {state}"
        hint = "training works; to make a shard again, prepare into a new folder"
        report.add(Finding(f"settings-{kind}", message, hint))
        return
    for name in ("resolution", "encoders"):
        if manifest is not None and manifest.get(name) != settings.get(name):
            message = f"{MANIFEST} and {SETTINGS} do not agree on {name}"
            hint = "one of them is from another folder: copy the dataset again"
            report.add(Finding("settings-differ", message, hint))


def _strays(names: Iterable[str], shards: list[str], report: CheckReport) -> None:
    known = {MANIFEST, SETTINGS, *BESIDE, *REPORTS, *shards, *map(index_name, shards)}
    for name in names:
        if name in known or left_by_system(name):
            continue
        if name.endswith(".part"):
            message, hint = "left by something interrupted", "--repair removes it"
            report.add(Finding("stray-part", message, hint, name))
        elif SHARD.fullmatch(name.replace(".index.json", ".tar")):
            message = f"a shard's file that {MANIFEST} does not list"
            hint = "it is not used: remove it, or copy the dataset again"
            report.add(Finding("stray-shard", message, hint, name))
        else:
            hint = "it is not used: move it elsewhere if it is yours"
            report.add(Finding("stray-file", "not part of a dataset", hint, name))
