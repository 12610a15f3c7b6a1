"""The sidecar of a shard: where every member, and every tensor in it, begins."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xmdpt_cli.files import write_text

INDEX_VERSION = 1


@dataclass(frozen=True)
class TensorPlace:
    """One tensor in a shard: ``offset`` counts bytes from the beginning of the tar."""

    dtype: str  # safetensors' name: F16, BF16, ...
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class ViewPlace:
    """One view's members as (offset, length) in the tar, and its tensors by name."""

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


def index_path(shard: Path) -> Path:
    """``train-000000.tar`` -> ``train-000000.index.json``."""
    return shard.with_suffix(".index.json")


def write_json(path: Path, content: Any) -> None:
    """Compact JSON; a file that is there is whole."""
    write_text(path, json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n")


def write_index(shard: Path, index: ShardIndex) -> None:
    """Write the sidecar, the last step of a shard: from then on it counts as whole."""
    write_json(index_path(shard), {"version": INDEX_VERSION, **asdict(index)})


def read_index(shard: Path) -> ShardIndex | None:
    """The index of a whole shard; None if the shard or its index is missing or cut short."""
    try:
        raw = json.loads(index_path(shard).read_text(encoding="utf-8"))
        if raw.pop("version") != INDEX_VERSION or shard.stat().st_size != raw["bytes"]:
            return None
    except (OSError, ValueError, KeyError, AttributeError):
        return None
    raw["samples"] = [
        SamplePlace(
            sample["key"],
            [(s, t, p) for s, t, p in sample["pairs"]],
            {view: _view_place(place) for view, place in sample["views"].items()},
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
    return ViewPlace(member("picture"), member("keypoints"), member("features"), tensors)
