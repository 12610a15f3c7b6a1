"""Which of the frames of a keypoints file belongs to an image, by their names."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from xmdpt_cli.utils.deepfashion_names import match_name


class ImageNames:
    """The names that a file gives its images, to find the one of an image by its path: in either
    form of DeepFashion's names, by the end of its path, or by its file's name if only one is called
    so. Suffixes do not count, nor how accents are stored."""

    def __init__(self, names: Sequence[str]) -> None:
        self._parts = [_parts(name) if name else () for name in names]
        self._published: dict[str, int] = {}
        self._by_stem: dict[str, list[int]] = {}
        for i, name in enumerate(names):
            published = match_name(name)
            if published is not None:
                self._published.setdefault(published.key, i)
            if name:
                self._by_stem.setdefault(self._parts[i][-1], []).append(i)

    def find(self, image: str | Path) -> int | None:
        """The place of the image's name; None if it is not there, or ambiguous."""
        place = Path(image).absolute()
        own = match_name(place.as_posix())
        if own is not None and own.key in self._published:
            return self._published[own.key]
        wanted, alike = _parts(place), self.alike(image)
        ends = [i for i in alike if _ends_with(wanted, self._parts[i])]
        if ends:
            return max(ends, key=lambda i: len(self._parts[i]))
        return alike[0] if len(alike) == 1 else None

    def alike(self, image: str | Path) -> list[int]:
        """The places of names with the image's own file name, whatever their folders."""
        return self._by_stem.get(_parts(image)[-1], [])


def _parts(name: str | Path) -> tuple[str, ...]:
    """A path's parts, the file's suffix aside, accents in one form."""
    path = Path(unicodedata.normalize("NFC", str(name).replace("\\", "/")))
    return (*path.parts[:-1], path.stem)


def _ends_with(whole: tuple[str, ...], end: tuple[str, ...]) -> bool:
    return whole[-len(end) :] == end
