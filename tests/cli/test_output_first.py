"""Where a result goes is checked before the work, so nothing is overwritten or lost at its end."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xmdpt_cli.cli.app import run
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.files import check_writable

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def line(tmp_path: Path) -> list[str]:
    """An evaluation of two images, which takes no network."""
    rng = np.random.default_rng(0)
    for folder in ("g", "t"):
        (tmp_path / folder).mkdir()
        for k in range(2):
            pixels = rng.integers(0, 256, (60, 60, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{k}.png")
    folders = ["--generated", str(tmp_path / "g"), "--target", str(tmp_path / "t")]
    return ["evaluate", *folders, "--psnr", "--protocol", "native", "--out"]


@pytest.mark.parametrize("name", ["r.csv", "r.html", "r", "r.JSON.bak"])
def test_a_report_is_named_by_its_json(
    name: str, line: list[str], tmp_path: Path, capsys: Capture
) -> None:
    """The CSV and the page are written beside it, and would overwrite it."""
    assert run([*line, str(tmp_path / name)]) == 2
    output = capsys.readouterr().err
    assert f"--out must be a JSON file, not {tmp_path / name}" in output
    assert f"hint: --out {(tmp_path / name).with_suffix('.json')}" in output
    assert "evaluate:" not in output  # nothing was measured
    assert not (tmp_path / name).exists()


def test_a_json_has_its_csv_and_page_beside_it(line: list[str], tmp_path: Path) -> None:
    out = tmp_path / "new" / "r.json"
    assert run([*line, str(out)]) == 0
    assert sorted(path.name for path in out.parent.iterdir()) == ["r.csv", "r.html", "r.json"]
    assert json.loads(out.read_text())["protocol"] == "native"
    assert out.with_suffix(".csv").read_text().startswith("protocol,")


@pytest.mark.parametrize(
    ("out", "code", "output"),
    [
        ("t", 2, "a folder, not a file"),
        ("file/r.json", 1, "Not a directory"),
        ("file/new/r.json", 1, "Not a directory"),
    ],
)
def test_an_unwritable_report_is_refused_before_the_evaluation(
    out: str, code: int, output: str, line: list[str], tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "file").write_text("")
    assert run([*line, str(tmp_path / out)]) == code
    printed = capsys.readouterr().err
    assert output in printed
    assert "--out" in printed
    assert "evaluate:" not in printed
    # before anything else, too: the folder of images is not looked at
    wrong = ["evaluate", "--generated", "nowhere", "--target", "nowhere", "--out"]
    assert run([*wrong, str(tmp_path / out)]) == code
    assert output in capsys.readouterr().err


def test_a_folder_in_the_place_of_the_csv_is_refused(
    line: list[str], tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "r.csv").mkdir()
    assert run([*line, str(tmp_path / "r.json")]) == 2
    assert f"a folder, not a file: {tmp_path / 'r.csv'}" in capsys.readouterr().err
    assert not (tmp_path / "r.json").exists()


def test_the_default_report_is_checked_as_well(
    line: list[str], tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "g" / "metrics.html").mkdir()
    assert run(line[:-1]) == 2
    assert "metrics.html" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [["bench"], ["bench", "encode"], ["bench", "train"], ["convert", "ema.pt"]]
)
def test_other_commands_check_their_output_first(
    command: list[str], tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "file").write_text("")
    assert run([*command, "--out", str(tmp_path / "file" / "x")]) == 1
    output = capsys.readouterr().err
    assert f"cannot write {tmp_path / 'file' / 'x'}" in output
    assert "choose another --out" in output


def test_the_check_leaves_no_files(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b" / "r.json")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "r.json").write_text("old")
    check_writable(tmp_path / "r.json")
    assert (tmp_path / "r.json").read_text() == "old"
    with pytest.raises(ConfigError, match="a folder, not a file"):
        check_writable(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(XmdptError, match="Permission denied") as caught:
        check_writable(tmp_path / "r.json")
    assert "--out" in caught.value.hint
    tmp_path.chmod(0o700)
