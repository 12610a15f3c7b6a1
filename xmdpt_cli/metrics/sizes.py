"""Sizes of images before a protocol resizes them, and notes on what they mean for the values.

Published numbers are computed from known sizes: photographs that are larger than the compared size,
predictions of the published size. A protocol resizes anything else too; the notes state with counts
which values are not comparable.
"""

from __future__ import annotations

from collections.abc import Mapping

from xmdpt_cli.metrics.protocols import Protocol

Size = tuple[int, int]  # (H, W)
Sizes = Mapping[str, Mapping[Size, int]]  # role -> size -> images

GENERATED, GROUND_TRUTH, SOURCE, REFERENCE = (
    "generated",
    "ground-truth",
    "copy-source",
    "reference-set",
)
_WORDS = {
    GENERATED: "generated images",
    GROUND_TRUTH: "ground truths",
    SOURCE: "source images",
    REFERENCE: "images of the reference set",
}
_SHAPE = 0.02  # 750 x 1101 px has 0.9 % less width for its height than 176 x 256
_NAMED = 3  # sizes that a note names
NOT_PUBLISHED = "the values do not compare with published ones"


def named(size: Size) -> str:
    """``176x256``: width, then height."""
    return f"{size[1]}x{size[0]}"


def plain(sizes: Sizes) -> dict[str, dict[str, int]]:
    """JSON-ready: role -> ``WIDTHxHEIGHT`` -> images."""
    return {
        role: {named(size): count for size, count in sorted(found.items())}
        for role, found in sizes.items()
        if found
    }


def size_notes(protocol: Protocol, sizes: Sizes) -> list[str]:
    """A sentence for each kind of unexpected size."""
    if protocol.size is None:
        mixed = [
            f"{_WORDS[role]} ({_listed(found)})" for role, found in sizes.items() if len(found) > 1
        ]
        several = "are of several sizes, and native measures them together as they are"
        return [f"{', '.join(mixed)} {several}"] if mixed else []
    notes: dict[str, list[str]] = {}  # note -> the images that it concerns
    for role, found in sizes.items():
        by_note: dict[str, dict[Size, int]] = {}
        for size, count in found.items():
            by_note.setdefault(_unknown(protocol, role, size), {})[size] = count
        by_note.pop("", None)
        for text, some in by_note.items():
            notes.setdefault(text, []).append(_counted(role, some, found))
    return [f"{', '.join(images)} {text}" for text, images in notes.items()]


def _unknown(protocol: Protocol, role: str, size: Size) -> str:
    """The note for images of this size; "" if the protocol expects it."""
    assert protocol.size is not None
    (height, width), name = protocol.size, protocol.name
    compared, square = named(protocol.size), size[0] == size[1]
    if size[0] < height or size[1] < width:
        return (
            f"are smaller than {compared}, the size that {name} compares, and were enlarged: "
            f"{NOT_PUBLISHED}"
        )
    if not square and abs(size[1] / size[0] * height / width - 1) > _SHAPE:
        return (
            f"have neither the shape of {compared} nor are square, and {name} squeezed them to "
            f"that shape: {NOT_PUBLISHED}"
        )
    if protocol.square is None:
        # predictions are squares in most papers; photographs come at their full resolution
        if square and role != GENERATED:
            return f"are squares, and {name} starts from the photographs: {NOT_PUBLISHED}"
    elif square and size[0] > height:
        return (
            f"are squares, and {name} starts from {height}x{height}: they were first resized to "
            f"that: {NOT_PUBLISHED}"
        )
    elif size == protocol.size:
        also = ", and enlarged to it for SSIM, PSNR, L1 and MAE" if protocol.pixelwise else ""
        return (
            f"are {compared} already, and {name} starts from {height}x{height}: they were taken as "
            f"they are{also}: {NOT_PUBLISHED}"
        )
    return ""


def _counted(role: str, some: Mapping[Size, int], found: Mapping[Size, int]) -> str:
    """``2 of 9 ground truths (10x10: 2)``."""
    count, total = sum(some.values()), sum(found.values())
    share = f"all {total:,}" if count == total else f"{count:,} of {total:,}"
    return f"{share} {_WORDS[role]} ({_listed(some)})"


def _listed(found: Mapping[Size, int]) -> str:
    """``176x256: 5, 10x10: 1``, the most frequent first."""
    ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    words = [f"{named(size)}: {count:,}" for size, count in ordered[:_NAMED]]
    rest = len(ordered) - _NAMED
    return ", ".join(words) + (f", {rest:,} more sizes" if rest > 0 else "")
