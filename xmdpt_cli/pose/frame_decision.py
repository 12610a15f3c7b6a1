"""Decide the frame of a file's keypoints; errors explain why it cannot be decided."""

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
from xmdpt_cli.pose.keypoints import JOINTS

MOST_ROWS = 400  # are looked at, evenly spread over a file
_DECIDED = "decided from the values; --frame overrides"
_PADDING_USED = 0.003  # share of joints in the padding that pads no longer
_MANY_ROWS, _USUAL = 24, 0.3  # of so many rows in the right frame the cost is lower
_MANY_FRACTIONS = 1000  # joints; fractions of the padded image are not usual
_MANY_JOINTS = 300  # of squashed images so many have some there
_ALONE = (
    "give the size of the image that the keypoints are of: --pose-size WxH; or write them in "
    "pixels of the 256x176 frame or as fractions (0 to 1) of the image's sides; or give JSON, "
    "which may state the image's size"
)
_PIXELS = 0.6  # how much more than the best pixels of an image of known size may cost
_NOTED = 2.0  # the frame published for a kind of file is noted if it costs at most so much more
_SWAPPED = "name:keypoints_x:keypoints_y"


@dataclass(frozen=True)
class Decision:
    """A frame, and how it was found, for people."""

    frame: CoordinateFrame
    how: str

    def __str__(self) -> str:
        return f"frame {self.frame} ({self.how})" if self.how else f"frame {self.frame}"


def some_of(count: int, most: int = MOST_ROWS) -> list[int]:
    """Places of at most ``most`` of ``count`` rows, evenly spread."""
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
    """The frame of raw (N, 18, 2) points of ``file``, whose rows are called ``keys``.

    ``sizes``: of the rows' images, None if none is known. ``forced``: ``--frame``; refused only
    where most joints would lie outside. ``like``: of a larger file beside it, which decides among
    frames that fit. XmdptError naming the file, its first row and the frames
    that were tried, if none is plausible or if several are.
    """
    first = keys[0] if keys else ""
    if forced is not None:
        return _forced(file, first, raw, sizes, placement, forced)
    found = fits(raw, sizes, placement)
    if not found:
        return Decision(PUBLISHED, "no joint in it")
    best = found[0]
    if not best.plausible:
        raise _implausible(file, first, raw, sizes, placement, found)
    wrong = not_upright(best.fractions)
    if wrong:
        raise XmdptError(
            f"{file}: {wrong}, in {_rows(best)} (first: {first}), if it is in the frame "
            f"{best.frame}; tried: {', '.join(str(fit.frame) for fit in found)}",
            _turned(raw, sizes, placement),
        )
    mixed = of_another(found, placement)
    if mixed is not None:
        other, rows = mixed
        raise XmdptError(
            f"{file}: rows of two frames: {best.frame}, and {int(rows.sum())} of {len(rows)} rows "
            f"rather {other.frame} (the first of these: {keys[int(np.argmax(rows))]})",
            f"split the file, or say which frame all of it is in: {FRAME_HINT}",
        )
    near = rivals(found)
    best, near = _without_guesses(best, near, placement)
    if like is not None and like in [fit.frame for fit in near]:
        return Decision(like, "as the other file; --frame overrides")
    if aside(best, placement):
        raise _aside(file, first, found, placement)
    frames = [fit.frame for fit in (best, *near)]
    if sorted(map(str, frames)) == sorted(map(str, (FRACTIONS, FRACTIONS_PADDED))):
        return _of_fractions(next(f for f in (best, *near) if f.frame == FRACTIONS_PADDED))
    guesses = all(frame in GUESSED for frame in frames[1:])
    if near and best.frame == PIXELS and _usual(best) and guesses:
        others = ", ".join(map(str, frames[1:]))
        return Decision(PIXELS, f"the values fit {others} too: --frame overrides")
    if near:
        return _settled(file, first, best, near, placement)
    return Decision(best.frame, _DECIDED)


def _without_guesses(best: Fit, near: Sequence[Fit], placement: Placement) -> tuple[Fit, list[Fit]]:
    """Pixels of the images, whose sizes are known, come before sizes that are only usual; of many
    rows only if people are where they usually are, else the images were of another size."""
    pixels = next((fit for fit in (best, *near) if fit.frame == PIXELS), None)
    if pixels is None or not _usual(pixels) or best.frame in placement.published:
        return best, list(near)
    return pixels, [fit for fit in (best, *near) if fit is not pixels]


def _usual(fit: Fit) -> bool:
    return len(fit.fractions) < _MANY_ROWS or fit.cost < _USUAL


def _of_fractions(padded: Fit) -> Decision:
    """Of the whole image, or of the padded one, in whose padding there are no joints."""
    joints, out = beyond(padded)
    if out > _PADDING_USED:
        return Decision(FRACTIONS, _DECIDED)
    if joints >= _MANY_FRACTIONS:
        return Decision(FRACTIONS_PADDED, _DECIDED)
    return Decision(FRACTIONS, f"the values fit {FRACTIONS_PADDED} too: --frame overrides")


def _aside(file: str, first: str, found: Sequence[Fit], placement: Placement) -> XmdptError:
    return XmdptError(
        f"{file}: in no known frame do people stand in the middle, as these images show them (x "
        f"{placement.x[0]:g}), in {_rows(found[0])} (first: {first}). Tried: "
        + "; ".join(str(fit) for fit in found if fit.plausible),
        f"name the size of the images that the values are pixels of: {FRAME_HINT}",
    )


def _settled(
    file: str, first: str, best: Fit, near: Sequence[Fit], placement: Placement
) -> Decision:
    """Of several that fit, a file is in the one that is published for its kind, if only one is.

    The padded frame and 256x256 squashed have the same centre. But squashed images have joints in
    the columns that padding fills: 2 % of them in 96 annotated images.
    """
    published = [fit for fit in (best, *near) if fit.frame in placement.published]
    others = [fit for fit in (best, *near) if fit not in published]
    if len(published) != 1:
        raise XmdptError(
            f"{file}: its frame cannot be told from {_rows(best)} (first: {first}): "
            + "; ".join(str(fit) for fit in (best, *near)),
            f"say which it is: {FRAME_HINT}",
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


def _forced(
    file: str,
    first: str,
    raw: Points,
    sizes: Sizes | None,
    placement: Placement,
    frame: CoordinateFrame,
) -> Decision:
    if frame.of_images and sizes is None:
        raise ConfigError(
            f"--frame {frame.name}: the sizes of the images of {file} are not known",
            "give the frame as WIDTHxHEIGHT",
        )
    fit = measure(frame, frame.fractions(raw, sizes), placement)
    if fit is not None and fit.inside < 0.5:
        raise ConfigError(
            f"--frame {frame.name}: most joints of {file} lie outside of the images "
            f"({fit.inside:.0%} inside; first row: {first})",
            "leave --frame out: the frame is decided from the values",
        )
    if fit is not None and not fit.plausible:
        return Decision(frame, f"by --frame, although implausible: {fit}")
    return Decision(frame, "by --frame")


def _implausible(
    file: str,
    first: str,
    raw: Points,
    sizes: Sizes | None,
    placement: Placement,
    found: Sequence[Fit],
) -> XmdptError:
    low, high = np.nanmin(raw, axis=(0, 1)), np.nanmax(raw, axis=(0, 1))
    return XmdptError(
        f"{file}: keypoints that are in no known frame, in {_rows(found[0])} (first: {first}, "
        f"{_example(raw[0])}); x from {low[0]:g} to {high[0]:g}, y from {low[1]:g} to {high[1]:g}. "
        "Tried: " + "; ".join(str(fit) for fit in found),
        _turned(raw, sizes, placement),
    )


def _example(points: np.ndarray) -> str:
    """The first joint of a row that is seen."""
    joint = int(np.argmax(np.isfinite(points).all(axis=1)))
    x, y = points[joint]
    return f"{JOINTS[joint]} at {x:g}, {y:g}" if x == x else "no joint"


def _rows(fit: Fit) -> str:
    count = len(fit.fractions)
    return "its row" if count == 1 else f"{count} rows"


def _turned(raw: Points, sizes: Sizes | None, placement: Placement) -> str:
    """What to do, after trying the columns the other way round."""
    say = f"if they are right, say which frame it is: {FRAME_HINT}"
    exchanged = fits(raw[:, :, ::-1], sizes, placement)
    if exchanged and exchanged[0].plausible and not not_upright(exchanged[0].fractions):
        return (
            f"with x and y exchanged there are people in the frame {exchanged[0].frame}: "
            "exchange keypoints_y and keypoints_x in the header (where there is none, add "
            f"{_SWAPPED}); {say}"
        )
    return f"{say}; y counts from the top, missing joints are -1"


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
    """The frame of points (N, 18, 2) that are given to sample: a published one, fractions, or
    pixels of their images where ``sizes`` (N, 2) knows them, NaN for the others.

    Of those that fit about equally well the pixels of the images, if these are not ``guessed``,
    then ``published``, that of its kind of file; the others are noted. XmdptError if none is
    possible. People may be anywhere. ``given``: a user says which image they are of: no published
    frame is tried.
    """
    frames = (FRACTIONS, PIXELS) if given else (*POSES.frames, PIXELS)
    placement = replace(POSES, frames=frames)
    found = fits(raw, sizes, placement)
    if not found:
        return Decision(published, "")
    if not found[0].plausible:
        error = _implausible(file, first, raw, sizes, placement, found)
        raise XmdptError(error.message, _ALONE)
    # the size of an image that happens to be there proves less than values that fit well
    best, near = found[0], [found[0], *rivals(found)]
    near = [fit for fit in near if fit.frame != PIXELS or fit.cost < best.cost + _PIXELS]
    order = {published: 1}
    if not guessed:
        order[PIXELS] = 0
    chosen = min(near, key=lambda fit: order.get(fit.frame, 2))
    others = ", ".join(str(fit.frame) for fit in near if differ(chosen, fit))
    if not others:
        worse = [fit for fit in rivals(found, _NOTED) if fit.frame == published]
        less = f"the values fit {published} less well" if worse else ""
        return Decision(chosen.frame, less)
    why = "as published; " if chosen.frame == published else ""
    return Decision(chosen.frame, f"{why}the values fit {others} too")
