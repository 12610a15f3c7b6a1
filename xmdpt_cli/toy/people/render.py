"""Renders and stores the images, in several processes if requested.

Rendering is many small NumPy operations, which hold the GIL. The workers are plain child
interpreters (``python -m xmdpt_cli.toy.people.render``) and not a multiprocessing pool: a pool
would run the caller's script again, or fork a process that has loaded torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.toy.people.views import render_view, views_of

QUALITY = 95
Points = list[NDArray[np.float64]]  # (18, 2) of each view of an item


def usable_workers(items: int) -> int:
    """One worker per core, but at least 16 items for each: starting one takes about 0.5 s."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return max(1, min(cores, 16, items // 16))


def render_people(
    out: Path,
    people: list[tuple[str, int]],
    *,
    seed: int,
    views: int,
    plain: bool,
    height: int,
    workers: int,
) -> Iterator[Points]:
    """Save all views of the (split, index) ``people`` under ``out``; yield their keypoints in image
    pixels, in order. Raises XmdptError if an image cannot be written."""
    workers = min(workers, len(people))
    task: dict[str, Any] = {"seed": seed, "views": views, "plain": plain, "height": height}
    if workers < 2 or not sys.executable:
        for person in people:
            yield _item(out, person, **task)
        return
    task["out"] = str(out.resolve())
    children = [_start({**task, "people": people[k::workers]}) for k in range(workers)]
    try:
        for i in range(len(people)):
            child = children[i % workers]
            assert child.stdout is not None
            assert child.stderr is not None
            line = child.stdout.readline()
            if not line:
                message = child.stderr.read().strip().splitlines() or ["no message"]
                raise XmdptError(f"rendering into {out} failed: {message[-1]}")
            yield [np.array(points, np.float64) for points in json.loads(line)]
    finally:
        for child in children:
            child.kill()
            child.wait()
            for pipe in (child.stdout, child.stderr):
                if pipe is not None:
                    pipe.close()


def _start(task: dict[str, Any]) -> subprocess.Popen[str]:
    root = str(Path(__file__).resolve().parents[3])
    path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
    child = subprocess.Popen(
        [sys.executable, "-m", "xmdpt_cli.toy.people.render"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError), child.stdin:  # it ended: its message is read later
        child.stdin.write(json.dumps(task))
    return child


def _item(out: Path, person: tuple[str, int], *, height: int, **how: Any) -> Points:
    points = []
    for view in views_of(*person, **how):
        rendering = render_view(view, height=height)
        path = out / view.path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # colours at full resolution: stripes and dots are a few pixels wide
            Image.fromarray(rendering.image).save(path, "JPEG", quality=QUALITY, subsampling=0)
        except OSError as err:
            raise XmdptError(f"cannot write {path}: {err}") from None
        points.append(rendering.keypoints)
    return points


def _child() -> None:
    """Read a task from stdin; write one line of JSON per item to stdout, NaN as Python does."""
    task = json.load(sys.stdin)
    out, people = Path(task.pop("out")), task.pop("people")
    for split, index in people:
        points = _item(out, (split, index), **task)
        print(json.dumps([p.tolist() for p in points]), flush=True)


if __name__ == "__main__":
    _child()
