"""Whether the members of one item are what the writer of shards would have written."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from annotated_types import Len
from numpy.typing import NDArray
from PIL import Image
from typing_extensions import TypedDict

from xmdpt_cli.data.index import SUFFIXES, Count, SamplePlace, TensorPlace, ViewPlace
from xmdpt_cli.data.shard_reader import parse_keypoints
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.prepare.tar_walk import Member
from xmdpt_cli.utils import records


def _bits(mask: int, dtype: str) -> Callable[[bytes], int]:
    """Counts the numbers whose exponent's bits are all set: they are no numbers."""

    def count(data: bytes) -> int:
        values = np.frombuffer(data, dtype=dtype)
        return int(np.count_nonzero((values & mask) == mask))

    return count


def _floats(dtype: str) -> Callable[[bytes], int]:
    def count(data: bytes) -> int:
        return int(np.count_nonzero(~np.isfinite(np.frombuffer(data, dtype=dtype))))

    return count


# safetensors' names -> bytes a number, and how many of the numbers are not finite. Numpy has no
# bfloat16 and no float8; e4m3 has no infinity, and one pattern of bits that is no number.
NUMBERS: dict[str, tuple[int, Callable[[bytes], int]]] = {
    "F64": (8, _floats("<f8")),
    "F32": (4, _floats("<f4")),
    "F16": (2, _floats("<f2")),
    "BF16": (2, _bits(0x7F80, "<u2")),
    "F8_E4M3": (1, _bits(0x7F, "u1")),
    "F8_E5M2": (1, _bits(0x7C, "u1")),
    **{name: (size, lambda data: 0) for name, size in
       (("I64", 8), ("I32", 4), ("I16", 2), ("I8", 1), ("U8", 1), ("BOOL", 1))},
}  # fmt: skip


class _Pair(TypedDict):
    source: str
    target: str
    position: int


class _Entry(TypedDict):
    """One tensor in the header of a safetensors member."""

    dtype: str
    shape: list[Count]
    data_offsets: Annotated[list[int], Len(2, 2)]


_TABLES = {"files": dict[str, str], "pairs": list[_Pair]}


@dataclass(frozen=True)
class Trouble:
    """Something wrong in an item; ``view`` is empty where it concerns the item."""

    kind: str
    item: str
    view: str
    message: str


@dataclass
class ItemCheck:
    """One item of a shard as its members say; ``place`` is None if they do not tell."""

    key: str
    place: SamplePlace | None = None
    troubles: list[Trouble] = field(default_factory=list)
    keypoints: list[NDArray[np.float64]] = field(default_factory=list)  # sound ones, in pixels

    def add(self, kind: str, message: str, view: str = "") -> None:
        self.troubles.append(Trouble(kind, self.key, view, message))


def check_item(key: str, members: Iterable[Member], resolution: int | None) -> ItemCheck:
    """Read every member of one item: its place for the index, and what is wrong with it.

    ``resolution``: side of the images in pixels, None if not known.
    """
    found = ItemCheck(key)
    views: dict[str, dict[str, Member]] = {}
    tables: dict[str, Any] = {}
    for member in members:
        view, _, suffix = member.name[len(key) + 1 :].partition(".")
        if suffix == "json" and view in ("files", "pairs") and view not in tables:
            try:
                tables[view] = records.parse(_TABLES[view], member.data, member.name)
            except XmdptError as err:
                found.add("member", err.message)
        elif suffix in SUFFIXES and suffix not in views.get(view, {}):
            views.setdefault(view, {})[suffix] = member
        else:
            found.add("member", f"a member that is not expected, or twice: {member.name}")
    files = _files(tables.get("files"), views, found)
    pairs = _pairs(tables.get("pairs"), views, found)
    places = {}
    for view, parts in views.items():
        place = _view(view, files.get(view), parts, resolution, found)
        if place is not None:
            places[view] = place
    if places.keys() == views.keys() and files.keys() == views.keys() and pairs is not None:
        found.place = SamplePlace(key, pairs, places)
    return found


def _files(table: dict[str, str] | None, views: dict[str, Any], found: ItemCheck) -> dict[str, str]:
    if table is None:
        found.add("member", f"no usable {found.key}.files.json")
        return {}
    if table.keys() != views.keys():
        found.add("member", f"files.json names {sorted(table)}, the shard holds {sorted(views)}")
    return table


def _pairs(
    table: list[_Pair] | None, views: dict[str, Any], found: ItemCheck
) -> list[tuple[str, str, int]] | None:
    if table is None:
        found.add("member", f"no usable {found.key}.pairs.json")
        return None
    pairs = [(row["source"], row["target"], row["position"]) for row in table]
    check_pairs(pairs, views, found)
    return pairs


def check_pairs(pairs: list[tuple[str, str, int]], views: Iterable[str], found: ItemCheck) -> None:
    """Pairs name views that are there, and at least one pair uses a view."""
    there = set(views)
    if not pairs:
        found.add("pairs", "an item without pairs")
    for source, target, position in pairs:
        for view in (source, target):
            if view not in there:
                found.add("pairs", f"pair {position} points at a view that is not there", view)
        if source == target:
            found.add("pairs", f"pair {position} goes from a view to itself", source)


def _view(
    view: str,
    file: str | None,
    parts: dict[str, Member],
    resolution: int | None,
    found: ItemCheck,
) -> ViewPlace | None:
    missing = [suffix for suffix in SUFFIXES if suffix not in parts]
    if missing:
        found.add("member", f"without its {', '.join(missing)}", view)
        return None
    png, npy, tensors = (parts[suffix] for suffix in SUFFIXES)
    broken = keypoints_trouble(npy.data, resolution)
    for kind, message in (
        ("image", image_trouble(png.data, resolution)),
        ("keypoints", broken),
    ):
        if message:
            found.add(kind, message, view)
    if not broken:
        found.keypoints.append(np.load(io.BytesIO(npy.data), allow_pickle=False))
    try:
        places = read_tensors(tensors)
    except ValueError as err:
        found.add("tensors", f"broken safetensors ({err})", view)
        return None
    for name, place in places.items():
        size, not_finite = NUMBERS[place.dtype]
        begin = place.offset - tensors.offset
        count = not_finite(tensors.data[begin : begin + math.prod(place.shape) * size])
        if count:
            found.add("not-finite", f"{count} numbers of {name} are not finite", view)
    return ViewPlace(file or "", png.place, npy.place, tensors.place, places)


def read_tensors(member: Member) -> dict[str, TensorPlace]:
    """Where every tensor begins, counted from the tar's beginning; ValueError if damaged."""
    length = int.from_bytes(member.data[:8], "little")
    if 8 + length > len(member.data):
        raise ValueError("its header is longer than the file")
    begin = 8 + length
    places = {}
    try:
        header = records.parse(dict[str, Any], member.data[8:begin], "its header")
        header.pop("__metadata__", None)
        entries = records.check(dict[str, _Entry], header, "its header")
    except XmdptError as err:
        raise ValueError(err.message) from None
    for name, entry in entries.items():
        if entry["dtype"] not in NUMBERS:
            raise ValueError(f"{name} is of an unknown type {entry['dtype']}")
        first, last = entry["data_offsets"]
        shape = tuple(entry["shape"])
        if last - first != math.prod(shape) * NUMBERS[entry["dtype"]][0]:
            raise ValueError(f"{name} has {last - first} bytes for {entry['dtype']} {shape}")
        if first < 0 or begin + last > len(member.data):
            raise ValueError(f"{name} lies beyond the file's end")
        places[name] = TensorPlace(entry["dtype"], shape, member.offset + begin + first)
    return places


def image_trouble(data: bytes, resolution: int | None) -> str:
    """What is wrong with a stored image, empty if nothing."""
    try:
        with warnings.catch_warnings():
            # a damaged header may name a size that Pillow warns about before it fails
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
                shape = (image.height, image.width, len(image.getbands()))
                wanted = (resolution or shape[0], resolution or shape[0], 3)
                if shape != wanted:
                    return f"the image is {shape}, not {wanted}"
                image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as err:
        return f"the image cannot be decoded ({_first_line(err)})"
    return ""


def keypoints_trouble(data: bytes, resolution: int | None) -> str:
    """What is wrong with stored keypoints, empty if nothing."""
    try:
        points = parse_keypoints(data)
    except ValueError as err:
        return f"the keypoints cannot be read ({err})"
    absent = np.isnan(points)
    if np.isinf(points).any() or (absent[:, 0] != absent[:, 1]).any():
        return "a joint is neither there nor absent (both coordinates NaN)"
    # annotated joints may lie a little outside the image, never by a whole image
    if resolution is not None and not absent.all():
        low, high = float(np.nanmin(points)), float(np.nanmax(points))
        if low < -resolution or high > 2 * resolution:
            return f"joints from {low:.0f} to {high:.0f} px in an image of {resolution} px"
    return ""


def _first_line(err: BaseException) -> str:
    return (str(err).splitlines() or [type(err).__name__])[0]
