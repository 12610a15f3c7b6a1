"""A user's own person in a user's own poses, into a folder: PNGs, a sheet, an animation."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from xmdpt_cli.data.pose import draw_pose_map
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import only_process, write_text, writing
from xmdpt_cli.images import Picture, load_image, save_png, unsquash
from xmdpt_cli.progress import Progress, silent
from xmdpt_cli.sampling.animate import write_animation
from xmdpt_cli.sampling.inputs import Pose, View
from xmdpt_cli.sampling.pipeline import XMDPTPipeline
from xmdpt_cli.sampling.recipe import Recipe
from xmdpt_cli.sampling.sheet import contact_sheet
from xmdpt_cli.sampling.writer import KEYWORD, Writer

RECORD, SHEET, SHEET_ROWS = "samples.json", "sheet.png", 16


def draw_own(
    pipe: XMDPTPipeline,
    views: Sequence[View],
    poses: Sequence[Pose],
    recipe: Recipe,
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
    them. What is there from the same inputs, seed and recipe is not made again; a file that is not
    ours is never replaced (XmdptError). ``animation``: the first picture of every pose, in order.
    """
    jobs = [(p, k) for p in range(len(poses)) for k in range(num_images)]
    names = picture_names(views, poses, num_images)
    facts = [_facts(pipe, views, poses[p], recipe, k, square) for p, k in jobs]
    with only_process(out):
        missing = [i for i, name in enumerate(names) if not _is_made(out / name, facts[i])]
        done = len(jobs) - len(missing)
        progress("sample", done, len(jobs))
        wanted = [jobs[i] for i in missing]
        with Writer() as writer:
            drawn = pipe.draw(views, poses, recipe, jobs=wanted, batch=batch, say=say)
            for i, picture in zip(missing, drawn, strict=True):
                writer.put(out / names[i], picture if square else unsquash(picture), facts[i])
                done += 1
                progress("sample", done, len(jobs))
        with writing(out):
            save_png(out / SHEET, _sheet(pipe, views, poses, names, num_images, out, square))
        if animation is not None:
            frames = [np.asarray(load_image(out / name)) for name in names[::num_images]]
            write_animation(animation, frames, fps)
        record = {
            "format": "xmdpt-own-samples",
            "recipe": asdict(recipe),
            "model": pipe.sampler.identity,
            "trained_steps": pipe.sampler.facts["trained_steps"],
            "toy": pipe.toy,
            "sources": [view.name for view in views],
            "notes": notes_of(views, poses),
            "files": names,
            "sheet": SHEET,
        }
        with writing(out):
            write_text(out / RECORD, json.dumps(record, indent=1))
    return record


def notes_of(views: Sequence[View], poses: Sequence[Pose]) -> list[str]:
    """What was done to what was given."""
    return [n for view in views for n in view.notes] + [n for pose in poses for n in pose.notes]


def picture_names(views: Sequence[View], poses: Sequence[Pose], num_images: int) -> list[str]:
    """``person_in_pose.png``, with ``_2`` behind a pose's name that came before and ``_k`` behind
    the k-th picture of one pose."""
    seen: dict[str, int] = {}
    names = []
    for pose in poses:
        stem = f"{_plain(views[0].name)}_in_{_plain(pose.name)}"
        seen[stem] = seen.get(stem, 0) + 1
        if seen[stem] > 1:
            stem = f"{stem}_{seen[stem]}"
        names += [
            f"{stem}.png" if num_images == 1 else f"{stem}_{k + 1}.png" for k in range(num_images)
        ]
    return names


def _plain(name: str) -> str:
    """A name that every file system takes, and not too long for two of them."""
    return re.sub(r"[^\w.()+-]+", "_", name).strip("_.")[:80] or "picture"


def _facts(
    pipe: XMDPTPipeline,
    views: Sequence[View],
    pose: Pose,
    recipe: Recipe,
    number: int,
    square: bool,
) -> dict[str, Any]:
    """What the picture depends on, as it is written into the PNG."""
    digest = hashlib.sha256(np.ascontiguousarray(pose.keypoints).tobytes())
    for view in views:
        digest.update(view.picture.tobytes())
        if view.keypoints is not None:
            digest.update(np.ascontiguousarray(view.keypoints).tobytes())
    return {
        "image": number,
        "square": square,
        "inputs": digest.hexdigest(),
        "recipe": {**asdict(recipe), "interval": list(recipe.interval)},
        "model": pipe.sampler.identity,
        "precision": str(pipe.sampler.dtype).removeprefix("torch."),
        "trained_steps": pipe.sampler.facts["trained_steps"],
        "toy": pipe.toy,
    }


def _is_made(path: Path, facts: dict[str, Any]) -> bool:
    """Whether this very picture is there, whole. XmdptError for a file that is not ours."""
    if not path.exists():
        return False
    try:
        with Image.open(path) as image:
            told = dict(image.info)
            image.load()
    except (OSError, SyntaxError, ValueError):
        return False  # damaged; what we write is whole, so what else was here is none of ours
    if KEYWORD not in told:
        raise XmdptError(f"{path} is there and was not drawn by xmdpt", "choose another --out")
    return bool(json.loads(told[KEYWORD]) == facts)


def _sheet(
    pipe: XMDPTPipeline,
    views: Sequence[View],
    poses: Sequence[Pose],
    names: Sequence[str],
    num_images: int,
    out: Path,
    square: bool,
) -> Picture:
    shape = (lambda picture: picture) if square else unsquash
    rows = []
    for i, pose in enumerate(poses[:SHEET_ROWS]):
        own = [np.asarray(load_image(out / name)) for name in names[i * num_images :][:num_images]]
        drawn = draw_pose_map(pose.keypoints, pipe.resolution)
        rows.append([*(shape(view.picture) for view in views), shape(drawn), *own])
    columns = ["source"] * len(views) + ["pose"] + ["generated"] * num_images
    return contact_sheet(rows, columns)
