"""One split of a prepared dataset, read at random by memory map."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from xmdpt_cli.data.index import TensorPlace, ViewPlace, read_index
from xmdpt_cli.data.lists import SPLITS
from xmdpt_cli.data.manifest import missing_shard, read_manifest
from xmdpt_cli.data.pose import Keypoints, draw_pose_map
from xmdpt_cli.data.reader import TORCH_DTYPES, ShardReader
from xmdpt_cli.data.shards import FLIP
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.images import Picture
from xmdpt_cli.stores import open_store

_MAP_CACHE_BYTES = 256 * 2**20  # drawn pose maps kept in memory: 1,365 of them at 256 px


# Batch field -> which view of the pair it comes from, and the stored tensor's name.
FEATURES = {
    "target_moments": ("target", "moments"),
    "source_moments": ("source", "moments"),
    "pose_tokens": ("target", "pose_tokens"),
    "source_tokens": ("source", "source_tokens"),
}


@dataclass(frozen=True)
class PairRef:
    """One listed pair."""

    key: str  # the garment
    source: str  # view
    target: str
    position: int  # in the published list of the split

    def view(self, role: str, swap: bool = False) -> str:
        """The view that is ``"source"`` or ``"target"``."""
        return self.target if (role == "target") != swap else self.source

    def name(self, swap: bool = False) -> str:
        """``WOMEN-Dresses-id_00000002-02/1_front>2_side``: source > target."""
        return f"{self.key}/{self.view('source', swap)}>{self.view('target', swap)}"


class PairDataset:
    """One split of a prepared folder; shards are mapped when first read.

    Raises XmdptError if the folder is no dataset, was interrupted, has lost a shard, or has no
    pair in this split.
    """

    def __init__(self, path: str | Path, split: str = "train") -> None:
        self.store = open_store(path)
        self.path = self.store.url
        self.split = split
        if split not in SPLITS:
            raise ConfigError(f"no such split: {split!r}", f"splits are {', '.join(SPLITS)}")
        self.manifest: dict[str, Any] = read_manifest(self.store)
        self.resolution = int(self.manifest["resolution"])
        lost = missing_shard(self.store, self.manifest)
        if lost is not None:
            raise XmdptError(
                f"{self.path}/{lost} is missing or cut short",
                "run the same prepare command again, it makes what is missing",
            )
        self._views: dict[tuple[str, str], tuple[ShardReader, ViewPlace]] = {}
        self.pairs: list[PairRef] = []
        for shard in self.manifest["shards"]:
            if shard["split"] == split:
                self._read_shard(str(shard["name"]))
        self.pairs.sort(key=lambda pair: pair.position)
        if not self.pairs:
            others = [s for s in SPLITS if self.manifest["counts"][s]["pairs"]]
            raise XmdptError(
                f"{self.path} has no {split} pairs", f"it has pairs of: {', '.join(others)}"
            )
        self._maps: OrderedDict[tuple[str, str], Picture] = OrderedDict()
        self._maps_lock = threading.Lock()

    def _read_shard(self, name: str) -> None:
        index = read_index(self.store, name)
        if index is None:
            raise XmdptError(
                f"the index of {self.path}/{name} is not readable", "run prepare again"
            )
        reader = ShardReader(self.store, name)
        for sample in index.samples:
            for view, place in sample.views.items():
                self._views[sample.key, view] = (reader, place)
            for source, target, position in sample.pairs:
                self.pairs.append(PairRef(sample.key, source, target, position))

    def __len__(self) -> int:
        return len(self.pairs)

    def views(self) -> list[tuple[str, str]]:
        """All (garment key, view name) of the split, each once."""
        return list(self._views)

    def place(self, key: str, view: str, name: str) -> tuple[ShardReader, TensorPlace]:
        """Where a tensor of a view lies; XmdptError if the dataset was prepared without it."""
        reader, place = self._views[key, view]
        if name not in place.tensors:
            raise XmdptError(
                f"{self.path} holds no {name!r} (it holds {', '.join(sorted(place.tensors))})",
                "prepare the dataset again with an encoder that makes it",
            )
        return reader, place.tensors[name]

    def tensor(self, key: str, view: str, name: str) -> torch.Tensor:
        """A copy of one stored tensor, in its stored dtype."""
        reader, place = self.place(key, view, name)
        out = torch.empty(place.shape, dtype=TORCH_DTYPES[place.dtype])
        copy_tensor(out, reader, place)
        return out

    def features(
        self, pair_index: int, swap: bool = False, flip: bool = False
    ) -> dict[str, torch.Tensor]:
        """``target_moments``, ``source_moments`` (float32), ``pose_tokens``, ``source_tokens``."""
        pair = self.pairs[pair_index]
        found = {}
        for field, (role, name) in FEATURES.items():
            view = pair.view(role, swap)
            tensor = self.tensor(pair.key, view, name + (FLIP if flip else ""))
            found[field] = tensor.float() if name == "moments" else tensor
        return found

    def picture(self, key: str, view: str) -> Picture:
        """The prepared picture, (resolution, resolution, 3)."""
        reader, place = self._views[key, view]
        with Image.open(io.BytesIO(reader.member(place.picture))) as image:
            return np.asarray(image.convert("RGB"))

    def keypoints(self, key: str, view: str) -> Keypoints:
        """(18, 2), pixels of the prepared picture, NaN missing."""
        reader, place = self._views[key, view]
        return reader.keypoints(place)

    def view(self, key: str, view: str) -> tuple[Picture, Keypoints]:
        """Picture and keypoints of one view."""
        return self.picture(key, view), self.keypoints(key, view)

    def pose_map(self, key: str, view: str, flip: bool = False) -> Picture:
        """The pose map of one view (``draw_pose_map``), (resolution, resolution, 3); read only."""
        wanted = (key, view)
        with self._maps_lock:
            drawn = self._maps.get(wanted)
            if drawn is not None:
                self._maps.move_to_end(wanted)
        if drawn is None:
            drawn = draw_pose_map(self.keypoints(key, view), self.resolution)
            with self._maps_lock:
                self._maps[wanted] = drawn
                while len(self._maps) * drawn.nbytes > _MAP_CACHE_BYTES:
                    self._maps.popitem(last=False)
        return drawn[:, ::-1] if flip else drawn


def copy_tensor(out: torch.Tensor, reader: ShardReader, place: TensorPlace) -> None:
    """Copy one stored tensor into ``out`` (same shape), converting if the dtypes differ."""
    stored = reader.array(place)
    dtype = TORCH_DTYPES[place.dtype]
    if out.shape != place.shape:
        raise XmdptError(f"{reader.path}: tensors differ in shape", "prepare the dataset again")
    if dtype == torch.bfloat16:
        if out.dtype == dtype:  # the bits as they are: numpy has no bfloat16
            out.view(torch.int16).numpy()[...] = stored.view(np.int16)
        else:
            out.copy_(torch.from_numpy(stored.view(np.int16).copy()).view(dtype))
    else:
        out.numpy()[...] = stored
