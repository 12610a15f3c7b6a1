"""Prepare damaged or missing shards of a dataset again, with the settings in its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmdpt_cli.datasets.find import find_dataset
from xmdpt_cli.encoders.bundle import Encoders
from xmdpt_cli.encoders.dino import Dino
from xmdpt_cli.encoders.identity import PARTS
from xmdpt_cli.encoders.vae import VAE
from xmdpt_cli.errors import ConfigError
from xmdpt_cli.prepare.networks import load_openpose
from xmdpt_cli.prepare.pipeline import prepare_datasets
from xmdpt_cli.prepare.record import Record
from xmdpt_cli.prepare.verify import try_manifest
from xmdpt_cli.prepare.workers import decode_processes
from xmdpt_cli.progress import Progress, Say, silent, silently
from xmdpt_cli.storage.ranks import World
from xmdpt_cli.storage.stores import open_store


@dataclass(frozen=True)
class Remade:
    """The dataset's new manifest, and the shards whose bytes differ from before."""

    size: int  # side of the images in pixels
    manifest: dict[str, Any]
    changed: list[str]


def remake_shards(
    place: str,
    shards: Sequence[str],
    root: Path,
    given: Mapping[str, Any],
    *,
    device: str = "cpu",
    workers: int | None = None,
    progress: Progress = silent,
    say: Say = silently,
) -> Remade:
    """Prepare ``shards`` of the dataset at ``place`` again, or resume an unfinished dataset.

    ``given``: options of ``xmdpt prepare`` by name, which must not contradict the record. Nothing
    is changed before the record, ``root`` and the networks are known to fit.
    """
    if World.from_environment().size > 1:
        raise ConfigError("--repair runs in one process only", "start it without torchrun")
    store = open_store(place)
    record = Record.read(store)
    record.refuse(
        {name: sorted(set(v)) if name == "resolution" else v for name, v in given.items()}
    )
    listing = find_dataset(
        root,
        layout=record.value("layout", given, "auto"),
        detect=record.value("pose", given, "auto") == "openpose",
        sizes=[record.size],
        seed=record.value("seed", given, 0),
        frame=record.value("frame", given, "auto"),
    )
    record.refuse_root(listing)
    encoders = _recorded_encoders(record, given, device)
    poses = record.content["poses"]
    openpose = given.get("openpose") or poses.get("id")
    detector: Any = load_openpose(listing, None if openpose is None else str(openpose), device)
    if detector is not None:
        record.refuse_detector(detector.describe())
        detector = _Recorded(detector, poses)
    before = try_manifest(store)
    say(
        f"repair: {', '.join(shards) or 'what is missing'} of {place} from {root}, as recorded: "
        f"{record.size} px, {record.content['tokens']} tokens, "
        f"VAE {record.content['encoders']['vae']['id']}"
    )
    manifest = prepare_datasets(
        listing,
        {record.size: place},
        {record.size: encoders},
        detector=detector,
        tokens=record.content["tokens"],
        items_per_shard=record.content["items_per_shard"],
        batch_size=record.value("batch_size", given, 16),
        limit=record.content["limit"],
        workers=decode_processes(listing.images(), workers),
        remake=shards,
        progress=progress,
    )[record.size]
    old = {s["name"]: s["sha256"] for s in before["shards"]} if isinstance(before, dict) else {}
    changed = [
        s["name"] for s in manifest["shards"] if old.get(s["name"], s["sha256"]) != s["sha256"]
    ]
    return Remade(record.size, manifest, changed)


def _recorded_encoders(record: Record, given: Mapping[str, Any], device: str) -> Any:
    """Load the encoders that a dataset's record names; XmdptError if they are other ones."""
    places = {name: record.place(name, given) for name in PARTS}
    made = record.content["encoders"]
    loaded = Encoders(
        VAE.load(places["vae"], device=device),
        Dino.load_recorded(made["source"], places["source"], device=device),
        Dino.load_recorded(made["pose"], places["pose"], device=device),
    )
    for name, place in places.items():
        record.refuse_network(name, getattr(loaded, name).describe(), place)
    return _Recorded(loaded, made)


class _Recorded:
    """Networks with their recorded description, since their paths may differ now."""

    def __init__(self, network: Any, description: Mapping[str, Any]) -> None:
        self._network, self._description = network, description

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def describe(self) -> dict[str, Any]:
        return dict(self._description)
