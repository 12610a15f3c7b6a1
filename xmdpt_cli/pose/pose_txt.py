"""PIDM's pose files: 18 rows ``x y``, one file an image."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.pose.annotation_csv import sane
from xmdpt_cli.pose.annotation_frames import PADDED, AnnotationFrame
from xmdpt_cli.pose.pose_image import JOINTS, Keypoints
from xmdpt_cli.pose.scaled_missing import Pair
from xmdpt_cli.utils.list_text import decode_text


def read_pose_txt(path: Path, frame: AnnotationFrame = PADDED) -> Keypoints:
    """One of PIDM's pose files, 18 rows ``x y`` in ``frame`` -> fractions, NaN missing.

    Raises ValueError, saying which line, if it is not that; FileNotFoundError if not there.
    """
    return frame.fractions(read_pose_points(path))


def read_pose_points(path: Path, scaled: list[Pair] | None = None) -> Keypoints:
    """One of PIDM's pose files as it is: (18, 2) in its own frame, NaN missing.

    ``scaled`` collects joints that are a scaled -1, -1. Raises as ``read_pose_txt``.
    """
    rows = []
    try:
        text = decode_text(path.read_bytes(), path)
    except XmdptError:
        raise ValueError("is not text") from None
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            x, y = (float(field) for field in re.split(r"[\s,;]+", line.strip()))
        except ValueError:
            raise ValueError(f"line {number} is not two numbers") from None
        rows.append((x, y))
    if len(rows) != len(JOINTS):
        raise ValueError(f"holds {len(rows)} joints instead of 18")
    return sane(np.array(rows, dtype=np.float64), scaled)
