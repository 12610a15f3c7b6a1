"""Adding a command as docs/contributing.md shows it: one function, one line in ``app.py``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
import typer

from xmdpt_cli.cli.app import app, run
from xmdpt_cli.cli.console import Talk
from xmdpt_cli.cli.help import Command, panels
from xmdpt_cli.cli.options import AsJson
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.pose.formats import write_pose_json
from xmdpt_cli.pose.formats.image_poses import ImagePoses


@panels({"Keypoints": "min-score"})
def keypoints(
    file: Annotated[Path, typer.Argument(help="Keypoints file: .json, .txt or .csv.")],
    min_score: Annotated[
        float, typer.Option(min=0, max=1, help="Lowest score of a joint; lower ones are missing.")
    ] = 0.1,
    as_json: AsJson = False,
) -> None:
    """Count the people and joints in a keypoints file.

    A file that is not understood is an error that says what was found in it.
    """
    from xmdpt_cli.pose.formats import read_poses  # heavy imports belong into the body

    talk = Talk(as_json)
    frames = read_poses(file, min_score=min_score)
    people = [person for frame in frames for person in frame.people]
    joints = sum(int(np.isfinite(person).all(axis=1).sum()) for person in people)
    if not joints:
        raise XmdptError(f"{file}: no joint found", f"a lower score: --min-score {min_score / 2}")
    talk.result(
        {"frames": len(frames), "people": len(people), "joints": joints},
        text=f"{len(people)} people with {joints} joints in {len(frames)} frames",
    )


@pytest.fixture(autouse=True)
def added() -> Iterator[None]:
    """What ``"keypoints": keypoints.keypoints`` in ``app.py`` does."""
    before = list(app.registered_commands)
    app.command("keypoints", cls=Command)(keypoints)
    yield
    app.registered_commands[:] = before


@pytest.fixture
def file(tmp_path: Path) -> Path:
    points = np.full((18, 2), np.nan)
    points[:14] = 10.0
    path = tmp_path / "pose.json"
    write_pose_json(path, [ImagePoses([points], (64, 64), "")])
    return path


def test_it_prints_text_or_one_json_object(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["keypoints", str(file)]) == 0
    assert capsys.readouterr().out == "1 people with 14 joints in 1 frames\n"
    assert run(["keypoints", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"frames": 1, "people": 1, "joints": 14}


def test_it_has_help_panels_and_a_variable(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(["keypoints", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "─ Keypoints ─" in shown
    assert "Lowest score of a joint" in shown
    monkeypatch.setenv("XMDPT_KEYPOINTS_MIN_SCORE", "2")
    assert run(["keypoints", str(file)]) == 2
    assert "XMDPT_KEYPOINTS_MIN_SCORE" in capsys.readouterr().err


def test_its_errors_have_a_hint_and_exit_codes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "none.json").write_text("{}")
    assert run(["keypoints", str(tmp_path / "none.json")]) == 1
    output = capsys.readouterr().err
    assert output.startswith("error: ")
    assert run(["keypoints", "https://host/pose.json"]) == 2
    assert "FILE" in capsys.readouterr().err
