"""A short demo: every step runs, and a second call finds every step complete."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from xmdpt_cli.cli.app import run
from xmdpt_cli.toy.demo import Scale


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Both demos run in it, with fewer test people: the second uses the people and the VAE."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xmdpt_cli.toy.demo.Scale", partial(Scale, test_people=3))
        yield tmp_path_factory.mktemp("demo")


@pytest.mark.parametrize("paper", [False, True])
def test_a_short_demo_runs_and_repeats(
    paper: bool, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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
    assert run(args) == 0  # every step is complete already: the numbers are the same
    assert json.loads(capsys.readouterr().out)["rows"] == summary["rows"]
