"""``xmdpt prepare --check DIR --repair --root ROOT``: prepares damaged shards again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xmdpt_cli.cli.console import Talk
from xmdpt_cli.cli.options import pick_device
from xmdpt_cli.errors import ConfigError

if TYPE_CHECKING:
    from xmdpt_cli.cli.prepare_options import PrepareOptions
    from xmdpt_cli.prepare.record import Record


def remake(
    talk: Talk,
    place: str,
    shards: Sequence[str],
    root: Path,
    chosen: PrepareOptions,
) -> dict[int, dict[str, Any]]:
    """Prepare ``shards`` of a dataset again, or resume it, by its record; returns the manifest.

    Options on the command line must not contradict the record. Nothing is changed before the
    record, the root and the networks are known to fit.
    """
    from xmdpt_cli.cli.prepare_encoders import find_openpose, recorded
    from xmdpt_cli.datasets.find import find_dataset
    from xmdpt_cli.prepare.pipeline import prepare_datasets
    from xmdpt_cli.prepare.record import Record
    from xmdpt_cli.prepare.verify import try_manifest
    from xmdpt_cli.storage.ranks import World
    from xmdpt_cli.storage.stores import open_store

    if World.from_environment().size > 1:
        raise ConfigError("--repair runs in one process only", "start it without torchrun")
    store, given, device = open_store(place), chosen.given(), pick_device(chosen.device)
    record = Record.read(store)
    record.refuse({name: sorted(set(v)) if name == "size" else v for name, v in given.items()})
    listing = find_dataset(
        root,
        layout=record.value("layout", given, "auto"),
        detect=record.value("pose", given, "auto") == "openpose",
        sizes=[record.size],
        seed=record.value("seed", given, 0),
        frame=record.value("frame", given, "auto"),
    )
    record.refuse_root(listing)
    networks = recorded(record, given, device)
    detector = find_openpose(listing, _openpose(record, given), device)
    if detector is not None:
        record.refuse_detector(detector.describe())
    before = try_manifest(store)
    talk.say(
        f"repair: {', '.join(shards) or 'what is missing'} of {place} from {root}, as recorded: "
        f"{record.size} px, {record.content['tokens']} tokens, "
        f"VAE {record.content['encoders']['vae']['id']}"
    )
    with talk.progress() as progress:
        made = prepare_datasets(
            listing,
            {record.size: place},
            {record.size: networks},
            detector=None if detector is None else _AsRecorded(detector, record.content["poses"]),
            tokens=record.content["tokens"],
            items_per_shard=record.content["items_per_shard"],
            batch_size=record.value("batch_size", given, 16),
            limit=record.content["limit"],
            workers=chosen.processes(listing),
            remake=shards,
            progress=progress,
        )
    if isinstance(before, dict):
        _compare(talk, before, made[record.size])
    return made


def _openpose(record: Record, given: dict[str, Any]) -> str | None:
    """Path or hub id of OpenPose, as given or as recorded."""
    named = given.get("openpose") or record.content["poses"].get("id")
    return None if named is None else str(named)


def _compare(talk: Talk, before: dict[str, Any], after: dict[str, Any]) -> None:
    """Warn about shards whose bytes changed."""
    old = {shard["name"]: shard["sha256"] for shard in before["shards"]}
    for shard in after["shards"]:
        if old.get(shard["name"], shard["sha256"]) != shard["sha256"]:
            talk.warn(
                f"{shard['name']} was repaired, but its bytes differ from before: images have "
                "changed, or features are rounded differently (another number of threads, another "
                "device, other versions of the libraries or of xmdpt)"
            )
            talk.hint("runs trained on it cannot resume: start a new one (train --out DIR)")


class _AsRecorded:
    """The recorded pose detector with its recorded description."""

    def __init__(self, detector: Any, made: dict[str, Any]) -> None:
        self.keypoints_batch, self._made = detector.keypoints_batch, made

    def describe(self) -> dict[str, Any]:
        return self._made
