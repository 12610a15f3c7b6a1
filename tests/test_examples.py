"""Every example runs; the README lists the program's commands."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from stick_people import FIGURE
from toy_models import make_encoders, make_model, person, write_pose

import xmdpt_cli
from xmdpt_cli.cli.app import app
from xmdpt_cli.report.contact_sheet import GAP, HEADER
from xmdpt_cli.sampling.pipeline import XMDPTPipeline

REPO = Path(__file__).resolve().parents[1]
EXAMPLES = REPO / "examples"
README = (REPO / "README.md").read_text(encoding="utf-8")


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
    parts = "sampling-S,training-S"
    output = call(sys.executable, script, "--small", "--parts", parts, "--out", "gpu", cwd=tmp_path)
    assert "ok       training-S" in output
    report = json.loads((tmp_path / "gpu/gpu_check.json").read_text())
    assert report["dry_run"]
    assert report["passed"]
    assert {row["part"] for row in report["rows"]} == set(parts.split(","))
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


def test_the_readme_lists_exactly_the_commands() -> None:
    commands = [c for c in app.registered_commands if not c.hidden]  # hidden: earlier names
    there = {c.name or c.callback.__name__.replace("_", "-") for c in commands}
    there |= {str(group.name) for group in app.registered_groups}
    named = set(re.findall(r"^\| `xmdpt ([a-z-]+)` \|", README, re.M))
    assert named == there


def test_the_options_in_the_readme_exist() -> None:
    shown: dict[tuple[str, ...], str] = {}
    for line in re.findall(r"^xmdpt .*$", README, re.M):
        command, *rest = line.split("#")[0].split()[1:]
        grouped = command == "bench" and rest and not rest[0].startswith("--")
        named = (command, *rest[: 1 if grouped else 0])
        if named not in shown:
            shown[named] = call(sys.executable, "-m", "xmdpt_cli", *named, "--help", cwd=REPO)
        for option in (word for word in rest if word.startswith("--")):
            assert option in shown[named], f"{command} has no {option}"


def snippets() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, re.S)


def test_the_pipeline_snippet_uses_existing_arguments() -> None:
    """Every call of the snippet fits the pipeline's signatures; it needs a trained model to run."""
    (snippet,) = (text for text in snippets() if "XMDPTPipeline" in text)
    calls = [node for node in ast.walk(ast.parse(snippet)) if isinstance(node, ast.Call)]
    checked = []
    for call in calls:
        function = call.func
        name = function.attr if isinstance(function, ast.Attribute) else ast.unparse(function)
        called = xmdpt_cli.save_png if name == "save_png" else XMDPTPipeline.__call__
        if isinstance(function, ast.Attribute):
            called = getattr(XMDPTPipeline, name)
        own = [] if inspect.ismethod(called) or name == "save_png" else [None]
        keywords = {str(keyword.arg): None for keyword in call.keywords}
        inspect.signature(called).bind(*own, *call.args, **keywords)
        checked.append(name)
    methods = ["from_pretrained", "push_to_hub", "save_pretrained"]
    assert sorted(checked) == sorted(["pipe", "save_png", *methods])


def test_the_model_snippet_runs() -> None:
    (snippet,) = (text for text in snippets() if "XMDPT.from_size" in text)
    small = snippet.replace("steps=50", "steps=2")
    assert small != snippet
    scope: dict[str, object] = {}
    exec(small, scope)
    generated = scope["generated"]
    assert isinstance(generated, torch.Tensor)
    assert generated.shape == (1, 4, 32, 32)


def test_the_test_command_is_the_one_ci_runs() -> None:
    ci = (REPO / ".ci/run").read_text(encoding="utf-8")
    assert "-m pytest" in README
    assert "-c constraints.txt -e '.[dev]'" in README
    assert "-c constraints.txt -e '.[dev]'" in ci
    assert re.search(r"^python -m pytest$", ci, re.M)
