"""``gpu_check``: parts fail independently of each other, and rows are judged by their targets."""

from __future__ import annotations

import importlib
import json
import math
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from xmdpt_cli.bench.gpu_check import goldens as recorded
from xmdpt_cli.bench.gpu_check import runner, training
from xmdpt_cli.bench.gpu_check.parts import PARTS, Part, chosen
from xmdpt_cli.bench.gpu_check.resume import difference
from xmdpt_cli.bench.gpu_check.rows import (
    FAILED,
    MEASURED,
    MISSED,
    NOT_RUN,
    OK,
    Report,
    Row,
    Setting,
    at_most,
    speed,
)
from xmdpt_cli.bench.gpu_check.runner import run
from xmdpt_cli.errors import ConfigError
from xmdpt_cli.training.checkpoint import FILES


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setting:
    monkeypatch.setenv(
        "PYTHONPATH", str(Path(__file__).parents[1] / "helpers")
    )  # where gpu_parts is
    return Setting("cpu", True, tmp_path, compile=False)


def part(name: str, wave: int = 0, prepare: float = 60.0, measure: float = 60.0) -> Part:
    """``timed-a`` is ``gpu_parts.timed`` called with "a"."""
    function, _, letter = name.partition("-")
    given = {"name": letter} if function == "timed" else {}
    return Part(name, f"gpu_parts:{function}", wave, prepare, given, measure)


def rows_of(setting: Setting, *parts: Part, budget: float = 60.0) -> list[tuple[str, Row]]:
    rows: list[tuple[str, Row]] = []
    run(parts, setting, budget, lambda name, row: rows.append((name, row)), setting.work / "log")
    return rows


def test_a_part_that_hangs_loses_no_other_row(setting: Setting) -> None:
    rows = rows_of(
        setting, part("fine-1"), part("hangs", prepare=8), part("fine-2"), part("fine-3", 1)
    )
    # parts of one wave finish in any order
    assert sorted((name, row.verdict) for name, row in rows if name != "hangs") == [
        ("fine-1", OK), ("fine-2", OK), ("fine-3", OK),
    ]  # fmt: skip
    kept, killed = (row for name, row in rows if name == "hangs")
    assert (kept.check, kept.verdict) == ("before it hangs", OK)
    assert killed.verdict == FAILED
    assert killed.note.startswith("killed after ")
    for pid in (setting.work / "pids").read_text().split():
        assert not alive(int(pid)), "the processes that a part started are killed with it"


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"  # ended, but not yet waited for


def test_a_part_that_hangs_while_it_is_measured_loses_no_other_row(setting: Setting) -> None:
    rows = dict(rows_of(setting, part("hangs_measuring", measure=1), part("fine")))
    assert rows["hangs_measuring"].verdict == FAILED
    assert rows["fine"].verdict == OK


def test_errors_and_signals_are_reported_as_rows(setting: Setting) -> None:
    rows = rows_of(setting, part("raises"), part("dies"), part("fine"))
    assert [row.check for name, row in rows if name == "raises"] == ["before it fails", "raises"]
    notes = {name: row.note for name, row in rows if row.verdict == FAILED}
    assert notes == {"raises": "ValueError: no such kernel", "dies": "ended by signal 11"}
    assert "Traceback" in (setting.work / "log").read_text()
    assert ("fine", OK) in [(name, row.verdict) for name, row in rows]


def test_parts_of_a_wave_are_prepared_together_and_measured_alone(setting: Setting) -> None:
    rows = rows_of(setting, part("timed-a"), part("timed-b"))
    at = {row.check: row.value or 0.0 for _, row in rows}
    assert max(at["a prepared"], at["b prepared"]) < min(at["a began"], at["b began"])
    assert at["a ended"] <= at["b began"]


def test_parts_without_time_left_are_reported_as_not_run(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "LEAST", 1.0)
    rows = rows_of(setting, part("hangs"), part("fine", 1), budget=4)
    assert [(name, row.verdict) for name, row in rows][-2:] == [
        ("hangs", NOT_RUN),
        ("fine", NOT_RUN),
    ]
    assert all("time for all parts" in row.note for _, row in rows[-2:])


def test_rows_are_judged_by_their_targets(setting: Setting) -> None:
    assert at_most("error", 0.1, 0.1).verdict == OK
    assert at_most("error", 0.2, 0.1).verdict == MISSED
    broken = at_most("error", math.nan, 0.1)
    assert (broken.verdict, broken.value) == (MISSED, None)
    real = Setting("cuda", False, setting.work)
    assert speed(real, "S", 0.07, "s", most=0.06).verdict == MISSED
    assert speed(real, "S", 0.05, "s", most=0.06).verdict == OK
    assert speed(real, "MFU", 44.0, "%", least=45.0).verdict == MISSED
    assert speed(real, "MFU", 46.0, "%", least=45.0).verdict == OK
    assert speed(setting, "S", 0.07, "s", most=0.06).verdict == MEASURED, (
        "a dry run measures nothing"
    )


def test_the_report_is_complete_after_every_row(tmp_path: Path) -> None:
    report = Report(tmp_path, {"device": "a GPU"}, small=False)
    report.add("sampling-S", Row("S: 8 images", 0.05, "s", "<= 0.06 s", OK, "160 images/s"))
    report.add("resume", Row("resume", verdict=NOT_RUN, note="the time was used up"))
    assert report.passed
    report.add("training-B", Row("B: MFU", 41.2, "%", ">= 45 %", MISSED))
    written = json.loads((tmp_path / "gpu_check.json").read_text())
    assert written["passed"] is False
    assert [row["verdict"] for row in written["rows"]] == [OK, NOT_RUN, MISSED]
    table = (tmp_path / "gpu_check.md").read_text()
    assert "| training-B | B: MFU | 41.2 % | >= 45 % | missed |  |" in table
    assert "- device: a GPU" in table
    assert "Dry run" not in table
    assert "Dry run" in Report(tmp_path, {}, small=True).markdown()
    assert not report.passed


def test_every_part_can_be_imported_and_chosen_by_name() -> None:
    assert len({part.name for part in PARTS}) == len(PARTS)
    for part in PARTS:
        module, _, function = part.run.partition(":")
        assert callable(getattr(importlib.import_module(module), function))
    assert [part.name for part in chosen(["encoders", "goldens"])] == ["goldens", "encoders"]
    with pytest.raises(ConfigError, match="no such part: 'golden'"):
        chosen(["golden"])


def test_a_wrong_golden_is_missed(
    setting: Setting, shared: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorded, "LIMITS", {"fp32": recorded.LIMITS["fp32"]})
    known = load_file(shared("golden/dev_a.safetensors"))
    known["out.ddim50"] = known["out.ddim50"] * 1.2
    save_file(known, setting.work / "dev_a.safetensors")
    norms = shared("golden/dev_a.gradnorms.json").read_text()
    (setting.work / "dev_a.gradnorms.json").write_text(norms)
    rows = list(recorded.goldens(Setting("cpu", True, setting.work, setting.work)))
    missed = {row.check for row in rows if row.verdict == MISSED}
    assert missed == {"fp32: 50 DDIM steps, guided"}
    assert len(rows) == 5


def test_the_error_of_a_single_number_is_relative_to_its_layer() -> None:
    norms = {"conv1d_pose.0.weight": 4.0, "conv1d_pose.0.bias": 3.0, "x.bias": 2.0, "tiny": 1e-9}
    found = {"conv1d_pose.0.weight": 4.4, "conv1d_pose.0.bias": 3.5, "x.bias": 1.0, "tiny": 1.0}
    errors = recorded.norm_errors(found, norms, by_layer=True)
    expected = {"conv1d_pose.0.weight": 0.1, "conv1d_pose.0.bias": 0.5 / 5, "x.bias": 0.5}
    assert errors == pytest.approx(expected)
    errors = recorded.norm_errors(found, norms, by_layer=False)
    assert errors == pytest.approx(expected | {"conv1d_pose.0.bias": 0.5 / 3})


def test_goldens_that_are_not_found_are_not_run(setting: Setting) -> None:
    (row,) = recorded.goldens(Setting("cpu", True, setting.work, setting.work))
    assert row.verdict == NOT_RUN
    assert "--goldens" in row.note


def test_difference_is_the_largest_of_two_runs_last_checkpoints(tmp_path: Path) -> None:
    for run_name, value in (("a", 1.0), ("b", 1.0), ("c", 1.5)):
        step = tmp_path / run_name / "checkpoints" / "step_0000008"
        step.mkdir(parents=True)
        (step / "state.json").touch()
        for name in FILES:
            weights = torch.tensor([2.0, value if name.startswith("opt") else 0.0])
            save_file({"weight": weights}, step / name)
    assert difference(tmp_path / "a", tmp_path / "b") == 0
    assert difference(tmp_path / "a", tmp_path / "c") == 0.25


def test_only_warnings_of_synchronizing_operations_count() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("does not yet detect all synchronizing operations", stacklevel=1)
    assert [training.is_sync(warning) for warning in caught] == [True, False]
