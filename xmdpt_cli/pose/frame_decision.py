"""Decide the coordinate frame of a file's keypoints; errors name the frames that were tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.pose.frame_fit import (
    Fit,
    aside,
    beyond,
    differ,
    fits,
    measure,
    not_upright,
    of_another,
    rivals,
)
from xmdpt_cli.pose.frames import (
    FRACTIONS,
    FRACTIONS_PADDED,
    FRAME_HINT,
    GUESSED,
    PIXELS,
    POSES,
    PUBLISHED,
    CoordinateFrame,
    Placement,
    Points,
    Sizes,
)
from xmdpt_cli.pose.keypoints import JOINTS, seen

MOST_ROWS = 400  # of a file that are measured, evenly spread
_DECIDED = "decided from the values; --frame overrides"
_PADDING_USED = 0.003  # share of joints in the padding from which on it is not padding
_MANY_ROWS, _USUAL = 24, 0.3  # from so many rows on the cost of the right frame is lower
_MANY_FRACTIONS = 1000  # joints; fractions of the padded image are unusual
_MANY_JOINTS = 300  # squashed images of so many joints have some where padding is
_ALONE = (
    "give the size of the image that the keypoints are of: --pose-size WxH; or write them in "
    "pixels of the 256x176 frame or as fractions (0 to 1) of the image's sides; or give JSON, "
    "which may state the image's size"
)
_PIXELS = 0.6  # how much more than the best frame pixels of an image of known size may cost
_NOTED = 2.0  # how much more the published frame may cost and be mentioned in a note
_SWAPPED = "name:keypoints_x:keypoints_y"


@dataclass(frozen=True)
class Decision:
    """A coordinate frame, and how it was decided, for messages."""

    frame: CoordinateFrame
    how: str

    def __str__(self) -> str:
        return f"frame {self.frame} ({self.how})" if self.how else f"frame {self.frame}"


@dataclass(frozen=True)
class _Rows:
    """The rows of a file whose frame is decided."""

    file: str
    keys: Sequence[str]
    raw: Points  # (N, 18, 2)
    sizes: Sizes | None  # (N, 2)
    placement: Placement

    @property
    def first(self) -> str:
        return self.keys[0] if self.keys else ""

    def __str__(self) -> str:
        return "its row" if len(self.raw) == 1 else f"{len(self.raw)} rows"

    def refused(self, found: Sequence[Fit]) -> XmdptError:
        """The error for rows that are plausible in no frame."""
        low, high = np.nanmin(self.raw, axis=(0, 1)), np.nanmax(self.raw, axis=(0, 1))
        joint = int(np.argmax(seen(self.raw[0])))
        x, y = self.raw[0, joint]
        example = f"{JOINTS[joint]} at {x:g}, {y:g}" if x == x else "no joint"
        return XmdptError(
            f"{self.file}: keypoints that are in no known frame, in {self} (first: {self.first}, "
            f"{example}); x from {low[0]:g} to {high[0]:g}, y from {low[1]:g} to {high[1]:g}. "
            "Tried: " + "; ".join(str(fit) for fit in found),
            self.hint(),
        )

    def hint(self) -> str:
        """How to correct rows that are not plausible, also with x and y exchanged."""
        name_it = f"if they are right, name the frame: {FRAME_HINT}"
        exchanged = fits(self.raw[:, :, ::-1], self.sizes, self.placement)
        if exchanged and exchanged[0].plausible and not not_upright(exchanged[0].fractions):
            return (
                f"with x and y exchanged there are people in the frame {exchanged[0].frame}: "
                "exchange keypoints_y and keypoints_x in the header (where there is none, add "
                f"{_SWAPPED}); {name_it}"
            )
        return f"{name_it}; y counts from the top, missing joints are -1"


def some_of(count: int, most: int = MOST_ROWS) -> list[int]:
    """The indices of at most ``most`` of ``count`` rows, evenly spread."""
    return [int(i) for i in np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))]


def decide(
    file: str,
    keys: Sequence[str],
    raw: Points,
    sizes: Sizes | None,
    placement: Placement,
    forced: CoordinateFrame | None = None,
    like: CoordinateFrame | None = None,
) -> Decision:
    """Decide the frame of raw (N, 18, 2) points of ``file``, whose rows have the names ``keys``.

    ``sizes``: of the images of the rows, None if none is known. ``forced``: ``--frame``, refused
    only if most joints would lie outside. ``like``: the frame of a larger file beside it, which
    decides among frames that fit. Raises XmdptError naming the file, its first row and the tried
    frames, if no frame is plausible or several are.
    """
    rows = _Rows(file, keys, raw, sizes, placement)
    if forced is not None:
        return _forced(rows, forced)
    found = fits(raw, sizes, placement)
    if not found:
        return Decision(PUBLISHED, "no joint in it")
    best = found[0]
    if not best.plausible:
        raise rows.refused(found)
    wrong = not_upright(best.fractions)
    if wrong:
        raise XmdptError(
            f"{file}: {wrong}, in {rows} (first: {rows.first}), if it is in the frame "
            f"{best.frame}; tried: {', '.join(str(fit.frame) for fit in found)}",
            rows.hint(),
        )
    mixed = of_another(found, placement)
    if mixed is not None:
        other, which = mixed
        raise XmdptError(
            f"{file}: rows of two frames: {best.frame}, and {int(which.sum())} of {len(which)} "
            f"rows rather {other.frame} (the first of these: {keys[int(np.argmax(which))]})",
            f"split the file, or name the frame of all rows: {FRAME_HINT}",
        )
    best, near = _without_guesses(best, rivals(found), placement)
    if like is not None and like in [fit.frame for fit in near]:
        return Decision(like, "as the other file; --frame overrides")
    if aside(best, placement):
        raise XmdptError(
            f"{file}: in no known frame are people in the middle, as in these images "
            f"(x {placement.x[0]:g}), in {rows} (first: {rows.first}). Tried: "
            + "; ".join(str(fit) for fit in found if fit.plausible),
            f"name the size of the images that the values are pixels of: {FRAME_HINT}",
        )
    if not near:
        return Decision(best.frame, _DECIDED)
    frames = [fit.frame for fit in (best, *near)]
    if len(frames) == 2 and FRACTIONS in frames and FRACTIONS_PADDED in frames:
        return _of_fractions(next(f for f in (best, *near) if f.frame == FRACTIONS_PADDED))
    guesses = all(frame in GUESSED for frame in frames[1:])
    if best.frame == PIXELS and _usual(best) and guesses:
        others = ", ".join(map(str, frames[1:]))
        return Decision(PIXELS, f"the values fit {others} too: --frame overrides")
    return _settled(rows, best, near)


def _without_guesses(best: Fit, near: Sequence[Fit], placement: Placement) -> tuple[Fit, list[Fit]]:
    """The best fit and its rivals, with pixels of images of known size before usual sizes. Of many
    rows only if people are at the usual places, else the images had another size."""
    pixels = next((fit for fit in (best, *near) if fit.frame == PIXELS), None)
    if pixels is None or not _usual(pixels) or best.frame in placement.published:
        return best, list(near)
    return pixels, [fit for fit in (best, *near) if fit is not pixels]


def _usual(fit: Fit) -> bool:
    return len(fit.fractions) < _MANY_ROWS or fit.cost < _USUAL


def _of_fractions(padded: Fit) -> Decision:
    """Fractions of the image, or of the padded image, which has no joints in its padding."""
    joints, out = beyond(padded)
    if out > _PADDING_USED:
        return Decision(FRACTIONS, _DECIDED)
    if joints >= _MANY_FRACTIONS:
        return Decision(FRACTIONS_PADDED, _DECIDED)
    return Decision(FRACTIONS, f"the values fit {FRACTIONS_PADDED} too: --frame overrides")


def _settled(rows: _Rows, best: Fit, near: Sequence[Fit]) -> Decision:
    """Of several frames that fit, the one that is published for the kind of file, if only one is.

    The padded frame and 256x256 squashed have the same centre, but squashed images have joints in
    the columns of the padding: 2 % of them in 96 annotated images.
    """
    published = [fit for fit in (best, *near) if fit.frame in rows.placement.published]
    others = [fit for fit in (best, *near) if fit not in published]
    if len(published) != 1:
        raise XmdptError(
            f"{rows.file}: its frame is ambiguous in {rows} (first: {rows.first}): "
            + "; ".join(str(fit) for fit in (best, *near)),
            f"name it: {FRAME_HINT}",
        )
    joints, out = beyond(published[0])
    better = [fit for fit in others if out > _PADDING_USED and beyond(fit)[1] < out]
    if better:
        return Decision(better[0].frame, _DECIDED)
    if joints >= _MANY_JOINTS and not out:
        return Decision(published[0].frame, _DECIDED)
    names = ", ".join(str(fit.frame) for fit in others)
    return Decision(
        published[0].frame, f"as published; the values fit {names} too: --frame overrides"
    )


def _forced(rows: _Rows, frame: CoordinateFrame) -> Decision:
    """The frame of ``--frame``; ConfigError if most joints would lie outside of the images."""
    if frame.of_images and rows.sizes is None:
        raise ConfigError(
            f"--frame {frame.name}: the sizes of the images of {rows.file} are not known",
            "give the frame as WIDTHxHEIGHT",
        )
    fit = measure(frame, frame.fractions(rows.raw, rows.sizes), rows.placement)
    if fit is None or fit.plausible:
        return Decision(frame, "by --frame")
    if fit.inside < 0.5:
        raise ConfigError(
            f"--frame {frame.name}: most joints of {rows.file} lie outside of the images "
            f"({fit.inside:.0%} inside; first row: {rows.first})",
            "leave --frame out: the frame is decided from the values",
        )
    return Decision(frame, f"by --frame, although implausible: {fit}")


def decide_alone(
    file: str,
    first: str,
    raw: Points,
    sizes: Sizes | None = None,
    *,
    given: bool = False,
    published: CoordinateFrame = PUBLISHED,
    guessed: bool = False,
) -> Decision:
    """Decide the frame of points (N, 18, 2) for sampling: a published frame, fractions, or pixels
    of their images, of ``sizes`` (N, 2), NaN if unknown. People may be anywhere.

    Of frames that fit about equally well it is pixels of the images, unless their sizes are
    ``guessed``, then ``published``, the usual frame of the kind of file; the others are noted.
    ``given``: the user states the size of the image, so published frames are not tried. Raises
    XmdptError if no frame is plausible.
    """
    placement = replace(POSES, frames=(FRACTIONS, PIXELS) if given else (*POSES.frames, PIXELS))
    rows = _Rows(file, [first], raw, sizes, placement)
    found = fits(raw, sizes, placement)
    if not found:
        return Decision(published, "")
    if not found[0].plausible:
        raise XmdptError(rows.refused(found).message, _ALONE)
    # an image of known size is weaker evidence than values that fit well
    best, near = found[0], [found[0], *rivals(found)]
    near = [fit for fit in near if fit.frame != PIXELS or fit.cost < best.cost + _PIXELS]
    order = {published: 1}
    if not guessed:
        order[PIXELS] = 0
    chosen = min(near, key=lambda fit: order.get(fit.frame, 2))
    others = ", ".join(str(fit.frame) for fit in near if differ(chosen, fit))
    if not others:
        worse = [fit for fit in rivals(found, _NOTED) if fit.frame == published]
        return Decision(chosen.frame, f"the values fit {published} less well" if worse else "")
    why = "as published; " if chosen.frame == published else ""
    return Decision(chosen.frame, f"{why}the values fit {others} too")
