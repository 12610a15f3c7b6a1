"""The demo in short: every step runs, and a second call finds all of it done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from xmdpt_cli.cli.app import run
from xmdpt_cli.cli.demo import beats, verdict


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both demos are made in it: the second takes people and VAE of the first."""
    return tmp_path_factory.mktemp("demo")


@pytest.mark.parametrize("paper", [False, True])
def test_demo_in_short(paper: bool, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["demo", "--out", str(folder), "--people", "3", "--train-steps", "2"]
    args += ["--vae-steps", "2", "--json", *(["--paper"] if paper else [])]
    assert run(args) == 0
    captured = capsys.readouterr()
    summary = json.loads(captured.out)
    assert summary["toy"] is True
    assert summary["paper_model"] is paper
    assert ("departs from the paper" in captured.err) is not paper
    assert Path(summary["image"]).is_file()
    written = json.loads((folder / ("demo-paper.json" if paper else "demo.json")).read_text())
    assert written["rows"] == summary["rows"]
    assert run(args) == 0  # all is there: nothing is made again, the numbers are the same
    assert json.loads(capsys.readouterr().out)["rows"] == summary["rows"]


def test_the_verdict_is_honest() -> None:
    rows = {
        "generated": {"ssim_256": 0.5, "l1": 0.2, "fid_toyconv": 2.0},
        "copy-source": {"ssim_256": 0.4, "l1": 0.1, "fid_toyconv": 1.0},  # real images
        "mean-image": {"ssim_256": 0.6, "l1": 0.3, "fid_toyconv": 3.0},
    }
    found = beats(rows)
    assert found["copy-source"] == {"ssim_256": True, "l1": False}
    assert found["mean-image"] == {"ssim_256": False, "l1": True, "fid_toyconv": True}
    said = verdict({"beats": found})
    assert said == "NOT better than copy-source in l1; NOT better than mean-image in ssim_256"
    assert "better than" in verdict({"beats": {"copy-source": {"l1": True}}})
