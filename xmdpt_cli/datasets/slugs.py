"""Names that any folder or file may have -> names that fit into a shard's members."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from functools import lru_cache

# A member is KEY.VIEW.keypoints.npy and a tar header holds 100 bytes of it.
KEY_LENGTH, VIEW_LENGTH = 40, 30
_HASH = 8  # hexadecimal digits
_FINE = re.compile(r"[A-Za-z0-9_-]+")
_LIKE_OURS = re.compile(rf"-[0-9a-f]{{{_HASH}}}$")


@lru_cache(maxsize=2**16)  # once for every listed pair
def slug(name: str, length: int) -> str:
    """``name`` in at most ``length`` of ``A-Z a-z 0-9 _ -``; distinct names stay distinct.

    A name that fits is returned as it is; one that had to be changed or cut (or that ends as if
    it had been) gets a short hash of the whole name: ``Zoë (2)`` -> ``Zoe-2-`` and eight digits.
    """
    if len(name) <= length and _FINE.fullmatch(name) and not _LIKE_OURS.search(name):
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:_HASH]
    ascii_only = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    readable = re.sub(r"[^A-Za-z0-9_]+", "-", ascii_only).strip("-")
    readable = readable[: length - _HASH - 1].rstrip("-")
    return f"{readable or 'x'}-{digest}"


def key_slug(name: str) -> str:
    """``slug`` for an item's key."""
    return slug(name, KEY_LENGTH)


def view_slug(name: str) -> str:
    """``slug`` for a view's name."""
    return slug(name, VIEW_LENGTH)
