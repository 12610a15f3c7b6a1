"""Damaged keypoint files: whatever a file holds, it is read or refused by name.

``MUTATIONS=5000 pytest tests/data/test_keypoint_mutations.py`` tries more of them.
"""

from __future__ import annotations

import copy
import json
import os
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stick_people import FIGURE

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.images import save_png
from xmdpt_cli.pose.formats import frame_of_image, read_poses
from xmdpt_cli.pose.formats.beside_images import KeypointsBeside
from xmdpt_cli.sampling.inputs import read_pose

COUNT = int(os.environ.get("MUTATIONS", "60"))  # of each kind of file
SIZE = (256, 176)

ROWS = (FIGURE * (176, 256)).round(1).tolist()
FLAT = [value for row in ROWS for value in (*row, 0.9)]
PEOPLE = {"people": [{"pose_keypoints_2d": FLAT}, {"pose_keypoints_2d": FLAT}]}
CANVAS = {"canvas_width": 176, "canvas_height": 256}
FILES: dict[str, Any] = {
    "openpose": {"version": 1.3, **PEOPLE},
    "sequence": {"frames": [PEOPLE, {"people": []}, PEOPLE], **CANVAS},
    "frames": [{**PEOPLE, **CANVAS}] * 2,
    "coco": {
        "images": [{"id": 1, "file_name": "a.png", "width": 176, "height": 256}],
        "annotations": [{"image_id": 1, "keypoints": FLAT[:51], "score": 0.5}] * 3,
    },
    "results": [{"image_id": f"{i}.png", "keypoints": FLAT[:51], "score": 2} for i in range(3)],
    "mmpose": {
        "instance_info": [
            {"frame_id": 1, "instances": [{"keypoints": ROWS, "keypoint_scores": [0.9] * 18}]}
        ]
    },
    "own": {"keypoints": [*ROWS[:17], None], "width": 176, "height": 256},
}

NASTY: list[Callable[[], Any]] = [
    lambda: None, lambda: True, lambda: -1, lambda: 0, lambda: 1e999, lambda: -1e308,
    lambda: 10**400, lambda: 10**4200, lambda: "", lambda: "x", lambda: "\ud800", lambda: "a\0b",
    lambda: "n" * 5000, lambda: "../../etc", lambda: "\x1b[31m", list, dict,
    lambda: [[]], lambda: [None] * 18, lambda: [0] * 54, lambda: [[0, 0, 0]] * 17,
    lambda: {"x": 1, "y": 2}, lambda: {"keypoints": 5}, lambda: nested(150, list),
    lambda: nested(150, dict), lambda: {"frames": [{"keypoints": []}]}, lambda: [1, 2],
    lambda: [1e7, 1e7], lambda: "1", lambda: 1e-300,
]  # fmt: skip
TEXTS = [
    "[" * 100_000, '{"frames":[' * 50_000, "9" * 5000, "1e999", "NaN", "null", "\ufeff", "\0",
    "\u2028", "]", "}", ",", ":", '"', "[-1]", "[" + "7" * 4000 + "]", "-", "0", "1 1\n", "name:",
    "\n",
]  # fmt: skip


def nested(depth: int, kind: type) -> Any:
    inner: Any = 1
    for _ in range(depth):
        inner = [inner] if kind is list else {"frames": [inner], "keypoints": 1}
    return inner


def nodes(data: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every value."""
    found: list[tuple[Any, Any]] = []
    for key in list(data) if isinstance(data, dict) else range(len(data)):
        found.append((data, key))
        if isinstance(data[key], (dict, list)):
            found += nodes(data[key])
    return found


def mutated(data: Any, rng: random.Random) -> Any:
    data = copy.deepcopy(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        places = nodes(data)
        if not places:
            break
        container, key = rng.choice(places)
        what = rng.randrange(4)
        if what == 0:
            del container[key]
        elif what == 1 and isinstance(container, list):
            container.insert(key, rng.choice(NASTY)())
        elif what == 2:
            other, name = rng.choice(places)
            if isinstance(other, (dict, list)) and (name in other or isinstance(other, list)):
                container[key] = copy.deepcopy(other[name]) if name_in(other, name) else None
        else:
            container[key] = rng.choice(NASTY)()
    return data


def name_in(container: Any, key: Any) -> bool:
    return key in container if isinstance(container, dict) else key < len(container)


def damaged(text: str, rng: random.Random) -> bytes:
    """Text with pieces cut out, doubled, or put in."""
    for _ in range(rng.choice((1, 1, 3))):
        at = rng.randrange(len(text) + 1)
        end = min(len(text), at + rng.choice((1, 1, 5, 50, 100_000)))
        put = rng.choice(("", text[at:end] * 2, rng.choice(TEXTS)))
        text = text[:at] + put + text[end:]
    data = bytearray(text.encode("utf-8", "surrogatepass"))
    if data and rng.random() < 0.2:
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def rows_text(names: int) -> str:
    x, y = (FIGURE * (176, 256)).round(1).T.tolist()
    return "name:keypoints_y:keypoints_x\n" + "".join(f"p{i}.png: {y}: {x}\n" for i in range(names))


TXT = "\n".join(f"{40 + x:.1f} {y:.1f}" for x, y in ROWS)


def attempt(file: Path) -> str | None:
    """Why the file is refused as a pose, None if it is read. Nothing but XmdptError may come."""

    def no_openpose() -> Any:
        raise XmdptError("no OpenPose")

    image = file.with_suffix(".png")
    refusals: list[str | None] = []
    readers: list[Callable[[], Any]] = [
        lambda: read_pose(file, 64, no_openpose, source_size=SIZE),
        lambda: read_poses(file),
        lambda: frame_of_image(file, image, lambda _: SIZE),
        lambda: KeypointsBeside(report=lambda _, reason: reason.encode()).find(image),
    ]
    for read in readers:
        refusals.append(None)
        try:
            read()
        except XmdptError as err:
            message = err.message + err.hint
            refusals[-1] = message
            message.encode()  # it can be printed
            assert len(message) < 3000
            assert "\x1b" not in message
            assert "\0" not in message
    return refusals[0]


@pytest.mark.parametrize("kind", [*FILES, "csv", "txt"])
def test_a_damaged_file_is_read_or_refused(tmp_path: Path, kind: str) -> None:
    rng = random.Random(f"22 {kind}")
    save_png(tmp_path / "a.png", np.zeros((256, 176, 3), np.uint8))
    refused = 0
    suffix = kind if kind in ("csv", "txt") else "json"
    file = tmp_path / f"a.{suffix}"
    for _ in range(COUNT):
        if suffix == "json":
            data = mutated(FILES[kind], rng)
            text = json.dumps(data).encode()
            if rng.random() < 0.3:
                text = damaged(json.dumps(FILES[kind]), rng)
        else:
            text = damaged(rows_text(3) if kind == "csv" else TXT, rng)
        file.write_bytes(text)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                refused += attempt(file) is not None
            except Exception:
                (tmp_path / f"failed.{suffix}").write_bytes(text)
                raise
    assert 0 < refused < COUNT


def test_undamaged_files_are_read(tmp_path: Path) -> None:
    save_png(tmp_path / "a.png", np.zeros((256, 176, 3), np.uint8))
    for kind, data in FILES.items():
        (tmp_path / "b.json").write_text(json.dumps(data))
        assert read_pose(tmp_path / "b.json", 64, lambda: None, source_size=SIZE), kind  # type: ignore[arg-type,return-value]
