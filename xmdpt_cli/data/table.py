"""The indexes of a whole split in memory: columns, not an object for every view.

52,712 views take about 12 MB this way. Legend: V views (rows), G garments, P pairs. The views of
a garment are neighbouring rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.data.fp8 import SCALE
from xmdpt_cli.data.index import ShardIndex, tensor_bytes

Ints = NDArray[np.int64]

_NONE = -1  # the offset of a tensor that a view lacks


@dataclass(frozen=True)
class Column:
    """One stored tensor of every view: one dtype and shape, an offset in the shard for each."""

    dtype: str  # safetensors' name: F16, BF16, F8_E4M3, ...
    shape: tuple[int, ...]
    offsets: Ints  # (V,)
    scales: Ints | None = None  # (V,), of F8_E4M3: where the float32 (shape[0],) scales lie

    @property
    def bytes(self) -> int:
        return tensor_bytes(self.dtype, self.shape)

    def offset(self, row: int) -> int | None:
        """Where it begins in the view's shard, None if this view lacks it."""
        found = int(self.offsets[row])
        return None if found == _NONE else found


@dataclass(frozen=True)
class Part:
    """What one shard's index says, as lists."""

    keys: list[str]
    counts: list[int]  # views of each garment
    names: list[str]  # of each view
    members: list[list[int]]  # of each view: picture, keypoints, features as offset, length
    tensors: dict[str, tuple[str, tuple[int, ...], list[int]]]  # dtype, shape, offset by view
    pairs: list[tuple[int, int, int]]  # source view, target view (counted in this part), position


def part_of(index: ShardIndex) -> Part:
    """One shard's columns. ValueError if its views differ in the shape of a tensor."""
    part = Part([], [], [], [], {}, [])
    for sample in index.samples:
        rows = {}
        for name, view in sample.views.items():
            rows[name] = row = len(part.names)
            part.names.append(name)
            part.members.append([*view.picture, *view.keypoints, *view.features])
            for tensor, entry in view.tensors.items():
                known = part.tensors.setdefault(tensor, (entry.dtype, entry.shape, []))
                if known[:2] != (entry.dtype, entry.shape):
                    raise ValueError(f"{tensor} differs in shape")
                known[2].extend([_NONE] * (row - len(known[2])))
                known[2].append(entry.offset)
        part.keys.append(sample.key)
        part.counts.append(len(rows))
        part.pairs.extend((rows[s], rows[t], place) for s, t, place in sample.pairs)
    return part


class Table:
    """All views, and the pairs in published order."""

    def __init__(self, parts: Iterable[Part]) -> None:
        """One part a shard, in the manifest's order. ValueError if tensors differ in shape."""
        self.keys: list[str] = []
        self.view_names: list[str] = []  # the few different ones
        known: dict[str, int] = {}
        counts: list[int] = []
        shards: list[Ints] = []
        names: list[Ints] = []
        members: list[Ints] = []
        pairs: list[Ints] = []
        tensors: dict[str, tuple[str, tuple[int, ...], list[Ints]]] = {}
        have: Counter[str] = Counter()  # offsets of each tensor so far
        rows = 0
        for shard, part in enumerate(parts):
            self.keys += part.keys
            counts += part.counts
            shards.append(np.full(len(part.keys), shard))
            names.append(np.array([known.setdefault(n, len(known)) for n in part.names], int))
            members.append(np.array(part.members, np.int64).reshape(-1, 3, 2))
            found = np.array(part.pairs, np.int64).reshape(-1, 3)
            pairs.append(found + (rows, rows, 0))
            for name, (dtype, shape, offsets) in part.tensors.items():
                column = tensors.setdefault(name, (dtype, shape, []))
                if column[:2] != (dtype, shape):
                    raise ValueError(f"{name} differs in shape")
                column[2].append(np.full(rows - have[name], _NONE))
                column[2].append(np.array(offsets, np.int64))
                have[name] = rows + len(offsets)
            rows += len(part.names)
        self.view_names = list(known)
        self.first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)  # (G + 1,) rows
        self.garment = np.repeat(np.arange(len(counts)), counts)  # (V,)
        self.shard = _joined(shards)[self.garment] if counts else np.zeros(0, np.int64)  # (V,)
        self.name = _joined(names).astype(np.int32)  # (V,), into view_names
        self.members = _joined(members).reshape(-1, 3, 2)  # (V, 3, 2), see Part.members
        self.columns = _columns(tensors, rows)
        listed = _joined(pairs).reshape(-1, 3)
        listed = listed[np.argsort(listed[:, 2], kind="stable")]
        self.source, self.target, self.position = np.ascontiguousarray(listed.T)  # (P,) each
        self._garments = {key: number for number, key in enumerate(self.keys)}

    def row(self, key: str, view: str) -> int:
        """The row of a view; KeyError if there is none."""
        garment = self._garments[key]
        for row in range(self.first[garment], self.first[garment + 1]):
            if self.view_names[self.name[row]] == view:
                return row
        raise KeyError((key, view))

    def label(self, row: int) -> tuple[str, str]:
        """(garment key, view name) of a row."""
        return self.keys[self.garment[row]], self.view_names[self.name[row]]


def _joined(arrays: list[Ints]) -> Ints:
    return np.concatenate(arrays) if arrays else np.zeros(0, np.int64)


def _columns(
    tensors: dict[str, tuple[str, tuple[int, ...], list[Ints]]], rows: int
) -> dict[str, Column]:
    """The tensors by name; those that are the scales of another go to that one."""
    offsets = {}
    for name, (_, _, found) in tensors.items():
        whole = np.concatenate(found)
        offsets[name] = np.concatenate([whole, np.full(rows - len(whole), _NONE)])
    columns = {}
    for name, (dtype, shape, _) in sorted(tensors.items()):
        scales = None
        if dtype == "F8_E4M3":
            if tensors[name + SCALE][:2] != ("F32", shape[:1]):
                raise ValueError(f"{name + SCALE} differs in shape")
            scales = offsets[name + SCALE]
        of = tensors.get(name.removesuffix(SCALE))
        if not (name.endswith(SCALE) and of is not None and of[0] == "F8_E4M3"):
            columns[name] = Column(dtype, shape, offsets[name], scales)
    return columns
