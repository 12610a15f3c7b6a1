"""Writing WebDataset tar shards that are also read at random (see ``reader``).

A sample is one garment; its members are, for every view, ``KEY.VIEW.png`` (the picture as
prepared), ``KEY.VIEW.keypoints.npy`` (float64 (18, 2), pixels, NaN missing) and
``KEY.VIEW.safetensors`` (features), and once ``KEY.files.json`` (view -> the picture it was made
from) and ``KEY.pairs.json``. A tar is a flat file, so a
sidecar ``train-000000.index.json`` holds where every member, and every tensor in it, begins.
Same content, same bytes: no times, no owners, sorted members.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save as save_safetensors

from xmdpt_cli.data.index import (
    SamplePlace,
    ShardIndex,
    TensorPlace,
    ViewPlace,
    index_name,
    read_index,
    write_index,
    write_json,
)
from xmdpt_cli.files import sha256_of
from xmdpt_cli.storage.stores import Store

__all__ = [
    "SamplePlace",
    "ShardIndex",
    "ShardWriter",
    "TensorPlace",
    "ViewData",
    "ViewPlace",
    "index_name",
    "read_index",
    "write_json",
]

_BLOCK = 512  # tar headers and data begin at multiples of this (POSIX ustar)
_RECORD = 20 * _BLOCK  # and a tar ends at a multiple of this


@dataclass
class ViewData:
    """One view to be written."""

    file: str  # the picture it was made from, below the dataset root
    png: bytes
    keypoints: NDArray[np.float64]  # (18, 2), pixels of the prepared size, NaN missing
    features: dict[str, torch.Tensor] = field(default_factory=dict)  # without a batch axis


class ShardWriter:
    """Writes one shard; after ``finish`` the tar and its index are there, before that neither.

    As a context manager it removes the unfinished file if the block fails. ``verify``: it is read
    back from the disk and compared before it gets its name.
    """

    def __init__(self, store: Store, name: str, split: str, *, verify: bool = False) -> None:
        self.store, self.name, self.split, self._verify = store, name, split, verify
        self.samples: list[SamplePlace] = []
        self._part = store.scratch(name)
        self._stream = self._part.open("wb")
        self._hash = hashlib.sha256()
        self._offset = 0

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._stream.close()
            return
        with suppress(OSError):  # what is buffered may find the disk full again
            self._stream.close()
        self._part.unlink(missing_ok=True)

    def add(self, key: str, views: dict[str, ViewData], pairs: list[tuple[str, str, int]]) -> None:
        """Append one garment. Keys and view names hold no dot: WebDataset splits there."""
        assert "." not in key, key
        assert not any("." in view for view in views), views
        places = {}
        for view in sorted(views):
            data = views[view]
            stem = f"{key}.{view}"
            points = io.BytesIO()
            np.save(points, np.ascontiguousarray(data.keypoints, dtype="<f8"))
            features = save_safetensors({k: t.contiguous() for k, t in data.features.items()})
            keypoints = self._member(f"{stem}.keypoints.npy", points.getvalue())
            picture = self._member(f"{stem}.png", data.png)
            stored = self._member(f"{stem}.safetensors", features)
            tensors = _tensor_places(features, stored[0])
            places[view] = ViewPlace(data.file, picture, keypoints, stored, tensors)
        files = {view: views[view].file for view in sorted(views)}
        self._member(f"{key}.files.json", json.dumps(files).encode())
        rows = [{"source": s, "target": t, "position": p} for s, t, p in pairs]
        self._member(f"{key}.pairs.json", json.dumps(rows).encode())
        self.samples.append(SamplePlace(key, list(pairs), places))

    def _member(self, name: str, data: bytes) -> tuple[int, int]:
        """Append one file: (offset, length) of its content."""
        header = _tar_header(name, len(data))
        self._write(header)
        place = (self._offset, len(data))
        self._write(data)
        self._write(bytes(-len(data) % _BLOCK))
        return place

    def _write(self, data: bytes) -> None:
        self._stream.write(data)
        self._hash.update(data)
        self._offset += len(data)

    def finish(self, skipped: list[tuple[str, str]]) -> ShardIndex:
        """End the tar, give it its name, write its index."""
        self._write(bytes(2 * _BLOCK))
        self._write(bytes(-self._offset % _RECORD))
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        if self._verify and sha256_of(self._part, from_disk=True) != self._hash.hexdigest():
            raise OSError(f"{self._part} does not hold what was written")
        self.store.put(self._part, self.name)
        index = ShardIndex(
            self.name,
            self.split,
            self._offset,
            self._hash.hexdigest(),
            self.samples,
            skipped,
        )
        write_index(self.store, index)
        return index


def _tar_header(name: str, size: int) -> bytes:
    """One block of POSIX ustar, to the byte what ``tarfile`` writes, in a tenth of its time."""
    encoded = name.encode()
    if len(encoded) >= 100 or size >= 8**11:  # what needs more than the plain fields
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, 0o644
        header = info.tobuf(format=tarfile.USTAR_FORMAT)
        assert len(header) == _BLOCK
        return header
    head = bytearray(_PLAIN_HEADER)
    head[: len(encoded)] = encoded
    head[124:135] = b"%011o" % size
    head[148:154] = b"%06o" % sum(head)  # its own field counts as spaces
    head[154] = 0
    return bytes(head)


def _plain_header() -> bytes:
    """The header of an empty, nameless file of nobody, its checksum as spaces."""
    info = tarfile.TarInfo("")
    info.mode = 0o644
    header = bytearray(info.tobuf(format=tarfile.USTAR_FORMAT))
    header[148:156] = b" " * 8
    return bytes(header)


_PLAIN_HEADER = _plain_header()


def _tensor_places(stored: bytes, offset: int) -> dict[str, TensorPlace]:
    """Read a safetensors header: u64 length, JSON, then the data the offsets count from."""
    length = int.from_bytes(stored[:8], "little")
    header = json.loads(stored[8 : 8 + length])
    return {
        name: TensorPlace(
            entry["dtype"], tuple(entry["shape"]), offset + 8 + length + entry["data_offsets"][0]
        )
        for name, entry in header.items()
        if name != "__metadata__"
    }
