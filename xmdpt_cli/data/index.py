"""The sidecar of a shard: where every member, and every tensor in it, begins."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from xmdpt_cli.plain_names import is_plain
from xmdpt_cli.stores import Store

INDEX_VERSION = 2


@dataclass(frozen=True)
class TensorPlace:
    """One tensor in a shard: ``offset`` counts bytes from the beginning of the tar."""

    dtype: str  # safetensors' name: F16, BF16, ...
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class ViewPlace:
    """One view's members as (offset, length) in the tar, and its tensors by name."""

    file: str  # the picture it was made from, below the dataset root
    picture: tuple[int, int]
    keypoints: tuple[int, int]
    features: tuple[int, int]
    tensors: dict[str, TensorPlace]


@dataclass(frozen=True)
class SamplePlace:
    """One garment: pairs are (source view, target view, position in the published list)."""

    key: str
    pairs: list[tuple[str, str, int]]
    views: dict[str, ViewPlace]


@dataclass(frozen=True)
class ShardIndex:
    """What the sidecar of one whole shard says."""

    name: str  # train-000000.tar
    split: str
    bytes: int
    sha256: str
    samples: list[SamplePlace]
    skipped: list[tuple[str, str]]  # (file, reason): what was to be in this shard and is not


def index_name(shard: str) -> str:
    """``train-000000.tar`` -> ``train-000000.index.json``."""
    return shard.removesuffix(".tar") + ".index.json"


def write_json(store: Store, name: str, content: Any) -> None:
    """Compact JSON; a file that is there is whole."""
    # dataclasses become objects; dataclasses.asdict would copy every number first
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), default=vars) + "\n"
    store.write(name, text.encode())


def write_index(store: Store, index: ShardIndex) -> None:
    """Write the sidecar, the last step of a shard: from then on it counts as whole."""
    write_json(store, index_name(index.name), {"version": INDEX_VERSION, **vars(index)})


def read_index(store: Store, shard: str) -> ShardIndex | None:
    """The index of a whole shard; None if the shard or its index is missing or cut short."""
    try:
        raw = json.loads(store.read(index_name(shard)))
        if raw.pop("version") != INDEX_VERSION or store.size(shard) != raw["bytes"]:
            return None
        if raw["name"] != shard:  # it would be written and removed by that name
            return None
        return _shard_index(raw)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def checked_name(name: Any) -> str:
    """The name of a garment or view: generated images are called by it. ValueError if it is not
    one that prepare writes."""
    if not is_plain(name) or name.startswith("."):
        raise ValueError(f"{name!a} names no garment or view")
    return str(name)


def _shard_index(raw: dict[str, Any]) -> ShardIndex:
    raw["samples"] = [
        SamplePlace(
            checked_name(sample["key"]),
            [(s, t, p) for s, t, p in sample["pairs"]],
            {checked_name(view): _view_place(place) for view, place in sample["views"].items()},
        )
        for sample in raw["samples"]
    ]
    raw["skipped"] = [(file, reason) for file, reason in raw["skipped"]]
    return ShardIndex(**raw)


def _view_place(raw: dict[str, Any]) -> ViewPlace:
    def member(name: str) -> tuple[int, int]:
        offset, length = raw[name]
        return offset, length

    tensors = {
        name: TensorPlace(entry["dtype"], tuple(entry["shape"]), entry["offset"])
        for name, entry in raw["tensors"].items()
    }
    return ViewPlace(
        raw["file"], member("picture"), member("keypoints"), member("features"), tensors
    )
