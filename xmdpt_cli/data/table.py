"""The indexes of a split in memory, as columns instead of one object per view.

52,712 views take about 12 MB. Legend: V views (rows), G items, P pairs. The views of an item
are neighbouring rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.data.fp8 import SCALE
from xmdpt_cli.data.index import ShardIndex, TensorPlace, tensor_bytes

Ints = NDArray[np.int64]

_NONE = -1  # the offset of a tensor that a view lacks


@dataclass(frozen=True)
class Column:
    """One stored tensor of every view: one dtype and shape, one offset in the shard per view."""

    dtype: str  # safetensors' name: F16, BF16, F8_E4M3, ...
    shape: tuple[int, ...]
    offsets: Ints  # (V,), -1 where a view lacks it
    scales: Ints | None = None  # (V,), of F8_E4M3: where the float32 (shape[0],) scales lie

    @property
    def bytes(self) -> int:
        return tensor_bytes(self.dtype, self.shape)


class Table:
    """All views of a split, and its pairs in published order."""

    def __init__(self, indexes: Iterable[ShardIndex]) -> None:
        """One index per shard, in the manifest's order. ValueError if tensors differ in shape."""
        self.keys: list[str] = []  # (G,)
        view_names: dict[str, int] = {}
        shard_of: list[int] = []  # of each item
        counts: list[int] = []  # views of each item
        names: list[Ints] = []
        members: list[Ints] = []
        pairs: list[Ints] = []
        tensors = _TensorOffsets()
        rows = 0
        for shard, index in enumerate(indexes):
            places = [view for sample in index.samples for view in sample.views.values()]
            for sample in index.samples:
                row_of = {name: rows + i for i, name in enumerate(sample.views)}
                names.append(
                    np.array([view_names.setdefault(v, len(view_names)) for v in row_of], np.int64)
                )
                listed = [(row_of[s], row_of[t], position) for s, t, position in sample.pairs]
                pairs.append(np.array(listed, np.int64).reshape(-1, 3))
                self.keys.append(sample.key)
                counts.append(len(row_of))
                shard_of.append(shard)
                rows += len(row_of)
            ranges = [(*place.image, *place.keypoints, *place.features) for place in places]
            members.append(np.array(ranges, np.int64).reshape(-1, 3, 2))
            tensors.add(rows - len(places), [place.tensors for place in places])
        self.view_names = list(view_names)
        self.first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)  # (G + 1,) rows
        self.item = np.repeat(np.arange(len(counts)), counts)  # (V,)
        self.shard = np.array(shard_of, np.int64)[self.item]  # (V,)
        self.name = _joined(names).astype(np.int32)  # (V,), into view_names
        # (V, 3, 2): image, keypoints, features as offset and length
        self.members = _joined(members).reshape(-1, 3, 2)
        self.columns = tensors.columns(rows)
        published = _joined(pairs).reshape(-1, 3)
        published = published[np.argsort(published[:, 2], kind="stable")]
        self.source, self.target, self.position = np.ascontiguousarray(published.T)  # (P,) each
        self._items = {key: number for number, key in enumerate(self.keys)}

    def row(self, key: str, view: str) -> int:
        """The row of a view; KeyError if there is none."""
        item = self._items[key]
        for row in range(self.first[item], self.first[item + 1]):
            if self.view_names[self.name[row]] == view:
                return row
        raise KeyError((key, view))

    def label(self, row: int) -> tuple[str, str]:
        """(item key, view name) of a row."""
        return self.keys[self.item[row]], self.view_names[self.name[row]]


class _TensorOffsets:
    """Collects the offsets of every tensor, shard by shard."""

    def __init__(self) -> None:
        self._kinds: dict[str, tuple[str, tuple[int, ...]]] = {}  # name -> dtype, shape
        self._parts: dict[str, list[tuple[Ints, Ints]]] = {}  # name -> rows and their offsets

    def add(self, first: int, views: list[dict[str, TensorPlace]]) -> None:
        """The views of one shard, whose rows start at ``first``."""
        found: dict[str, tuple[list[int], list[int]]] = {}
        for row, tensors in enumerate(views, first):
            for name, place in tensors.items():
                kind = (place.dtype, place.shape)
                if self._kinds.setdefault(name, kind) != kind:
                    raise ValueError(f"{name} differs in shape")
                rows, offsets = found.setdefault(name, ([], []))
                rows.append(row)
                offsets.append(place.offset)
        for name, (rows, offsets) in found.items():
            part = (np.array(rows, np.int64), np.array(offsets, np.int64))
            self._parts.setdefault(name, []).append(part)

    def columns(self, rows: int) -> dict[str, Column]:
        """The tensors by name; float8 tensors and their scales become one column."""
        filled = {name: np.full(rows, _NONE, np.int64) for name in self._parts}
        for name, parts in self._parts.items():
            for where, offsets in parts:
                filled[name][where] = offsets
        scaled = {name + SCALE: name for name, kind in self._kinds.items() if kind[0] == "F8_E4M3"}
        columns = {}
        for name, (dtype, shape) in sorted(self._kinds.items()):
            scales = None
            if dtype == "F8_E4M3":
                if self._kinds[name + SCALE] != ("F32", shape[:1]):
                    raise ValueError(f"{name + SCALE} differs in shape")
                scales = filled[name + SCALE]
            if name not in scaled:
                columns[name] = Column(dtype, shape, filled[name], scales)
        return columns


@dataclass(frozen=True)
class PairRef:
    """One listed pair."""

    key: str  # the item
    source: str  # view
    target: str
    position: int  # in the published list of the split

    def view(self, role: str, swap: bool = False) -> str:
        """The view that is ``"source"`` or ``"target"``."""
        return self.target if (role == "target") != swap else self.source

    def name(self, swap: bool = False) -> str:
        """``WOMEN-Dresses-id_00000002-02/1_front>2_side``: source > target."""
        return f"{self.key}/{self.view('source', swap)}>{self.view('target', swap)}"


class Pairs(Sequence[PairRef]):
    """The pairs of a table in published order, each made when it is accessed."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def __len__(self) -> int:
        return len(self._table.position)

    @overload
    def __getitem__(self, index: int) -> PairRef: ...
    @overload
    def __getitem__(self, index: slice) -> list[PairRef]: ...
    def __getitem__(self, index: int | slice) -> PairRef | list[PairRef]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        table = self._table
        key, source = table.label(int(table.source[index]))
        _, target = table.label(int(table.target[index]))
        return PairRef(key, source, target, int(table.position[index]))


def _joined(arrays: list[Ints]) -> Ints:
    return np.concatenate(arrays) if arrays else np.zeros(0, np.int64)
