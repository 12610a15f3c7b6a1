"""A keypoints file, the names of its images, and the size of the images that its values are of."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.pose.formats.image_poses import ImagePoses
from xmdpt_cli.pose.formats.image_size import SIZE_HINT, SizeOf, UnstatedSize, shape_of
from xmdpt_cli.pose.formats.units import check_guessed
from xmdpt_cli.pose.frame_decision import decide_alone
from xmdpt_cli.pose.frame_fit import mostly_outside
from xmdpt_cli.pose.frames import FRACTIONS, CoordinateFrame
from xmdpt_cli.pose.keypoints import Size
from xmdpt_cli.utils.deepfashion_names import match_name
from xmdpt_cli.utils.problems import Problem


class KeypointsFile:
    """The frames of a file as read, also ``unsized`` ones and frames without people.

    ``problems``: lines and annotations that cannot be used; ``notes``: how the file was read.
    ``published``: the usual coordinate frame of annotation rows and poses in .txt, which do not
    state theirs; ``sized`` decides which it is.
    """

    def __init__(
        self,
        path: Path,
        frames: list[ImagePoses],
        problems: Sequence[Problem] = (),
        notes: Sequence[str] = (),
        *,
        published: CoordinateFrame | None = None,
    ) -> None:
        self.path, self.frames, self.problems = path, frames, list(problems)
        self.notes, self.published = list(notes), published
        self._read_notes = list(notes)

    @cached_property
    def names(self) -> ImageNames:
        return ImageNames([frame.name for frame in self.frames])

    def sized(
        self,
        frames: Sequence[ImagePoses],
        size_of: SizeOf | None,
        forced: CoordinateFrame | None = None,
    ) -> list[ImagePoses]:
        """Some of its frames with the size of their image, from ``size_of`` if the file does not
        state it. Raises XmdptError if the size is unknown, or cannot be right.

        ``forced``: the coordinate frame of a file that does not state it, if that is known."""
        sizes = [size_of(f.name) if size_of and f.unsized else None for f in frames]
        if self.published is not None:
            return self._rows_sized(frames, sizes, size_of, forced)
        for frame, size in zip(frames, sizes, strict=True):
            if frame.unsized and frame.people and size is None:
                raise XmdptError(
                    f"{frame.where}: coordinates in pixels, but the size of their image is not "
                    "known",
                    SIZE_HINT,
                )
        for size in dict.fromkeys(size for size in sizes if size is not None):
            same = [f for f, own in zip(frames, sizes, strict=True) if own == size]
            check_guessed([p for f in same for p in f.people], size, same[0].where)
        sizes = [
            shape_of(size_of, frame.name) if frame.shapeless else size
            for frame, size in zip(frames, sizes, strict=True)
        ]
        return list(map(_with_size, frames, sizes))

    def _rows_sized(
        self,
        frames: Sequence[ImagePoses],
        sizes: Sequence[Size | None],
        size_of: SizeOf | None,
        forced: CoordinateFrame | None,
    ) -> list[ImagePoses]:
        """``sized`` for rows and poses in .txt, whose coordinate frame follows from all values of
        the file and the sizes of these frames' images."""
        if not any(frame.people for frame in self.frames):
            return [replace(frame, unsized=False) for frame in frames]
        decided = forced or self._decided(frames, sizes, size_of)
        if forced is not None:
            self._check_forced(frames, sizes, forced)
        if decided.of_images:
            return [
                replace(frame, size=size, unsized=False)
                for frame, size in zip(frames, sizes, strict=True)
            ]
        found = [
            replace(frame, people=list(map(decided.fractions, frame.people)), unsized=False)
            for frame in frames
        ]
        if decided.name != FRACTIONS.name:  # the shape of the image follows from the frame
            return found
        shapeless = [replace(frame, shapeless=True) for frame in found]
        return [
            frame if size is None else _with_size(unknown, size)
            for frame, unknown, size in zip(found, shapeless, sizes, strict=True)
        ]

    def _decided(
        self, frames: Sequence[ImagePoses], sizes: Sequence[Size | None], size_of: SizeOf | None
    ) -> CoordinateFrame:
        """The coordinate frame of the file's values, with a note on how it was decided."""
        assert self.published is not None
        of_images = {f.where: size[::-1] for f, size in zip(frames, sizes, strict=True) if size}
        rows = [(frame, points) for frame in self.frames for points in frame.people]
        unstated = size_of if isinstance(size_of, UnstatedSize) else None
        decision = decide_alone(
            str(self.path),
            rows[0][0].name,
            np.stack([points for _, points in rows]),
            np.array([of_images.get(frame.where, (np.nan, np.nan)) for frame, _ in rows]),
            given=unstated is not None and unstated.given is not None,
            published=self.published,
            guessed=unstated is not None and unstated.guessed,
        )
        if unstated is not None:
            unstated.correct_notes(decision.frame)
        why = f" ({decision.how})" if decision.how else ""
        self.notes = [*self._read_notes, f"{self.path.name}: in {decision.frame}{why}"]
        return decision.frame

    def _check_forced(
        self, frames: Sequence[ImagePoses], sizes: Sequence[Size | None], forced: CoordinateFrame
    ) -> None:
        """XmdptError for frames that cannot be in the coordinate frame ``forced``."""
        for frame, size in zip(frames, sizes, strict=True):
            if forced.of_images and size is None:
                raise XmdptError(f"{frame.where}: the size of its image is not known", SIZE_HINT)
            sides = None if size is None else np.array(size[::-1], dtype=np.float64)
            if any(mostly_outside(forced.fractions(points, sides)) for points in frame.people):
                raise XmdptError(
                    f"{frame.where}: most joints lie outside of the image in the frame {forced}"
                )


def _with_size(frame: ImagePoses, size: Size | None) -> ImagePoses:
    """The frame in pixels of an image of ``size``; None: unchanged."""
    if size is None:
        return frame
    people = [points * size[::-1] for points in frame.people] if frame.shapeless else frame.people
    return replace(frame, people=people, size=size, unsized=False, shapeless=False)


class ImageNames:
    """Finds the image of a path among the names in a file: by either form of DeepFashion's names,
    by the end of the path, or by the file name if it is unique. Suffixes, and the Unicode form of
    accents, are ignored."""

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
        """The index of the image's name; None if it is not found, or ambiguous."""
        place = Path(image).absolute()
        published = match_name(place.as_posix())
        if published is not None and published.key in self._published:
            return self._published[published.key]
        wanted, alike = _parts(place), self.alike(image)
        ends = [i for i in alike if wanted[-len(self._parts[i]) :] == self._parts[i]]
        if ends:
            return max(ends, key=lambda i: len(self._parts[i]))
        return alike[0] if len(alike) == 1 else None

    def alike(self, image: str | Path) -> list[int]:
        """The indices of names with the image's file name, in any folder."""
        return self._by_stem.get(_parts(image)[-1], [])


def _parts(name: str | Path) -> tuple[str, ...]:
    """The parts of a path without the file's suffix, in Unicode's composed form."""
    path = Path(unicodedata.normalize("NFC", str(name).replace("\\", "/")))
    return (*path.parts[:-1], path.stem)
