"""What is dropped on the page: pictures of a person, and poses as keypoint files."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from xmdpt_cli.data.lists import read_own_annotations, read_pose_txt, to_fractions
from xmdpt_cli.data.pose import Keypoints
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.images import decode_image

KEYPOINT_FILES = (".txt", ".csv")


def read_pictures(paths: list[str]) -> list[Image.Image]:
    """Decoded and upright. XmdptError names the one that is broken, as the user knows it."""
    return [decode_image(Path(path), Path(path).name) for path in paths]


def read_keypoints(path: Path) -> tuple[Keypoints, str]:
    """A keypoint file in one of the published forms -> (fractions (18, 2), what was read).

    ``.txt``: PIDM's, 18 rows ``x y`` in the padded 256 frame. ``.csv``: annotations in the
    256x176 frame (``xmdpt prepare --write-annotations`` writes both); the first row is taken.
    """
    if path.suffix.lower() == ".txt":
        try:
            return read_pose_txt(path), path.name
        except (OSError, ValueError) as err:
            hint = "18 rows `x y` in the padded 256x256 frame"
            raise XmdptError(f"{path.name}: {err}", hint) from None
    rows, problems = read_own_annotations(path)
    if not rows:
        said = problems[0].reason if problems else "no rows"
        raise XmdptError(f"{path.name}: {said}", "a row is name: [y ...]: [x ...]")
    name, points = next(iter(rows.items()))
    more = f", the first of {len(rows)} rows" if len(rows) > 1 else ""
    return to_fractions(points, padded=False), f"{name} in {path.name}{more}"
