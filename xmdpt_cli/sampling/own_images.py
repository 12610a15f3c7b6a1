"""A user's own person in a user's own poses, into a folder: PNGs, a sheet, an animation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xmdpt_cli.files import only_process
from xmdpt_cli.images import load_image, unsquash
from xmdpt_cli.progress import Progress, silent
from xmdpt_cli.sampling.animation import check_free, write_animation
from xmdpt_cli.sampling.config import SamplingConfig
from xmdpt_cli.sampling.dataset_images import SHEET_ROWS
from xmdpt_cli.sampling.image_folder import OwnFolder, pair_name, sheet_row
from xmdpt_cli.sampling.inputs import Pose, View
from xmdpt_cli.sampling.metadata import image_facts
from xmdpt_cli.sampling.pipeline import XMDPTPipeline
from xmdpt_cli.sampling.png_writer import Writer


def draw_own(
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
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Draw every pose into ``out``; returns the record, which is written as well.

    Pictures have the shape of what the model learned from, 176:256, or are ``square`` as it draws
    them. ``out`` may hold samples of the same model and settings already: what is there from the
    same inputs is not made again, and other inputs add files. Nothing is ever replaced: other
    settings are an XmdptError that names them, and so is a file that is not ours; another person or
    pose of a name that is there gets ``_2`` behind its own (said). ``animation``: the first picture
    of every pose, in order.
    """
    jobs = [(p, k) for p in range(len(poses)) for k in range(num_images)]
    shared = pipe.sampler.described(config, pipe.encoders.vae)
    facts = [image_facts(shared, views, poses[p], k, square) for p, k in jobs]
    folder = OwnFolder(out, {**shared, "square": square}, say)
    inputs = [one["inputs"] for one in facts[::num_images]]
    film = {"inputs": inputs, "square": square, "fps": fps, **shared}
    with only_process(out):
        folder.check()
        if animation is not None:
            check_free(animation, film)
        names: list[str] = []
        for p, pose in enumerate(poses):
            own = facts[p * num_images :][:num_images]
            names += folder.place(pair_name(views[0].name, pose.name), own)
        missing = [i for i, name in enumerate(names) if not folder.is_made(name, facts[i])]
        folder.begin()
        done = len(jobs) - len(missing)
        progress("sample", done, len(jobs))
        wanted = [jobs[i] for i in missing]
        with Writer() as writer:
            drawn = pipe._draw(views, poses, config, jobs=wanted, batch=batch, say=say)
            for i, picture in zip(missing, drawn, strict=True):
                writer.put(out / names[i], picture if square else unsquash(picture), facts[i])
                done += 1
                progress("sample", done, len(jobs))
        rows = []
        for p, pose in enumerate(poses[:SHEET_ROWS]):
            files = [out / name for name in names[p * num_images :][:num_images]]
            rows.append(sheet_row(views, pose, files, pipe.resolution, square))
        columns = ["source"] * len(views) + ["pose"] + ["generated"] * num_images
        folder.save_sheet(rows, columns)
        if animation is not None:
            frames = [np.asarray(load_image(out / name)) for name in names[::num_images]]
            write_animation(animation, frames, fps, film)
        sources = [view.name for view in views]
        return folder.finish(names, sources, notes_of(views, poses))


def notes_of(views: Sequence[View], poses: Sequence[Pose]) -> list[str]:
    """What was done to what was given."""
    return [n for view in views for n in view.notes] + [n for pose in poses for n in pose.notes]
