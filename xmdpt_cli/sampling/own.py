"""A user's own person in a user's own poses, into a folder: PNGs, a sheet, an animation."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from xmdpt_cli.data.pose import draw_pose_map
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import only_process, write_text, writing
from xmdpt_cli.images import Picture, fast_png_bytes, load_image, save_bytes, unsquash
from xmdpt_cli.progress import Progress, silent
from xmdpt_cli.sampling.animate import write_animation
from xmdpt_cli.sampling.generate import RECORD, SHEET, SHEET_ROWS
from xmdpt_cli.sampling.inputs import Pose, View
from xmdpt_cli.sampling.pipeline import XMDPTPipeline
from xmdpt_cli.sampling.recipe import Recipe
from xmdpt_cli.sampling.sheet import contact_sheet
from xmdpt_cli.sampling.writer import KEYWORD, Writer, is_whole, metadata

FORMAT = "xmdpt-own-samples"


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
    shared = pipe.sampler.described(recipe, pipe.networks.vae)
    digests = [_digest(views, pose) for pose in poses]
    facts = [{"image": k, "inputs": digests[p], "square": square, **shared} for p, k in jobs]
    with only_process(out):
        _check_ours(out)
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
            sheet = _sheet(pipe, views, poses, names, num_images, out, square)
            save_bytes(out / SHEET, fast_png_bytes(sheet, metadata({"toy": pipe.toy})))
        if animation is not None:
            frames = [np.asarray(load_image(out / name)) for name in names[::num_images]]
            write_animation(animation, frames, fps)
        record = {
            "format": FORMAT,
            **shared,
            "square": square,
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
    taken: set[str] = set()
    names = []
    for pose in poses:
        first = f"{_plain(views[0].name)}_in_{_plain(pose.name)}"
        for again in count(1):
            stem = first if again == 1 else f"{first}_{again}"
            ends = [""] if num_images == 1 else [f"_{k + 1}" for k in range(num_images)]
            own = [f"{stem}{end}.png" for end in ends]
            # some file systems do not tell large letters from small ones
            if taken.isdisjoint(name.casefold() for name in own):
                break
        taken.update(name.casefold() for name in own)
        names += own
    return names


def _plain(name: str) -> str:
    """A name that every file system takes, and not too long for two of them."""
    short = re.sub(r"[^\w.()+-]+", "_", name).encode()[:80].decode(errors="ignore")
    return short.strip("_.") or "picture"


def _digest(views: Sequence[View], pose: Pose) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(pose.keypoints).tobytes())
    for view in views:
        digest.update(view.picture.tobytes())
        if view.keypoints is not None:
            digest.update(np.ascontiguousarray(view.keypoints).tobytes())
    return digest.hexdigest()


def _check_ours(out: Path) -> None:
    """XmdptError if the folder's record or sheet, which every run replaces, is not ours."""
    record = out / RECORD
    if record.exists():
        try:
            told = json.loads(record.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            told = None
        if not isinstance(told, dict) or told.get("format") != FORMAT:
            raise XmdptError(f"{out} holds other samples ({RECORD})", "choose another --out")
    _told(out / SHEET)


def _is_made(path: Path, facts: dict[str, Any]) -> bool:
    """Whether this very picture is there, whole. XmdptError for a file that is not ours."""
    return bool(_told(path) == facts) and is_whole(path)


def _told(path: Path) -> Any:
    """What a picture of ours says of itself; None: it is not there.

    XmdptError for a file that is not ours. A crash of the machine may leave one of ours empty.
    """
    if not path.exists() or (path.is_file() and path.stat().st_size == 0):
        return None
    told = None
    with suppress(OSError, SyntaxError, ValueError), Image.open(path) as image:
        told = json.loads(image.info.get(KEYWORD, "null"))
    if not isinstance(told, dict):
        raise XmdptError(f"{path} is there and was not drawn by xmdpt", "choose another --out")
    return told


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
