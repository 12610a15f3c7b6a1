"""Size and equality of stored images, without decoding them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from xmdpt_cli.datasets.listing import ImageRef
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.pose.formats.image_size import Size, size_of_image

# JPEGs of one size are rare, so this is plenty; uncompressed images are all of one size.
BYTES_READ_AT_MOST = 256 * 2**20


def stored_image_size(image: ImageRef) -> Size | None:
    """(height, width) of a stored image, upright; None if it cannot be read."""
    path = getattr(image, "path", None)
    try:
        return size_of_image(image.stored_bytes() if path is None else path)
    except XmdptError:  # reported when it is decoded
        return None


def as_padded(image: ImageRef) -> ImageRef:
    """The same image, its grey columns cut off when it is loaded."""
    return replace(image, padded=True)  # type: ignore[type-var]  # all implementations are dataclasses


@dataclass
class FileComparison:
    """Compares stored images by size, then by bytes, up to ``BYTES_READ_AT_MOST`` in all."""

    left: int = BYTES_READ_AT_MOST  # bytes that may still be read
    stopped: bool = False  # whether images of equal size were not compared for lack of ``left``
    _sizes: dict[str, int] = field(default_factory=dict)
    _known: dict[tuple[str, str], bool] = field(default_factory=dict)

    def equal(self, one: ImageRef, other: ImageRef) -> bool:
        """Whether both are the same file; False if they were not compared."""
        key = (min(one.identity, other.identity), max(one.identity, other.identity))
        if key not in self._known:
            self._known[key] = self._compare(one, other)
        return self._known[key]

    def _compare(self, one: ImageRef, other: ImageRef) -> bool:
        try:
            size = self._size(one)
            if size != self._size(other):
                return False
            if self.left < 2 * size:
                self.stopped = True
                return False
            self.left -= 2 * size
            return one.stored_bytes() == other.stored_bytes()
        except XmdptError:  # reported when it is decoded
            return False

    def _size(self, image: ImageRef) -> int:
        if image.identity not in self._sizes:
            self._sizes[image.identity] = image.stored_size()
        return self._sizes[image.identity]
