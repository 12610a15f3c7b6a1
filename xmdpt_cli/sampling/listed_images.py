"""Many people in many poses, from a list: the model is loaded once, rows are batched together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.files import only_process
from xmdpt_cli.images import ImageArray
from xmdpt_cli.progress import Progress, silent
from xmdpt_cli.sampling.config import SamplingConfig
from xmdpt_cli.sampling.dataset_images import SHEET_ROWS
from xmdpt_cli.sampling.generation import ImageRequest, describe_image
from xmdpt_cli.sampling.image_folder import ImageFolder, PlannedImage, pair_name, sheet_row
from xmdpt_cli.sampling.inputs import DEFAULT_OPTIONS, InputOptions, Pose, View, notes_of
from xmdpt_cli.sampling.pair_list import Row
from xmdpt_cli.sampling.pipeline import XMDPTPipeline
from xmdpt_cli.sampling.read_inputs import read_poses, read_views

SECTION = 64  # rows whose inputs are in memory together

#: sources that were read, by their file and their keypoints' file
Sources = dict[tuple[Path, "Path | None"], list[View]]


@dataclass(frozen=True)
class RowResult:
    """A row of the list, and the name of its image or why it was left out."""

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
    """Generate the image of each row into ``out``; returns the record with ``rows``: for each its
    line and its ``file``, or the ``error`` by which it was left out (``notify`` is called, too).

    For ``out`` the rules of ``generate_own_images`` hold: nothing is replaced, nothing is generated
    twice, other settings are an XmdptError. A row whose given name is there as another image is
    left out.
    """
    pipe.encoders.find()
    shared = pipe.sampler.described(config, pipe.encoders.vae)
    folder = ImageFolder(out, {**shared, "square": square}, notify)
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
                except ConfigError:  # of the options: so it would be for all rows
                    raise
                except XmdptError as err:
                    results.append(RowResult(row, error=err))
                    notify(f"line {row.line} is left out: {err.message}")
                else:
                    results.append(RowResult(row, file=image.name))
                    planned.append(image)
            if planned:
                generated += folder.generate(
                    pipe,
                    planned,
                    config,
                    batch,
                    partial(_progress_from, progress, start, len(rows)),
                )
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


def _progress_from(progress: Progress, start: int, total: int, done: int) -> None:
    progress("sample", start + done, total)


def _planned(
    pipe: XMDPTPipeline,
    row: Row,
    config: SamplingConfig,
    options: InputOptions,
    folder: ImageFolder,
    read: Sources,
) -> PlannedImage:
    """The image of a row; ``read`` keeps its source for other rows. XmdptError if the row cannot
    be generated."""
    source = (row.source, row.source_keypoints)
    if source not in read:
        read[source] = read_views(pipe, row.source, row.source_keypoints, options)
    (view,) = views = read[source]
    pose = _single_pose(pipe, row, options, view)
    request = ImageRequest(views, pose, config.seed if row.seed is None else row.seed)
    metadata = describe_image(pipe, request, config, bool(folder.settings["square"]))
    if row.out:
        folder.check_named(row.out, metadata)
        return PlannedImage(request, metadata, row.out)
    (name,) = folder.place(pair_name(view.name, pose.name), [metadata])
    return PlannedImage(request, metadata, name)


def _single_pose(pipe: XMDPTPipeline, row: Row, options: InputOptions, view: View) -> Pose:
    poses = read_poses(pipe, row.pose, options, view.size)
    if len(poses) > 1:
        raise XmdptError(
            f"{row.pose} holds {len(poses)} poses, and a row is one image",
            "give each pose a file and a row, or use --source and --pose for a sequence",
        )
    return poses[0]
