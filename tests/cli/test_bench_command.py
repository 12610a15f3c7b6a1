"""The command ``xmdpt bench``; the speed is not asserted."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from xmdpt_cli.bench import machine
from xmdpt_cli.cli.app import run

TINY = ["bench", "--size", "tiny", "--no-compile", "--rounds", "1"]
ONE_ROW = [*TINY, "--impl", "attention", "--no-baselines"]


@pytest.fixture(autouse=True)
def _short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """One call per turn and small probes of the machine: no test reads the speed."""
    monkeypatch.setattr("xmdpt_cli.bench.timing._TURN", 1e-9)
    monkeypatch.setitem(machine._SIDE, "cpu", 256)
    monkeypatch.setitem(machine._COPIED, "cpu", 1 << 20)


def report_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert run([*arguments, "--json"]) in (0, 1)
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert run(list(arguments)) in (1, 2)
    return capsys.readouterr().err


def test_a_report_is_printed_written_and_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    impls = ["--impl", "published", "--impl", "attention"]
    assert run([*TINY, *impls, "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for text in ("PIDM-style tiny", "published", "attention", "TINY networks", "1 of the steps"):
        assert text in out
    report = json.loads((tmp_path / "bench.json").read_text())
    assert [row["implementation"] for row in report["rows"]] == [
        "D-CFG",
        "D-CFG",
        "published",
        "attention",
    ]
    page = (tmp_path / "bench.md").read_text()
    assert "(bench.svg)" in page
    assert page.count("\n| ") == len(report["rows"]) + 2
    assert report["machine"]["identity"]["processor"] in (tmp_path / "bench.svg").read_text()
    # an old report that was a thousand times faster
    for row in report["rows"]:
        row["mfu"]["rounds"] = [1000.0]
    old = tmp_path / "old.json"
    old.write_text(json.dumps(report))
    capsys.readouterr()
    assert run([*TINY, *impls, "--compare", str(old)]) == 1
    printed = capsys.readouterr()
    assert "slower" in printed.out
    assert "slower than before: PIDM-style" in printed.err
    report["machine"]["identity"]["processor"] = "another"
    old.write_text(json.dumps(report))
    error = refused(capsys, *ONE_ROW, "--compare", str(old))
    assert "different machines: processor another" in error


def test_a_full_disk_does_not_hide_the_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("xmdpt_cli.bench.report.write_text", full)
    assert run([*ONE_ROW, "--out", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert "MFU" in printed.out
    assert "No space left" in printed.err
    assert "bench.json" in printed.err


def test_roofs(capsys: pytest.CaptureFixture[str]) -> None:
    report = report_of(capsys, "bench", "--roof", "--size", "S,B")
    assert [row["model"] for row in report["rows"]] == ["X-MDPT-S", "X-MDPT-B"]
    given = report_of(
        capsys, "bench", "--roof", "--size", "S", "--peak-tflops", "790", "--bandwidth", "3350"
    )
    assert given["rows"][0]["seconds"]["given"] == pytest.approx(0.019, abs=5e-4)
    assert run(["bench", "--roof", "--size", "S"]) == 0
    assert "H100" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench", "--size", "Q"], "no such size: 'Q'"),
        (["bench", "--size", "tiny,S"], "measure it alone"),
        (["bench", "--precision", "fp7"], "'fp7' is not one of"),
        (["bench", "--peak-tflops", "3"], "need --roof"),
        (["bench", "--roof", "--peak-tflops", "3"], "give both"),
        (["bench", "--compare", "/nowhere.json"], "cannot read /nowhere.json"),
        (["bench", "--out", "/proc/nowhere"], "/proc/nowhere"),
        ([*TINY, "--impl", "fast"], "no implementation is called 'fast'"),
        (["bench", "--pixels", "300"], "256 or 512"),
        (["bench", "data", "--url", "http://x"], "--url needs --dataset"),
        (["bench", "data", "--image", "/nowhere.jpg"], "image not found"),
        (["bench", "train", "--compare", "/nowhere.json"], "cannot read"),
    ],
)
def test_bad_options_are_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert message in refused(capsys, *arguments)


def test_latency(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The parts are those of the whole: their FLOPs add up, and the image is a PNG."""
    command = ["bench", "latency", "--size", "tiny", "--rounds", "1", "--out", str(tmp_path)]
    report = report_of(capsys, *command)
    rows = {row["key"]: row for row in report["rows"]}
    work = {name: row["gflop"] for name, row in rows.items() if row["gflop"] is not None}
    for steps, decoder in (
        ("20 steps", "VAE decoder"),
        ("4 steps", "tiny decoder"),
    ):
        whole = work[f"X-MDPT-tiny / PNG, {steps}, {decoder}"]
        sampled = work[f"X-MDPT-tiny / CANet + {steps}"]
        encoders = (
            work["small encoders / DINOv2-B of the pose"] + work[f"small encoders / {decoder}"]
        )
        assert whole == pytest.approx(encoders + sampled)
        assert work["X-MDPT-tiny / CANet"] < sampled
    assert {name for name, row in rows.items() if row["gflop"] is None} == {
        "small encoders / pose image", "small encoders / PNG",
    }  # fmt: skip
    assert list(report["rows"][-1]["speedup"]) == ["base"]
    assert "random weights" in report["notes"][0]
    text = (tmp_path / "bench-latency.md").read_text()
    assert "| model | implementation | ms (95 %) | gain | GFLOP each | MFU |" in text


def test_training(capsys: pytest.CaptureFixture[str]) -> None:
    report = report_of(capsys, "bench", "train", "--size", "tiny", "--no-compile", "--rounds", "1")
    assert [row["key"] for row in report["rows"]] == [
        "X-MDPT-tiny / published",
        "X-MDPT-tiny / xmdpt",
    ]
    assert set(report["data_wait"]) == {"X-MDPT-tiny"}


def test_data(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    report = report_of(
        capsys, "bench", "data", "--rounds", "1", "--gigabytes", "0.06", "--batch-size", "2",
        "--dataset", str(tmp_path / "d"), "--items", "8",
    )  # fmt: skip
    keys = [row["key"] for row in report["rows"]]
    assert keys[:3] == [
        "prepare / decode and resize alone",
        "prepare / all without networks",
        "loader / local, 1 thread",
    ]
    assert all(row["images_per_second"] > 0 for row in report["rows"])
    assert (tmp_path / "d/dataset.json").is_file()


def test_scaling(capsys: pytest.CaptureFixture[str]) -> None:
    report = report_of(
        capsys, "bench", "scale", "--size", "tiny", "--processes", "2", "--rounds", "1",
        "--steps", "1", "--batch-size", "1",
    )  # fmt: skip
    assert [row["implementation"] for row in report["rows"]] == ["1 process", "2 processes"]
    assert report["rows"][0]["efficiency"] == 1
    assert report["rows"][1]["speedup"]["first"]["median"] > 0
