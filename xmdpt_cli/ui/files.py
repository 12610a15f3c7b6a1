"""Read the files that are dropped on the page, and write the images to download."""

from __future__ import annotations

import zipfile
from pathlib import Path

from PIL import Image

from xmdpt_cli.encoders.openpose import OpenPose
from xmdpt_cli.images import decode_image, save_png
from xmdpt_cli.pose.formats import SUFFIXES, read_poses
from xmdpt_cli.pose.formats.image_size import UnstatedSize, size_of_image
from xmdpt_cli.pose.keypoints import FRAME_HEIGHT, FRAME_WIDTH, Keypoints
from xmdpt_cli.pose.padding import PADDED_BOX, is_padded_image
from xmdpt_cli.sampling.inputs import InputOptions, read_pose, read_view
from xmdpt_cli.sampling.pipeline import XMDPTPipeline
from xmdpt_cli.ui.uploads import new_folder

FRAME = (int(FRAME_HEIGHT), int(FRAME_WIDTH))


def checked(paths: list[str]) -> list[Path]:
    """The paths of the images, if all can be decoded. XmdptError gives the file name of a broken
    one, not the path on the server."""
    for path in map(Path, paths):
        decode_image(path, path.name)
    return [Path(path) for path in paths]


def pose_of(file: Path, pipe: XMDPTPipeline, person: Path | None = None) -> tuple[Keypoints, str]:
    """Read a photograph, a pose image or a keypoints file -> (fractions (18, 2), note).

    The first pose of a file with several. ``person``: the image whose size keypoints in pixels
    refer to if their file states none, as in files of OpenPose. XmdptError if there is no pose.
    """
    if file.suffix.lower() not in SUFFIXES:
        checked([str(file)])
        return pipe.find_pose(file), f"Pose found in {file.name}"
    # a pose that the editor saved has its frame, and is loaded unchanged
    size = None if person is None else size_of_image(person)
    in_frame = read_poses(file, UnstatedSize(file, source=size))[0].size in (None, FRAME)
    options = InputOptions(pose_fit="squash" if in_frame else "auto")
    poses = read_pose(file, pipe.resolution, _no_openpose, options, source_size=size)
    others = f", the first of {len(poses)}" if len(poses) > 1 else ""
    return poses[0].keypoints / pipe.resolution, f"Pose of {file.name}{others}"


def keypoints_of(file: Path, image: Path) -> tuple[Keypoints, str]:
    """Read the keypoints of an image from a file -> (fractions (18, 2), note)."""
    size = 1024  # side of a square; only fractions of it are returned
    view = read_view(image, size, _no_openpose, InputOptions(fit="squash"), keypoints=file)
    assert view.keypoints is not None
    points = view.keypoints / size
    loaded = decode_image(image, image.name)
    if all(is_padded_image(loaded)):  # read_view removes the grey columns
        left, top, right, bottom = PADDED_BOX
        points = (points * (right - left, bottom - top) + (left, top)) / loaded.size
    chosen = [note for note in view.notes[1:] if "people" in note]
    return points, "; ".join([f"Keypoints of {file.name}", *chosen])


def _no_openpose() -> OpenPose:
    raise AssertionError("a keypoints file needs no OpenPose")


def save_images(images: list[Image.Image], seed: int) -> tuple[list[str], str]:
    """Write the images; return (PNG files, file to download: the PNG, or a ZIP of several).

    Names contain the seed, so that downloads do not replace each other.
    """
    folder = new_folder()
    name = f"xmdpt-seed{seed}"
    files = [folder / f"{name}{f'-{i}' if i else ''}.png" for i in range(len(images))]
    for file, image in zip(files, images, strict=True):
        save_png(file, image)
    if len(files) == 1:
        return [str(files[0])], str(files[0])
    packed = folder / f"{name}.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for file in files:
            archive.write(file, file.name)
    return list(map(str, files)), str(packed)
