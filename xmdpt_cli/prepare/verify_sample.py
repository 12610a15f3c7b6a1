"""Verify the members of one item: names, image, keypoints, tensors, pairs."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from typing_extensions import TypedDict

from xmdpt_cli.data.index import SUFFIXES, SamplePlace, ViewPlace, tensor_places
from xmdpt_cli.data.shard_reader import parse_keypoints
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.prepare.findings import Finding
from xmdpt_cli.utils import records

# Floating-point dtypes as unsigned integers, and the bits of their exponent: a value is not finite
# if all of them are set (of F8_E4M3, which has no infinity, the bits of its only NaN).
_EXPONENTS = {
    "F64": ("<u8", 0x7FF << 52), "F32": ("<u4", 0xFF << 23), "F16": ("<u2", 0x1F << 10),
    "BF16": ("<u2", 0xFF << 7), "F8_E4M3": ("u1", 0x7F), "F8_E5M2": ("u1", 0x7C),
}  # fmt: skip


def count_not_finite(data: bytes, dtype: str) -> int:
    """How many of the numbers are NaN or infinite; ``dtype`` is safetensors' name of theirs."""
    if dtype not in _EXPONENTS:
        return 0
    unsigned, mask = _EXPONENTS[dtype]
    bits = np.frombuffer(data, unsigned)
    return int(np.count_nonzero((bits & bits.dtype.type(mask)) == mask))


@dataclass(frozen=True)
class Member:
    """One file of a tar; ``offset`` is where its content begins."""

    name: str
    offset: int
    data: bytes

    @property
    def place(self) -> tuple[int, int]:
        return self.offset, len(self.data)


class _Pair(TypedDict):
    source: str
    target: str
    position: int


_TABLES = {"files": dict[str, str], "pairs": list[_Pair]}


@dataclass
class ItemCheck:
    """What was found in one item of a shard; findings lack the hint and the shard's name."""

    key: str
    place: SamplePlace | None = None  # None if the members do not determine it
    findings: list[Finding] = field(default_factory=list)
    keypoints: list[NDArray[np.float64]] = field(default_factory=list)  # the valid ones, in pixels

    def add(self, kind: str, message: str, view: str = "") -> None:
        self.findings.append(Finding(kind, message, item=self.key, view=view))


def check_item(key: str, members: Iterable[Member], resolution: int | None) -> ItemCheck:
    """Verify every member of one item, and find its place for the index.

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
            found.add("member", f"an unexpected or repeated member: {member.name}")
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
    """Verify that there are pairs, and that each is of two views of the item."""
    existing = set(views)
    if not pairs:
        found.add("pairs", "an item without pairs")
    for source, target, position in pairs:
        for view in (source, target):
            if view not in existing:
                found.add("pairs", f"pair {position} names a view that does not exist", view)
        if source == target:
            found.add("pairs", f"pair {position} is of a view and itself", source)


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
    defect = image_defect(png.data, resolution)
    if defect:
        found.add("image", defect, view)
    defect = keypoints_defect(npy.data, resolution)
    if defect:
        found.add("keypoints", defect, view)
    else:
        found.keypoints.append(parse_keypoints(npy.data))
    try:
        places = tensor_places(tensors.data, tensors.offset)
    except ValueError as err:
        found.add("tensors", f"broken safetensors ({err})", view)
        return None
    for name, place in places.items():
        begin = place.offset - tensors.offset
        count = count_not_finite(tensors.data[begin : begin + place.bytes], place.dtype)
        if count:
            found.add("not-finite", f"{count} numbers of {name} are not finite", view)
    return ViewPlace(file or "", png.place, npy.place, tensors.place, places)


def image_defect(data: bytes, resolution: int | None) -> str:
    """What is wrong with a stored image, empty if nothing."""
    try:
        with warnings.catch_warnings():
            # a damaged header may state a size that Pillow warns about before it fails
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


def keypoints_defect(data: bytes, resolution: int | None) -> str:
    """What is wrong with stored keypoints, empty if nothing."""
    try:
        points = parse_keypoints(data)
    except ValueError as err:
        return f"the keypoints cannot be read ({err})"
    absent = np.isnan(points)
    if np.isinf(points).any() or (absent[:, 0] != absent[:, 1]).any():
        return "a joint has one NaN or infinite coordinate (a missing joint has two NaN)"
    # annotated joints may lie a little outside the image
    if resolution is not None and not absent.all():
        low, high = float(np.nanmin(points)), float(np.nanmax(points))
        if low < -resolution or high > 2 * resolution:
            return f"joints from {low:.0f} to {high:.0f} px in an image of {resolution} px"
    return ""


def _first_line(err: BaseException) -> str:
    return (str(err).splitlines() or [type(err).__name__])[0]
