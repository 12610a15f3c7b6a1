"""Images of synthetic people that a model was not trained on, beside the ground truth."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xmdpt_cli.files import write_text, writing
from xmdpt_cli.images import ImageArray, load_image, unsquash
from xmdpt_cli.pose.drawing import draw_pose_map
from xmdpt_cli.progress import Progress, silent
from xmdpt_cli.sampling.own_images import generate_listed_images
from xmdpt_cli.sampling.pair_list import Row
from xmdpt_cli.sampling.pipeline import XMDPTPipeline
from xmdpt_cli.sampling.record import save_sheet
from xmdpt_cli.sampling.sampler import SamplingConfig
from xmdpt_cli.toy.people.views import View, render_view, views_of

INPUTS = "inputs"  # subfolder of the sources and the poses
HEIGHT = 256  # of the sources, pixels
COLUMNS = ("source", "pose", "ground truth", "generated")


@dataclass(frozen=True)
class Example:
    """A synthetic person in one view, and the pose of another view of the same person."""

    name: str  # person_1_pose_2
    source_name: str  # person_1
    source: View
    target: View


def examples_of(people: int = 4, poses: int = 2) -> list[Example]:
    """``poses`` (1 to 4) poses for each of ``people`` persons of the test split, seen completely.

    Models that are trained on the training split of ``xmdpt synth`` have not seen them.
    """
    if not 1 <= poses <= 4:
        raise ValueError(f"a person has 1 to 4 poses, not {poses}")
    out: list[Example] = []
    index = 0
    while len(out) < people * poses:
        views = views_of("test", index, seed=0, views=5)
        index += 1
        source, *targets = [view for view in views if not view.pose.is_cropped]
        if source is views[0] and len(targets) >= poses:
            name = f"person_{len(out) // poses + 1}"
            out += [
                Example(f"{name}_pose_{k}", name, source, target)
                for k, target in enumerate(targets[:poses], start=1)
            ]
    return out


def generate_examples(
    pipe: XMDPTPipeline,
    examples: list[Example],
    config: SamplingConfig,
    out: Path,
    *,
    batch: int | None = None,
    progress: Progress = silent,
    notify: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Generate the examples into ``out``; returns the record of ``generate_listed_images``.

    The rendered sources and the poses are saved in ``out/inputs``, so that they can be given to
    ``xmdpt sample``. The contact sheet shows the ground truth beside each image.
    """
    inputs = out / INPUTS
    rows: list[Row] = []
    with writing(inputs):
        inputs.mkdir(parents=True, exist_ok=True)
        for line, example in enumerate(examples, start=1):
            source = inputs / f"{example.source_name}.png"
            pose = inputs / f"{example.name}.json"
            if source not in (row.source for row in rows):
                _save(source, example.source)
            _write_pose(pose, render_view(example.target, height=HEIGHT).keypoints)
            rows.append(Row(line, source, pose, f"{example.name}.png"))
    record = generate_listed_images(
        pipe, rows, config, out, batch=batch, progress=progress, notify=notify
    )
    shared = {key: record[key] for key in ("sampling", "toy")}
    save_sheet(out, [_sheet_row(pipe, one, out) for one in examples], COLUMNS, shared)
    return record


def _save(path: Path, view: View) -> None:
    """Save an image and, beside it, the keypoints of its person."""
    rendering = render_view(view, height=HEIGHT)
    Image.fromarray(rendering.image).save(path)
    _write_pose(path.with_suffix(".json"), rendering.keypoints)


def _write_pose(path: Path, keypoints: NDArray[np.float64]) -> None:
    joints = [None if np.isnan(x) else [round(x, 2), round(y, 2)] for x, y in keypoints.tolist()]
    size = {"width": round(HEIGHT * 11 / 16), "height": HEIGHT}
    write_text(path, json.dumps({"keypoints": joints, **size}))


def _sheet_row(pipe: XMDPTPipeline, example: Example, out: Path) -> list[ImageArray]:
    """Source, pose, ground truth and generated image, in the size of the last."""
    generated = np.asarray(load_image(out / f"{example.name}.png"))
    height, width = generated.shape[:2]
    target = render_view(example.target, height=height)
    squash = np.array([height / width, 1.0])  # a pose map is square
    pose = unsquash(draw_pose_map(target.keypoints * squash, height))
    return [render_view(example.source, height=height).image, pose, target.image, generated]
