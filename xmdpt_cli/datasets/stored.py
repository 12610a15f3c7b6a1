"""Pictures whose bytes lie on this machine; find those that were saved twice, reading little."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

from xmdpt_cli.datasets.listing import PictureRef
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.pose.formats.image_size import Size, size_of_image

# JPEGs of one size are rare, so this is plenty; uncompressed pictures are all of one size.
BYTES_READ_AT_MOST = 256 * 2**20


class StoredPicture(PictureRef, Protocol):
    """A picture whose encoded bytes lie on this machine."""

    def stored_size(self) -> int:
        """How many bytes; XmdptError if that cannot be said."""
        ...

    def stored_bytes(self) -> bytes:
        """The file as it is; XmdptError if it cannot be read."""
        ...


def stored_image_size(picture: StoredPicture) -> Size | None:
    """(height, width) of an image as it lies there, upright; None if it cannot be read."""
    path = getattr(picture, "path", None)
    try:
        return size_of_image(picture.stored_bytes() if path is None else path)
    except XmdptError:  # said when it is decoded
        return None


def as_padded(picture: StoredPicture) -> StoredPicture:
    """The same picture, its grey columns cut off when it is loaded."""
    return replace(picture, padded=True)  # type: ignore[type-var]  # each of ours is a dataclass


@dataclass
class Sameness:
    """Compares pictures by size, then by bytes, up to ``BYTES_READ_AT_MOST`` in all."""

    left: int = BYTES_READ_AT_MOST
    stopped: bool = False  # some of one size were not compared any more
    _sizes: dict[str, int] = field(default_factory=dict)
    _known: dict[tuple[str, str], bool] = field(default_factory=dict)

    def same(self, one: StoredPicture, other: StoredPicture) -> bool:
        """Whether both are the same file; False where that was not looked at."""
        key = (min(one.identity, other.identity), max(one.identity, other.identity))
        if key not in self._known:
            self._known[key] = self._compare(one, other)
        return self._known[key]

    def _compare(self, one: StoredPicture, other: StoredPicture) -> bool:
        try:
            size = self._size(one)
            if size != self._size(other):
                return False
            if self.left < 2 * size:
                self.stopped = True
                return False
            self.left -= 2 * size
            return one.stored_bytes() == other.stored_bytes()
        except XmdptError:  # said when it is decoded
            return False

    def _size(self, picture: StoredPicture) -> int:
        if picture.identity not in self._sizes:
            self._sizes[picture.identity] = picture.stored_size()
        return self._sizes[picture.identity]
