"""The index of a shard, a file beside it: where every member, and every tensor in it, begins."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Len
from typing_extensions import TypedDict

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.storage.stores import Store
from xmdpt_cli.utils import records
from xmdpt_cli.utils.records import RecordError
from xmdpt_cli.utils.safe_names import is_plain

Count = Annotated[int, Ge(0)]
Range = tuple[Count, Count]  # (offset, length) in bytes
# safetensors' names; prepare writes the first five
DType = Literal[
    "F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I64", "I32", "I16", "I8", "U8", "BOOL"
]
_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2}  # others: 1

SUFFIXES = ("png", "keypoints.npy", "safetensors")  # of a view's members
FLIP = "_flip"  # suffix of a tensor that was computed from the mirrored images


@dataclass(frozen=True)
class TensorPlace:
    """One tensor in a shard."""

    dtype: DType
    shape: tuple[Count, ...]
    offset: Count  # bytes from the beginning of the tar

    @property
    def bytes(self) -> int:
        return tensor_bytes(self.dtype, self.shape)


class _Entry(TypedDict):
    """One tensor in the header of a safetensors member."""

    dtype: DType
    shape: list[Count]
    data_offsets: Annotated[list[int], Len(2, 2)]


@dataclass(frozen=True)
class ViewPlace:
    """One view's members as (offset, length) in the tar, and its tensors by name."""

    file: str  # the image it was made from, below the dataset root
    image: Range
    keypoints: Range
    features: Range
    tensors: dict[str, TensorPlace]


@dataclass(frozen=True)
class SamplePlace:
    """One item: pairs are (source view, target view, position in the published list)."""

    key: str
    pairs: list[tuple[str, str, int]]
    views: dict[str, ViewPlace]


@dataclass(frozen=True)
class ShardIndex:
    """The index of one complete shard."""

    name: str  # train-000000.tar
    split: str
    bytes: Count
    sha256: str
    samples: list[SamplePlace]
    skipped: list[tuple[str, str]]  # (file, reason): images left out of this shard
    version: Literal[2] = 2

    def __post_init__(self) -> None:
        for sample in self.samples:
            for view in sample.views.values():
                ranges = [view.image, view.keypoints, view.features]
                ranges += [(tensor.offset, tensor.bytes) for tensor in view.tensors.values()]
                if any(offset + length > self.bytes for offset, length in ranges):
                    raise ValueError(f"members within the {self.bytes} bytes of the shard")


def tensor_places(data: bytes, offset: int) -> dict[str, TensorPlace]:
    """The places of all tensors of a safetensors file that begins at ``offset`` of the tar.

    The format: length of the header (u64), the header (JSON), then the numbers, from which the
    header's offsets count. Raises ValueError if the file is damaged.
    """
    length = int.from_bytes(data[:8], "little")
    if 8 + length > len(data):
        raise ValueError("its header is longer than the file")
    begin = 8 + length
    places = {}
    try:
        header = records.parse(dict[str, Any], data[8:begin], "its header")
        header.pop("__metadata__", None)
        entries = records.check(dict[str, _Entry], header, "its header")
    except XmdptError as err:
        raise ValueError(err.message) from None
    for name, entry in entries.items():
        first, last = entry["data_offsets"]
        shape = tuple(entry["shape"])
        if last - first != tensor_bytes(entry["dtype"], shape):
            raise ValueError(f"{name} has {last - first} bytes for {entry['dtype']} {shape}")
        if first < 0 or begin + last > len(data):
            raise ValueError(f"{name} lies beyond the file's end")
        places[name] = TensorPlace(entry["dtype"], shape, offset + begin + first)
    return places


def tensor_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """How many bytes a stored tensor takes."""
    return math.prod(shape) * _BYTES.get(dtype, 1)


def index_name(shard: str) -> str:
    """``train-000000.tar`` -> ``train-000000.index.json``."""
    return shard.removesuffix(".tar") + ".index.json"


def write_json(store: Store, name: str, content: Any) -> None:
    """Write compact JSON, completely or not at all."""
    # dataclasses become objects; dataclasses.asdict would copy every number first
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), default=vars) + "\n"
    store.write(name, text.encode(errors="replace"))  # names that are not UTF-8


def write_index(store: Store, index: ShardIndex) -> None:
    """Write the index, the last step of a shard: it marks the shard as complete."""
    version = index.version  # first in the file
    write_json(store, index_name(index.name), {"version": version, **vars(index)})


def read_index(store: Store, shard: str) -> ShardIndex | None:
    """The index of a complete shard; None if the shard or its index is missing or cut short."""
    try:
        index = parse_index(store.read(index_name(shard)), index_name(shard))
    except (OSError, RecordError):
        return None
    # under another name it would later be written to, or removed
    return index if (store.size(shard), shard) == (index.bytes, index.name) else None


def parse_index(data: bytes, where: object) -> ShardIndex:
    """An index file's content; errors call it ``where``.

    Raises RecordError if it is no index, or if an item or view has a name that prepare does not
    write: files of generated images are named after it.
    """
    index: ShardIndex = records.parse(ShardIndex, data, where)
    for sample in index.samples:
        for name in (sample.key, *sample.views):
            if not is_plain(name) or name.startswith("."):
                raise RecordError(f"{where} is damaged: {name!a} names no item or view")
    return index
