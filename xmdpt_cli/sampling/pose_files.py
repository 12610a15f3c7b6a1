"""The poses in files and folders that a user names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from xmdpt_cli.datasets.scan import is_readable_image
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.files import is_hidden
from xmdpt_cli.pose.formats import SUFFIXES
from xmdpt_cli.pose.formats.beside_images import KeypointsBeside
from xmdpt_cli.progress import Say
from xmdpt_cli.sampling.inputs import InputOptions, Pose
from xmdpt_cli.sampling.pipeline import XMDPTPipeline, read_poses
from xmdpt_cli.sampling.user_inputs import NoOpenPoseError
from xmdpt_cli.utils.image_types import not_read, say_not_read


def read_pose_files(
    pipe: XMDPTPipeline,
    paths: Sequence[Path],
    options: InputOptions,
    source_size: tuple[int, int] | None,
    warn: Say,
) -> tuple[list[Pose], list[str]]:
    """The poses in files and folders, and the errors of files in folders that were left out.

    ``source_size``: (height, width) of the source in pixels. Raises XmdptError if a file that was
    named cannot be read, or no file of a folder.
    """
    poses: list[Pose] = []
    left_out = []
    for path in paths:
        files = pose_files(path, warn)
        found: list[Pose] = []
        for file in files:
            try:
                found += read_poses(pipe, file, options, source_size)
            except (NoOpenPoseError, ConfigError):  # concerns all files
                raise
            except XmdptError as err:
                if not path.is_dir() or (file == files[-1] and not found):
                    raise
                left_out.append(err.message)
                warn(f"left out: {err.message}")
        poses += found
    return poses, left_out


def pose_files(path: Path, warn: Say) -> list[Path]:
    """The images and keypoint files in a folder, sorted by name; a file as a list of one."""
    if not path.is_dir():
        return [path]
    files = sorted(p for p in path.iterdir() if not is_hidden(p.name))
    found = [p for p in files if p.suffix.lower() in SUFFIXES or is_readable_image(p.name)]
    unread = [p.name for p in not_read(files)]
    if unread:
        warn(say_not_read(unread))
    if not found:
        raise ConfigError(f"no pose in {path}", "the folder has neither keypoint files nor images")
    # a photograph with its keypoints beside it is one pose, not two
    beside = KeypointsBeside()
    return [p for p in found if not is_readable_image(p.name) or beside.own_file(p) is None]
