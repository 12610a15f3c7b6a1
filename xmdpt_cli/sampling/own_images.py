"""A user's own people in a user's own poses: PNGs in a folder, a contact sheet, an animation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.files import only_process
from xmdpt_cli.images import ImageArray, load_image
from xmdpt_cli.progress import Progress, silent
from xmdpt_cli.sampling.animation import check_free, write_animation
from xmdpt_cli.sampling.generation import ImageRequest, describe_image, pose_requests
from xmdpt_cli.sampling.image_folder import ImageFolder, PlannedImage, pair_name, sheet_row
from xmdpt_cli.sampling.inputs import DEFAULT_OPTIONS, InputOptions, Pose, View, notes_of
from xmdpt_cli.sampling.pair_list import Row
from xmdpt_cli.sampling.pipeline import XMDPTPipeline, read_poses, read_views
from xmdpt_cli.sampling.record import SHEET_ROWS
from xmdpt_cli.sampling.sampler import SamplingConfig

SECTION = 64  # rows of a list whose inputs are in memory together

#: the views of sources that were read, by their file and their keypoints' file
Sources = dict[tuple[Path, "Path | None"], list[View]]


def generate_own_images(
    pipe: XMDPTPipeline,
    views: Sequence[View],
    poses: Sequence[Pose],
    config: SamplingConfig,
    out: Path,
    *,
    num_images: int = 1,
    square: bool = False,
    animation: Path | None = None,
    fps: float = 12.0,
    batch: int | None = None,
    progress: Progress = silent,
    notify: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Generate every pose into ``out``; returns the record, which is also written.

    Images have the shape of the training images, 176:256, or are ``square`` as the model generates
    them. ``out`` may hold samples of the same model and settings: images of the same inputs are not
    generated again, and other inputs add files. Nothing is ever replaced: other settings are an
    XmdptError that names them, and so is a file that xmdpt did not generate; another person or pose
    whose name is taken gets the suffix ``_2``, and ``notify`` is called. ``animation``: a file for
    the first image of every pose, in order.
    """
    requests = pose_requests(views, poses, num_images, config.seed)
    metadata = [describe_image(pipe, request, config, square) for request in requests]
    folder, settings = _image_folder(pipe, config, out, square, notify)
    inputs = [image["inputs"] for image in metadata[::num_images]]
    of_animation = {"inputs": inputs, "fps": fps, **settings}
    with only_process(out):
        folder.check()
        if animation is not None:
            check_free(animation, of_animation)
        names: list[str] = []
        for p, pose in enumerate(poses):
            of_pose = metadata[p * num_images :][:num_images]
            names += folder.place(pair_name(views[0].name, pose.name), of_pose)
        planned = list(map(PlannedImage, requests, metadata, names))
        folder.generate(
            pipe, planned, config, batch, lambda done: progress("sample", done, len(planned))
        )
        rows = []
        for p, pose in enumerate(poses[:SHEET_ROWS]):
            files = [out / name for name in names[p * num_images :][:num_images]]
            rows.append(sheet_row(views, pose, files, pipe.resolution, square))
        folder.save_sheet(rows, ["source"] * len(views) + ["pose"] + ["generated"] * num_images)
        if animation is not None:
            frames = [np.asarray(load_image(out / name)) for name in names[::num_images]]
            write_animation(animation, frames, fps, of_animation)
        return folder.finish(names, [view.name for view in views], notes_of(views, poses))


@dataclass(frozen=True)
class RowResult:
    """A row of a list with the name of its image, or with the error by which it was left out."""

    row: Row
    file: str | None = None
    error: XmdptError | None = None

    def to_json(self) -> dict[str, Any]:
        row = self.row
        known = {"line": row.line, "source": str(row.source), "pose": str(row.pose)}
        if self.error is not None:
            return {**known, "error": self.error.message, "hint": self.error.hint}
        return {**known, "file": self.file}


def generate_listed_images(
    pipe: XMDPTPipeline,
    rows: Sequence[Row],
    config: SamplingConfig,
    out: Path,
    *,
    options: InputOptions = DEFAULT_OPTIONS,
    square: bool = False,
    batch: int | None = None,
    progress: Progress = silent,
    notify: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Generate the image of each row of a list into ``out``; the model is loaded once.

    Returns the record with ``rows``: each has its line and its ``file``, or the ``error`` by which
    it was left out (``notify`` is called, too). The rules of ``generate_own_images`` hold for
    ``out``. A row whose given name exists as another image is left out.
    """
    pipe.encoders.find()
    folder, _ = _image_folder(pipe, config, out, square, notify)
    results: list[RowResult] = []
    sheet: list[list[ImageArray]] = []
    sources: dict[str, None] = {}
    notes: dict[str, None] = {}
    generated = 0
    with only_process(out):
        folder.check()
        for row in rows:
            if row.out:
                folder.reserve(row.out)
        progress("sample", 0, len(rows))
        for start in range(0, len(rows), SECTION):
            planned: list[PlannedImage] = []
            read: Sources = {}
            for row in rows[start : start + SECTION]:
                try:
                    image = _planned(pipe, row, config, options, folder, read)
                except ConfigError:  # a wrong option, the same for all rows
                    raise
                except XmdptError as err:
                    results.append(RowResult(row, error=err))
                    notify(f"line {row.line} is left out: {err.message}")
                else:
                    results.append(RowResult(row, file=image.name))
                    planned.append(image)

            def report(done: int, start: int = start) -> None:
                progress("sample", start + done, len(rows))

            generated += folder.generate(pipe, planned, config, batch, report)
            for image in planned:
                views, pose = image.request.views, image.request.pose
                sources[views[0].name] = None
                notes.update(dict.fromkeys(notes_of(views, [pose])))
                if len(sheet) < SHEET_ROWS:
                    files = [out / image.name]
                    sheet.append(sheet_row(views, pose, files, pipe.resolution, square))
        progress("sample", len(rows), len(rows))
        record: dict[str, Any] = {**folder.settings, "files": [], "sheet": None}
        if files_made := [result.file for result in results if result.file is not None]:
            folder.save_sheet(sheet, ("source", "pose", "generated"))
            record = folder.finish(files_made, list(sources), list(notes))
    return {**record, "rows": [result.to_json() for result in results], "generated": generated}


def _image_folder(
    pipe: XMDPTPipeline,
    config: SamplingConfig,
    out: Path,
    square: bool,
    notify: Callable[[str], None],
) -> tuple[ImageFolder, dict[str, Any]]:
    """The folder, and the settings that all of its images share."""
    settings = {**pipe.sampler.described(config, pipe.encoders.decoder), "square": square}
    return ImageFolder(out, settings, notify), settings


def _planned(
    pipe: XMDPTPipeline,
    row: Row,
    config: SamplingConfig,
    options: InputOptions,
    folder: ImageFolder,
    read: Sources,
) -> PlannedImage:
    """Read the inputs of a row; ``read`` keeps its source for other rows. Raises XmdptError if the
    image cannot be generated."""
    source = (row.source, row.source_keypoints)
    if source not in read:
        read[source] = read_views(pipe, row.source, row.source_keypoints, options)
    views = read[source]
    poses = read_poses(pipe, row.pose, options, views[0].size)
    if len(poses) > 1:
        raise XmdptError(
            f"{row.pose} holds {len(poses)} poses, and a row is one image",
            "give each pose a file and a row, or use --source and --pose for a sequence",
        )
    (pose,) = poses
    request = ImageRequest(views, pose, config.seed if row.seed is None else row.seed)
    metadata = describe_image(pipe, request, config, bool(folder.settings["square"]))
    if row.out:
        folder.check_named(row.out, metadata)
        return PlannedImage(request, metadata, row.out)
    (name,) = folder.place(pair_name(views[0].name, pose.name), [metadata])
    return PlannedImage(request, metadata, name)
