"""Pictures one after the other: animated WebP, GIF, or MP4 (VP9, which browsers play)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.files import writing
from xmdpt_cli.images import Picture
from xmdpt_cli.sampling.embedded import append_xmp, embedded
from xmdpt_cli.sampling.writer import metadata

SUFFIXES = (".webp", ".gif", ".mp4")
_CODECS = ("vp09", "mp4v")  # the first that this OpenCV can write


def check_animation(path: Path) -> None:
    """ConfigError unless the name says one of the formats."""
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(
            f"no such kind of animation: {path.name}", f"end its name in {', '.join(SUFFIXES)}"
        )


def write_animation(
    path: Path, pictures: Sequence[Picture], fps: float, facts: Mapping[str, Any] | None = None
) -> None:
    """uint8 (H, W, 3) each, one size; played without end. Whole, or not there.

    ``facts``: how they were generated, which the file then carries (``embedded.py``).
    """
    told = None if facts is None else metadata(facts)
    check_animation(path)
    # of the name nothing but its ending: OpenCV makes patterns of percent signs
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    part = path.with_name(f".{digest}.part{path.suffix.lower()}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            if path.suffix.lower() == ".mp4":
                _write_mp4(part, pictures, fps)
                if told is not None:
                    append_xmp(part, told)
            else:
                frames = [Image.fromarray(picture) for picture in pictures]
                frames[0].save(
                    part,
                    save_all=True,
                    append_images=frames[1:],
                    duration=round(1000 / fps),
                    loop=0,
                    quality=90,  # WebP's; GIF knows none
                    **embedded(path.suffix.lower(), told),
                )
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def _write_mp4(path: Path, pictures: Sequence[Picture], fps: float) -> None:
    path.write_bytes(bytes(2**16))  # fails with a reason, where OpenCV would only not open it
    height, width = (side - side % 2 for side in pictures[0].shape[:2])  # its colours are halved
    for codec in _CODECS:
        video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, (width, height))
        if not video.isOpened():
            continue
        for picture in pictures:
            video.write(np.ascontiguousarray(picture[:height, :width, ::-1]))
        video.release()
        written = _frames(path)  # OpenCV does not say that the disk is full
        if written < len(pictures):
            raise XmdptError(
                f"cannot write the animation: {written} of {len(pictures)} pictures are in it",
                "make room on that disk; the pictures themselves are kept",
            )
        return
    raise XmdptError(
        f"this OpenCV cannot write {path.suffix}", "choose .webp or .gif for the animation"
    )


def _frames(path: Path) -> int:
    """How many pictures a video holds, 0 if it is none."""
    video = cv2.VideoCapture(str(path))
    count = int(video.get(cv2.CAP_PROP_FRAME_COUNT)) if video.isOpened() else 0
    video.release()
    return count
