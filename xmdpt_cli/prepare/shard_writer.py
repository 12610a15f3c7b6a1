"""Writes WebDataset shards, and for each an index with the offsets of its members and tensors.

A sample is one item. For every view it holds ``KEY.VIEW.png`` (the prepared image),
``KEY.VIEW.keypoints.npy`` (float64 (18, 2), pixels, NaN missing) and ``KEY.VIEW.safetensors``
(features), and once ``KEY.files.json`` (view -> the image it was made from) and ``KEY.pairs.json``.
The same content gives the same bytes: no times, no owners, sorted members.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tarfile import BLOCKSIZE
from types import TracebackType
from typing import Any

import numpy as np
import torch
import webdataset as wds
from numpy.typing import NDArray
from safetensors.torch import save as save_safetensors

from xmdpt_cli.data.index import SamplePlace, ShardIndex, ViewPlace, tensor_places, write_index
from xmdpt_cli.files import sha256_of
from xmdpt_cli.storage.stores import Store


@dataclass
class ViewData:
    """One view to be written."""

    file: str  # the image it was made from, below the dataset root
    png: bytes
    keypoints: NDArray[np.float64]  # (18, 2), pixels of the prepared size, NaN missing
    features: dict[str, torch.Tensor] = field(default_factory=dict)  # without a batch axis


class ShardWriter:
    """Writes one shard. The tar and its index exist only after ``finish``.

    As a context manager it removes the unfinished file if the block raises. ``verify``: the file is
    read back from the disk and compared before it is renamed to its final name.
    """

    def __init__(self, store: Store, name: str, split: str, *, verify: bool = False) -> None:
        self.store, self.name, self.split, self._verify = store, name, split, verify
        self.place = f"{store.url}/{name}"
        self.samples: list[SamplePlace] = []
        self._part = store.scratch(name)
        self._file = _HashedFile(self._part)
        # members are bytes already; no owner and no time, so that equal content gives equal bytes
        self._tar = wds.TarWriter(
            self._file, user="", group="", mode=0o644, mtime=0, encoder=False, compress=False
        )

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for stream in (self._tar, self._file):
            with suppress(OSError):  # what is buffered may find the disk full again
                stream.close()
        if kind is not None:
            self._part.unlink(missing_ok=True)

    def add(self, key: str, views: dict[str, ViewData], pairs: list[tuple[str, str, int]]) -> None:
        """Append one item. Keys and view names hold no dot: WebDataset splits there."""
        assert "." not in key, key
        assert not any("." in view for view in views), views
        rows = [{"source": s, "target": t, "position": p} for s, t, p in pairs]
        members = {
            "files.json": json.dumps({view: views[view].file for view in sorted(views)}).encode(),
            "pairs.json": json.dumps(rows).encode(),
        }
        for view, data in views.items():
            points = io.BytesIO()
            np.save(points, np.ascontiguousarray(data.keypoints, dtype="<f8"))
            features = {name: tensor.contiguous() for name, tensor in data.features.items()}
            members[f"{view}.keypoints.npy"] = points.getvalue()
            members[f"{view}.png"] = data.png
            members[f"{view}.safetensors"] = save_safetensors(features)
        offset = int(self._tar.tarstream.offset)
        self._tar.write({"__key__": key, **members})
        ranges = {}
        for name in sorted(members):  # as TarWriter writes them
            ranges[name] = (offset + BLOCKSIZE, len(members[name]))
            offset += BLOCKSIZE + -(-len(members[name]) // BLOCKSIZE) * BLOCKSIZE
        assert offset == self._tar.tarstream.offset
        places = {}
        for view in sorted(views):
            stored = f"{view}.safetensors"
            places[view] = ViewPlace(
                views[view].file,
                ranges[f"{view}.png"],
                ranges[f"{view}.keypoints.npy"],
                ranges[stored],
                tensor_places(members[stored], ranges[stored][0]),
            )
        self.samples.append(SamplePlace(key, list(pairs), places))

    def finish(self, skipped: list[tuple[str, str]]) -> ShardIndex:
        """Close the tar, rename it to its final name, and write its index."""
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        sha256 = self._file.sha256.hexdigest()
        if self._verify and sha256_of(self._part, from_disk=True) != sha256:
            raise OSError(f"{self._part} does not hold what was written")
        size = self._part.stat().st_size
        self.store.put(self._part, self.name)
        index = ShardIndex(self.name, self.split, size, sha256, self.samples, skipped)
        write_index(self.store, index)
        return index


class _HashedFile(io.BufferedWriter):
    """A new file, and the SHA-256 of what is written to it."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path, "w"))
        self.sha256 = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        return super().write(data)
