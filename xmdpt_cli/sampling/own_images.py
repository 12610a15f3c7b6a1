"""A user's own person in a user's own poses, into a folder: PNGs, a sheet, an animation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xmdpt_cli.files import only_process
from xmdpt_cli.images import load_image
from xmdpt_cli.progress import Progress, silent
from xmdpt_cli.sampling.animation import check_free, write_animation
from xmdpt_cli.sampling.config import SamplingConfig
from xmdpt_cli.sampling.dataset_images import SHEET_ROWS
from xmdpt_cli.sampling.generation import describe_image, pose_requests
from xmdpt_cli.sampling.image_folder import ImageFolder, PlannedImage, pair_name, sheet_row
from xmdpt_cli.sampling.inputs import Pose, View, notes_of
from xmdpt_cli.sampling.pipeline import XMDPTPipeline


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
    """Generate every pose into ``out``; returns the record, which is written as well.

    Images have the shape of the training images, 176:256, or are ``square`` as the model generates
    them. ``out`` may hold samples of the same model and settings already: images of the same inputs
    are not generated again, and other inputs add files. Nothing is ever replaced: other settings
    are an XmdptError that names them, and so is a file that is not ours; another person or pose
    with a name that is taken gets ``_2`` behind its own, and ``notify`` is called. ``animation``:
    the first image of every pose, in order.
    """
    requests = pose_requests(views, poses, num_images, config.seed)
    metadata = [describe_image(pipe, request, config, square) for request in requests]
    shared = pipe.sampler.described(config, pipe.encoders.vae)
    folder = ImageFolder(out, {**shared, "square": square}, notify)
    inputs = [one["inputs"] for one in metadata[::num_images]]
    about_film = {"inputs": inputs, "square": square, "fps": fps, **shared}
    with only_process(out):
        folder.check()
        if animation is not None:
            check_free(animation, about_film)
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
            write_animation(animation, frames, fps, about_film)
        return folder.finish(names, [view.name for view in views], notes_of(views, poses))
