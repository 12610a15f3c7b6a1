"""OpenPose's body network (controlnet-aux): a picture of a person to 18 keypoints.

Only keypoints are taken from it: controlnet-aux draws joints, limbs and colours in another
order than the published pose pictures.
"""

from __future__ import annotations

import math
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import snapshot_download
from numpy.typing import NDArray

from xmdpt_cli.encoders.weights import HUB_ID, reason
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.images import Picture

DEFAULT_OPENPOSE = "lllyasviel/Annotators"
BODY_FILE = "body_pose_model.pth"
JOINTS = 18


class OpenPose:
    """The body network alone: hands and faces are not needed, so their files are not either."""

    def __init__(self, detector: Any) -> None:
        self._detector = detector

    @classmethod
    def load(
        cls, source: str | Path = DEFAULT_OPENPOSE, *, device: str | torch.device = "cpu"
    ) -> OpenPose:
        """From a hub id, a folder with ``body_pose_model.pth``, or that file itself.

        Raises XmdptError saying what to fetch and where to put it.
        """
        path = _body_file(source)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its import warns about networks not used here
            from controlnet_aux.open_pose import OpenposeDetector
            from controlnet_aux.open_pose.body import Body
        try:
            detector = OpenposeDetector(Body(str(path)))
        except (OSError, RuntimeError, KeyError, ValueError, EOFError, pickle.PickleError) as err:
            raise XmdptError(
                f"not OpenPose's body network: {path} ({reason(err)})", "fetch or copy it again"
            ) from None
        detector.body_estimation.to(device)
        return cls(detector)

    def keypoints(self, picture: Picture) -> NDArray[np.float64] | None:
        """uint8 (H, W, 3) -> (18, 2) x, y in its pixels, NaN where not seen; None for no person.

        Of several persons the one with the highest total score.
        """
        people = self._detector.detect_poses(picture)
        if not people:
            return None
        body = max((person.body for person in people), key=lambda body: body.total_score)
        height, width = picture.shape[:2]
        points = np.full((JOINTS, 2), math.nan)
        for joint, point in enumerate(body.keypoints):
            if point is not None:
                points[joint] = point.x * width, point.y * height
        return points


def _body_file(source: str | Path) -> Path:
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        if (path / BODY_FILE).is_file():
            return path / BODY_FILE
        raise XmdptError(f"no {BODY_FILE} in {path}", _hint("that folder"))
    if isinstance(source, Path) or not HUB_ID.fullmatch(str(source)):
        raise XmdptError(f"no such OpenPose file or folder: {source}", _hint("a folder DIR"))
    try:
        return Path(snapshot_download(str(source), allow_patterns=[BODY_FILE])) / BODY_FILE
    except Exception as err:  # offline, no such repository, no right to it, a dozen types more
        raise XmdptError(
            f"OpenPose {source} is not on this machine and cannot be fetched ({reason(err)})",
            _hint("a folder DIR"),
        ) from None


def _hint(where: str) -> str:
    return (
        f"where there is a network: `hf download {DEFAULT_OPENPOSE} {BODY_FILE} --local-dir DIR`; "
        f"then put the file into {where} and give that"
    )
