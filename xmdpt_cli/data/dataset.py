"""One split of a prepared dataset with random access, from files or through range requests."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from xmdpt_cli.data.fp8 import dequantise_tokens
from xmdpt_cli.data.index import FLIP, ShardIndex, index_name, parse_index
from xmdpt_cli.data.manifest import RUN_AGAIN, missing_shard, read_manifest, repair_command
from xmdpt_cli.data.pose_maps import PoseMaps
from xmdpt_cli.data.shard_reader import ShardError, ShardReader, parse_keypoints
from xmdpt_cli.data.table import Column, Ints, Pairs, Table
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.images import ImageArray, decode_image
from xmdpt_cli.pose.keypoints import Keypoints
from xmdpt_cli.storage.stores import Store, open_store
from xmdpt_cli.utils.prefetch import prefetch
from xmdpt_cli.utils.records import COPY_AGAIN
from xmdpt_cli.utils.splits import SPLITS

CONNECTIONS = 8  # at a time to a server; sshd refuses more than 10 that are not logged in yet
_OPEN_FILES = 256  # shards held open; with more, each read opens its file (1,024 is a usual limit)

# read(row, offset, into): fill ``into`` with bytes of the shard of that view (row of the table)
Read = Callable[[int, int, NDArray[np.uint8]], None]

# safetensors' names of the stored dtypes
TORCH_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
}

_SINGLE_THREADED = 32_767  # elements that torch converts without its threads


class PairDataset:
    """One split of a prepared folder or URL; shards are opened or requested when first read.

    Raises XmdptError if ``path`` is no dataset, is unfinished, lacks a shard, or has no pair in
    this split. Behind a URL only the indexes are read: a missing shard shows when it is read.
    ``lenient`` accepts a missing local shard whose index exists, for a run that resumes after it
    skipped that shard (``data.broken_shards``).
    """

    def __init__(
        self, path: str | Path | Store, split: str = "train", lenient: bool = False
    ) -> None:
        self.store = open_store(path)
        self.path = self.store.url
        self.split = split
        if split not in SPLITS:
            raise ConfigError(f"no such split: {split!r}", f"splits are {', '.join(SPLITS)}")
        self.manifest: dict[str, Any] = read_manifest(self.store)
        self.resolution = int(self.manifest["resolution"])
        # behind a URL one request for every shard would take minutes
        if self.store.folder is not None and not lenient:
            missing = missing_shard(self.store, self.manifest)
            if missing is not None:
                raise self._missing(f"{missing} is missing or cut short")
        shards = [shard for shard in self.manifest["shards"] if shard["split"] == split]
        keep_open = len(shards) <= _OPEN_FILES
        self.readers = [
            ShardReader(self.store, str(shard["name"]), int(shard["bytes"]), keep_open)
            for shard in shards
        ]
        self.table = self._read_table(shards)
        self.pairs = Pairs(self.table)
        if not self.pairs:
            others = [s for s in SPLITS if self.manifest["counts"][s]["pairs"]]
            raise XmdptError(
                f"{self.path} has no {split} pairs", f"it has pairs of: {', '.join(others)}"
            )
        self._pose_maps = PoseMaps(self.resolution)

    def _read_table(self, shards: list[dict[str, Any]]) -> Table:
        # behind a URL reading is mostly waiting
        threads = 1 if self.store.folder is not None else CONNECTIONS
        try:
            return Table(prefetch(self._read_index, shards, threads=threads))
        except (ValueError, KeyError) as err:
            raise XmdptError(
                f"the indexes of {self.path} do not fit together: {err}", "run prepare again"
            ) from None

    def _read_index(self, shard: dict[str, Any]) -> ShardIndex:
        name = index_name(str(shard["name"]))
        try:
            data = self.store.read(name)
        except FileNotFoundError:
            raise self._missing(f"{name} is missing") from None
        except OSError as err:
            raise XmdptError(f"cannot read {self.path}/{name}: {err}", RUN_AGAIN) from None
        index = parse_index(data, f"{self.path}/{name}")
        if (index.bytes, index.sha256) != (shard["bytes"], shard["sha256"]):
            raise XmdptError(f"{self.path}/{name} is the index of another shard", COPY_AGAIN)
        return index

    def __len__(self) -> int:
        return len(self.pairs)

    def views(self) -> list[tuple[str, str]]:
        """All (item key, view name) of the split, each once."""
        return [self.table.label(row) for row in range(len(self.table.name))]

    def rows(
        self, pairs: NDArray[np.int64], swap: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The pairs' sources and targets as rows of the table, (N,) each."""
        sources, targets = self.table.source[pairs], self.table.target[pairs]
        return np.where(swap, targets, sources), np.where(swap, sources, targets)

    def names(self, sources: NDArray[np.int64], targets: NDArray[np.int64]) -> list[str]:
        """``PairRef.name`` of pairs of rows."""
        label, rows = self.table.label, zip(sources.tolist(), targets.tolist(), strict=True)
        return [f"{'/'.join(label(source))}>{label(target)[1]}" for source, target in rows]

    def read(self, row: int, offset: int, into: NDArray[np.uint8]) -> None:
        """Bytes of the shard that holds view ``row`` of the table."""
        self.readers[self.table.shard[row]].read(offset, into)

    def member(self, row: int, which: int, read: Read | None = None) -> bytes:
        """A member of view ``row``: 0 the image (PNG), 1 the keypoints (npy)."""
        offset, length = self.table.members[row, which].tolist()
        stored = np.empty(length, np.uint8)
        (read or self.read)(row, offset, stored)
        return stored.tobytes()

    def column(self, name: str) -> Column:
        """Dtype, shape and offsets of a stored tensor; XmdptError if the dataset lacks it."""
        columns = self.table.columns
        if name not in columns:
            raise XmdptError(
                f"{self.path} holds no {name!r} (it holds {', '.join(sorted(columns))})",
                "prepare the dataset again with an encoder that makes it",
            )
        return columns[name]

    def dtype(self, name: str) -> torch.dtype:
        """The dtype that a tensor is loaded with: as stored, but float8 with scales as bfloat16."""
        column = self.column(name)
        return torch.bfloat16 if column.scales is not None else TORCH_DTYPES[column.dtype]

    def read_tensors(
        self,
        name: str,
        rows: Ints,
        flip: NDArray[np.bool_],
        out: torch.Tensor,
        read: Read | None = None,
    ) -> None:
        """Read the tensor ``name`` of these views, mirrored where ``flip``, into ``out``.

        ``out``: contiguous (N, *shape). Each row is one read, straight into place where the dtypes
        are equal. Several threads may read parts of one tensor at the same time.
        """
        read = read or self.read
        column = self.column(name)
        mirrored = self.column(name + FLIP) if flip.any() else column
        offsets = np.where(flip, mirrored.offsets[rows], column.offsets[rows])
        if (mirrored.dtype, mirrored.shape) != (column.dtype, column.shape) or (offsets < 0).any():
            raise XmdptError(f"{self.path}: not every view has the same {name}", "prepare it again")
        starts: list[int] = offsets.tolist()
        if column.scales is not None and mirrored.scales is not None:
            scales = np.where(flip, mirrored.scales[rows], column.scales[rows])
            bits, scale = np.empty(column.shape, np.int8), np.empty(column.shape[0], np.float32)
            for i, row in enumerate(rows.tolist()):
                read(row, starts[i], bits.view(np.uint8).reshape(-1))
                read(row, int(scales[i]), scale.view(np.uint8))
                dequantise_tokens(torch.from_numpy(bits), torch.from_numpy(scale), out[i])
            return
        dtype = TORCH_DTYPES[column.dtype]
        # converted a few rows at a time, so that torch does not wake its own threads
        step = len(rows) if dtype == out.dtype else max(1, _SINGLE_THREADED // out[0].numel())
        for first in range(0, len(rows), step):
            into = out[first : first + step]
            stored = into if dtype == out.dtype else torch.empty(into.shape, dtype=dtype)
            raw = stored.view(torch.uint8).numpy().reshape(len(into), -1)
            for i, row in enumerate(rows[first : first + step].tolist()):
                read(row, starts[first + i], raw[i])
            if stored is not into:
                into.copy_(stored)

    def tensor(self, key: str, view: str, name: str) -> torch.Tensor:
        """A copy of one stored tensor, in its stored dtype (float8: as bfloat16)."""
        out = torch.empty(1, *self.column(name).shape, dtype=self.dtype(name))
        row = np.array([self.table.row(key, view)])
        self.read_tensors(name, row, np.zeros(1, np.bool_), out)
        return out[0]

    def image(self, key: str, view: str) -> ImageArray:
        """The prepared image, uint8 RGB (resolution, resolution, 3)."""
        return self.image_of(self.table.row(key, view))

    def image_of(self, row: int) -> ImageArray:
        """``image`` of a row of the table; ShardError if it is damaged (PNG has checksums)."""
        reader = self.readers[self.table.shard[row]]
        name = f"{'.'.join(self.table.label(row))}.png of {reader.path}"
        try:
            return np.asarray(decode_image(self.member(row, 0), name))
        except ShardError:
            raise
        except XmdptError as err:
            raise ShardError(reader.name, err.message, err.hint) from None

    def keypoints(self, key: str, view: str) -> Keypoints:
        """(18, 2), pixels of the prepared image, NaN missing."""
        return self.keypoints_of(self.table.row(key, view))

    def keypoints_of(self, row: int, read: Read | None = None) -> Keypoints:
        """``keypoints`` of a row of the table."""
        try:
            return parse_keypoints(self.member(row, 1, read))
        except ValueError as err:
            reader = self.readers[self.table.shard[row]]
            raise ShardError(
                reader.name, f"{reader.path} holds damaged keypoints ({err})", COPY_AGAIN
            ) from None

    def view(self, key: str, view: str) -> tuple[ImageArray, Keypoints]:
        """Image and keypoints of one view."""
        return self.image(key, view), self.keypoints(key, view)

    def pose_map(self, key: str, view: str, flip: bool = False) -> ImageArray:
        """The pose map of a view (``draw_pose_map``), (resolution, resolution, 3)."""
        return self.pose_map_of(self.table.row(key, view), flip)

    def pose_map_of(self, row: int, flip: bool, read: Read | None = None) -> ImageArray:
        """``pose_map`` of a row of the table, its keypoints read by ``read``."""
        rendered = self._pose_maps.get(row, partial(self.keypoints_of, row, read))
        return rendered[:, ::-1] if flip else rendered

    def _missing(self, what: str) -> XmdptError:
        return XmdptError(f"{self.path}/{what}", repair_command(self.path))
