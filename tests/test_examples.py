"""Every script of examples/ runs."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from forked import Forked
from PIL import Image
from safetensors.torch import load_file, save_file
from stick_people import FIGURE
from toy_models import SIZE, make_encoders, make_model, person, write_pose

from xmdpt_cli.datasets.find import find_dataset
from xmdpt_cli.prepare.pipeline import prepare_dataset
from xmdpt_cli.report.contact_sheet import GAP, HEADER
from xmdpt_cli.toy.encoders import toy_encoders
from xmdpt_cli.toy.synthetic import make_synthetic

REPO = Path(__file__).resolve().parents[1]
EXAMPLES = REPO / "examples"


@pytest.fixture(autouse=True)
def _in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run_script(arguments: list[str]) -> None:
    sys.argv = arguments
    runpy.run_path(arguments[0], run_name="__main__")


def call(*command: object) -> str:
    """Run a script in a process of its own, in the current folder; what it printed."""
    process = Forked(run_script, [str(word) for word in command])
    output, errors = process.communicate(300)
    assert process.returncode == 0, errors
    return output


def test_one_person_many_poses(tmp_path: Path) -> None:
    make_synthetic(tmp_path / "raw", people_train=1, people_test=2, views=3, height=64, workers=1)
    encoders = toy_encoders(SIZE)
    prepare_dataset(find_dataset(tmp_path / "raw"), tmp_path / "data", size=SIZE, encoder=encoders)
    encoders.save(tmp_path / "data/encoders")
    make_model(tmp_path / "run", tmp_path / "data/encoders")
    script = EXAMPLES / "one_person_many_poses.py"
    call(script, "data", "run", "strip.png", "--poses", 3)
    cell = 128 + GAP  # smaller images are enlarged
    assert Image.open(tmp_path / "strip.png").size == (GAP + 4 * cell, HEADER + 2 * cell)


def test_own_image(tmp_path: Path) -> None:
    make_model(tmp_path / "model", make_encoders(tmp_path / "encoders"))
    person().save(tmp_path / "person.jpg")
    for name in ("person.json", "pose.json"):
        write_pose(tmp_path / name, FIGURE)
    script = EXAMPLES / "own_image.py"
    given = ["model", "person.jpg", "person.json", "pose.json", "out.png"]
    assert "out.png: generated" in call(script, *given)
    assert Image.open(tmp_path / "out.png").size == (22, 32)


def test_convert_published(shared: Callable[[str], Path], tmp_path: Path) -> None:
    golden = load_file(shared("golden/dev_a.safetensors"))
    weights = tmp_path / "published.safetensors"
    save_file({k[6:]: v for k, v in golden.items() if k.startswith("state.")}, weights)
    script = EXAMPLES / "convert_published.py"
    assert "parameters in inference" in call(script, weights, "m")
    assert (tmp_path / "m/model.safetensors").is_file()


def test_gpu_check_in_short(tmp_path: Path) -> None:
    script = EXAMPLES / "gpu_check.py"
    parts = "sampling-S"  # docs/checking-a-gpu.md runs a training part
    output = call(script, "--small", "--parts", parts, "--out", "gpu")
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
