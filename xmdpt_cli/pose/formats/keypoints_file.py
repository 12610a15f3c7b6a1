"""A keypoints file that was read, and the size of the images that its values are of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.pose.formats.image_names import ImageNames
from xmdpt_cli.pose.formats.image_poses import ImagePoses
from xmdpt_cli.pose.formats.image_size import SIZE_HINT, SizeOf, UnstatedSize, shape_of
from xmdpt_cli.pose.formats.units import check_guessed
from xmdpt_cli.pose.frame_decision import decide_alone
from xmdpt_cli.pose.frame_fit import mostly_outside
from xmdpt_cli.pose.frames import FRACTIONS, PUBLISHED, CoordinateFrame
from xmdpt_cli.pose.keypoints import Size
from xmdpt_cli.utils.problems import Problem


class KeypointsFile:
    """The images of a file as they are, also ``unsized`` ones and such in which nobody is seen.

    ``problems``: its lines and annotations that cannot be used; ``notes``: how it was read.
    ``published``: of annotation rows and poses in .txt, which do not state their coordinate frame,
    the one that is usual for their kind; ``sized`` decides which it is.
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
        """Some of its frames with the size of their image, asked from ``size_of`` where the file
        does not state it. XmdptError if that does not know it either, or if it cannot be right.

        ``forced``: the frame of a file that does not state it, where that is known."""
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
        sizes = [
            shape_of(size_of, f.name) if f.shapeless else size
            for f, size in zip(frames, sizes, strict=True)
        ]
        for size in dict.fromkeys(size for size in sizes if size is not None):
            same = [f for f, own in zip(frames, sizes, strict=True) if own == size and f.unsized]
            if same:
                check_guessed([p for f in same for p in f.people], size, same[0].where)
        return [
            f if size is None else _with_size(f, size)
            for f, size in zip(frames, sizes, strict=True)
        ]

    def _rows_sized(
        self,
        frames: Sequence[ImagePoses],
        sizes: Sequence[Size | None],
        size_of: SizeOf | None,
        forced: CoordinateFrame | None,
    ) -> list[ImagePoses]:
        """Rows and poses, by all values of the file and the sizes of these frames' images."""
        of_images = {
            frame.where: size[::-1] for frame, size in zip(frames, sizes, strict=True) if size
        }
        rows = [(frame, points) for frame in self.frames for points in frame.people]
        if not rows:
            return [replace(frame, unsized=False) for frame in frames]
        known = np.array([of_images.get(frame.where, (np.nan, np.nan)) for frame, _ in rows])
        raw = np.stack([points for _, points in rows])
        decided = forced
        if decided is None:
            asked = size_of if isinstance(size_of, UnstatedSize) else None
            decision = decide_alone(
                str(self.path),
                rows[0][0].name,
                raw,
                known,
                given=asked is not None and asked.given is not None,
                published=self.published or PUBLISHED,
                guessed=asked is not None and asked.guessed,
            )
            decided = decision.frame
            if asked is not None:
                asked.correct_notes(decided)
            why = f" ({decision.how})" if decision.how else ""
            self.notes = [*self._read_notes, f"{self.path.name}: in {decided}{why}"]
        else:
            self._check_forced(frames, sizes, decided)
        if decided.of_images:
            return [
                replace(frame, size=size, unsized=False)
                for frame, size in zip(frames, sizes, strict=True)
            ]
        found = [
            replace(frame, people=list(map(decided.fractions, frame.people)), unsized=False)
            for frame in frames
        ]
        if decided.name != FRACTIONS.name:  # of a frame whose shape is known
            return found
        return [
            f if size is None else _with_size(replace(f, shapeless=True), size)
            for f, size in zip(found, sizes, strict=True)
        ]

    def _check_forced(
        self, frames: Sequence[ImagePoses], sizes: Sequence[Size | None], forced: CoordinateFrame
    ) -> None:
        """XmdptError for frames that cannot be in ``forced``."""
        for frame, size in zip(frames, sizes, strict=True):
            if forced.of_images and size is None:
                raise XmdptError(f"{frame.where}: the size of its image is not known", SIZE_HINT)
            sides = None if size is None else np.array(size[::-1], dtype=np.float64)
            if any(mostly_outside(forced.fractions(points, sides)) for points in frame.people):
                raise XmdptError(
                    f"{frame.where}: most joints lie outside of the image in the frame {forced}"
                )


def _with_size(frame: ImagePoses, size: Size) -> ImagePoses:
    """A frame whose image's size is known now, in pixels."""
    people = [points * size[::-1] for points in frame.people] if frame.shapeless else frame.people
    return replace(frame, people=people, size=size, unsized=False, shapeless=False)
