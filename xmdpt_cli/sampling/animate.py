"""Pictures one after the other: animated WebP, GIF, or MP4 (VP9, which browsers play)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.files import writing
from xmdpt_cli.images import Picture

SUFFIXES = (".webp", ".gif", ".mp4")
_CODECS = ("vp09", "mp4v")  # the first that this OpenCV can write


def check_animation(path: Path) -> None:
    """ConfigError unless the name says one of the formats."""
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(
            f"no such kind of animation: {path.name}", f"end its name in {', '.join(SUFFIXES)}"
        )


def write_animation(path: Path, pictures: Sequence[Picture], fps: float) -> None:
    """uint8 (H, W, 3) each, one size; played without end. Whole, or not there."""
    check_animation(path)
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            if path.suffix.lower() == ".mp4":
                _write_mp4(part, pictures, fps)
            else:
                frames = [Image.fromarray(picture) for picture in pictures]
                frames[0].save(
                    part,
                    save_all=True,
                    append_images=frames[1:],
                    duration=round(1000 / fps),
                    loop=0,
                    quality=90,  # WebP's; GIF knows none
                )
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def _write_mp4(path: Path, pictures: Sequence[Picture], fps: float) -> None:
    height, width = (side - side % 2 for side in pictures[0].shape[:2])  # its colours are halved
    for codec in _CODECS:
        video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, (width, height))
        if not video.isOpened():
            continue
        for picture in pictures:
            video.write(np.ascontiguousarray(picture[:height, :width, ::-1]))
        video.release()
        if path.is_file() and path.stat().st_size:
            return
    raise XmdptError(
        f"this OpenCV cannot write {path.suffix}", "choose .webp or .gif for the animation"
    )
