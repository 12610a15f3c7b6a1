"""Every script of examples/ runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file
from stick_people import FIGURE
from toy_models import make_encoders, make_model, person, write_pose

from xmdpt_cli.report.contact_sheet import GAP, HEADER

REPO = Path(__file__).resolve().parents[1]
EXAMPLES = REPO / "examples"


def call(*command: object, cwd: Path) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [str(c) for c in command],
        cwd=cwd,
        env={**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("examples")
    short = ["env", "XMDPT_SAMPLE_STEPS=4"]
    output = call(*short, "bash", EXAMPLES / "whole_way.sh", out, 3, 2, 2, cwd=out)
    assert f"look at {out}/samples/sheet.png" in output
    return out


def test_the_complete_workflow_with_toys(walked: Path) -> None:
    assert (walked / "samples/metrics.json").is_file()
    assert Image.open(walked / "samples/sheet.png").width > 4 * 128


def test_one_person_many_poses(walked: Path) -> None:
    script = EXAMPLES / "one_person_many_poses.py"
    call(sys.executable, script, "data", "run", "strip.png", "--poses", 3, cwd=walked)
    cell = 128 + GAP  # images of 64 px are enlarged
    assert Image.open(walked / "strip.png").size == (GAP + 4 * cell, HEADER + 2 * cell)


def test_own_image(tmp_path: Path) -> None:
    make_model(tmp_path / "model", make_encoders(tmp_path / "encoders"))
    person().save(tmp_path / "person.jpg")
    for name in ("person.json", "pose.json"):
        write_pose(tmp_path / name, FIGURE)
    script = EXAMPLES / "own_image.py"
    given = ["model", "person.jpg", "person.json", "pose.json", "out.png"]
    assert "out.png: generated" in call(sys.executable, script, *given, cwd=tmp_path)
    assert Image.open(tmp_path / "out.png").size == (22, 32)


def test_convert_published(shared: Callable[[str], Path], tmp_path: Path) -> None:
    golden = load_file(shared("golden/dev_a.safetensors"))
    weights = tmp_path / "published.safetensors"
    save_file({k[6:]: v for k, v in golden.items() if k.startswith("state.")}, weights)
    script = EXAMPLES / "convert_published.py"
    assert "parameters in inference" in call(sys.executable, script, weights, "m", cwd=tmp_path)
    assert (tmp_path / "m/model.safetensors").is_file()


def test_gpu_check_in_short(tmp_path: Path) -> None:
    script = EXAMPLES / "gpu_check.py"
    parts = "sampling-S"  # docs/checking-a-gpu.md runs a training part
    output = call(sys.executable, script, "--small", "--parts", parts, "--out", "gpu", cwd=tmp_path)
    assert "measured sampling-S" in output
    report = json.loads((tmp_path / "gpu/gpu_check.json").read_text())
    assert report["dry_run"]
    assert report["passed"]
    assert {row["part"] for row in report["rows"]} == {parts}
    table = (tmp_path / "gpu/gpu_check.md").read_text()
    assert "measures nothing" in table
    assert "8 images, 3 DDIM steps, decoded" in table
    assert list(tmp_path.iterdir()) == [tmp_path / "gpu"]


def test_every_example_is_tested() -> None:
    here = Path(__file__).read_text(encoding="utf-8")
    scripts = [path for path in EXAMPLES.iterdir() if path.suffix in (".py", ".sh")]
    assert len(scripts) > 3
    for path in scripts:
        assert path.name in here, f"{path.name} has no test"
