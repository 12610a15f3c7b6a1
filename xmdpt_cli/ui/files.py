"""What is dropped on the page: pictures of a person, and poses as keypoint files."""

from __future__ import annotations

import os
from pathlib import Path

from xmdpt_cli.data.keypoint_formats import SUFFIXES
from xmdpt_cli.data.pose import Keypoints
from xmdpt_cli.encoders.openpose import OpenPose
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.images import decode_image
from xmdpt_cli.sampling.inputs import read_pose
from xmdpt_cli.sampling.pipeline import XMDPTPipeline


def checked(paths: list[str]) -> list[Path]:
    """These pictures, if all can be decoded. XmdptError names a broken one as the user knows it:
    where the server keeps it is nobody's business."""
    for path in map(Path, paths):
        decode_image(path, path.name)
    return [Path(path) for path in paths]


def pose_of(file: Path, pipe: XMDPTPipeline) -> tuple[Keypoints, str]:
    """A photograph, a drawn pose, or a keypoints file -> (fractions (18, 2), what was done).

    Of a file with several poses the first one. XmdptError where there is none.
    """
    if file.suffix.lower() not in SUFFIXES:
        checked([str(file)])
        return pipe.find_pose(file), f"Pose found in {file.name}"
    try:
        poses = read_pose(file, pipe.resolution, _no_need)
    except XmdptError as err:
        raise XmdptError(err.message.replace(f"{file.parent}{os.sep}", ""), err.hint) from None
    more = f", the first of {len(poses)}" if len(poses) > 1 else ""
    return poses[0].keypoints / pipe.resolution, f"Pose of {file.name}{more}"


def _no_need() -> OpenPose:
    raise AssertionError("a keypoints file needs no OpenPose")
