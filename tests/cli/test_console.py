"""What a command says while it works: readable at any width, and true about the time left."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from xmdpt_cli.cli import console
from xmdpt_cli.cli import progress_bars as console_bars
from xmdpt_cli.cli.console import Talk, duration, warn_if_busy
from xmdpt_cli.cli.progress_bars import Pace, values

TRAIN = {  # in the order of training/log.py
    "loss": 0.1234,
    "images_per_second": 812.4,
    "data_wait": 0.012,
    "gpu_memory": 12.34,
    "mfu": 0.412,
    "masked": 0.1301,
}


def test_progress_values_are_readable() -> None:
    shown = values({**TRAIN, "shard": "train-0001.tar", "other": 0.123456})
    assert shown == [
        "loss 0.123", "812 img/s", "wait 1%", "12.3 GiB", "MFU 41%", "masked 0.130",
        "shard train-0001.tar", "other 0.1235",
    ]  # fmt: skip
    assert values({"images_per_second": 3.456}) == ["3.46 img/s"]
    assert values({"images_per_second": 12345.6}) == ["12,346 img/s"]
    assert values({"loss": float("nan")}) == ["loss nan"]


def bar_line(width: int, info: dict[str, Any], *, done: int = 123_456, total: int = 300_000) -> str:
    bars = console_bars.Bars()
    bars("train", 0, total)
    bars("train", done, total, **info)
    out = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    out.print(bars, end="")
    text = out.file.getvalue()  # type: ignore[attr-defined]
    assert text.count("\n") == 1
    return str(text.rstrip("\n"))


@pytest.mark.parametrize("width", [20, 40, 79, 80, 81, 95, 100, 110, 160, 300])
def test_a_line_fits_and_no_value_is_cut(width: int) -> None:
    line = bar_line(width, TRAIN)
    assert cell_len(line) <= width
    words = "  ".join(values(TRAIN))
    tail = line.split("left ", 1)[1].split("  ", 1)[1:] if "left " in line else []
    if tail:  # whatever is shown is the beginning of the list, up to a whole fact
        assert words.startswith(tail[0])
        assert tail[0] in {"  ".join(values(TRAIN)[:n]) for n in range(1, 7)}


def test_values_leave_room_for_the_bar() -> None:
    assert "123456/300000" in bar_line(30, TRAIN)
    usual = bar_line(80, TRAIN)
    assert usual.count("━") >= console_bars.SHORTEST_BAR
    assert usual.endswith("loss 0.123  812 img/s  wait 1%")
    for width in range(50, 200):
        assert bar_line(width, TRAIN).count("━") >= console_bars.SHORTEST_BAR, width
    wide = bar_line(160, TRAIN)
    assert wide.endswith("masked 0.130")
    assert wide.count("━") == 30
    plain = bar_line(80, {}, done=7, total=20)
    assert plain.count("━") == 30


def test_the_time_left_ignores_items_of_earlier_processes() -> None:
    """A run that goes on at step 900 of 1000 must not seem to have made 900 steps in a second."""
    pace = Pace(now=100.0, done=900)
    assert pace.rate(100.0, 900) is None
    assert pace.rate(130.0, 901) == pytest.approx(1 / 30)  # compiling: all that is known
    assert pace.rate(132.0, 902) == pytest.approx(0.5)  # now it is not counted any more
    assert pace.rate(140.0, 906) == pytest.approx(0.5)


def test_the_images_of_a_batch_count_as_one_update() -> None:
    pace = Pace(now=0.0, done=0)
    first = [pace.rate(10 + 0.01 * i, i + 1) for i in range(8)]
    assert first[-1] == pytest.approx(0.8, rel=0.01)  # not 100
    for i in range(8):
        last = pace.rate(20 + 0.01 * i, i + 9)
    assert last == pytest.approx(0.8, rel=0.01)


def test_units_that_come_at_once_have_no_rate() -> None:
    pace = Pace(now=0.0, done=0)
    assert [pace.rate(1e-5 * i, i) for i in range(13)] == [None] * 13
    assert pace.rate(2.0, 24) == pytest.approx(12, rel=0.05)


def test_the_bar_shows_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    bars = console_bars.Bars()
    out = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)

    def shown() -> str:
        out.file.truncate(0)
        out.file.seek(0)
        out.print(bars, end="")
        return out.file.getvalue()  # type: ignore[attr-defined,no-any-return]

    bars("train", 5000, 10_000)
    assert "left -" in shown()
    for step in range(1, 12):
        now[0] += 2.0
        bars("train", 5000 + step, 10_000)
    assert f"left {duration(4989 * 2.0)}" in shown()
    now[0] += 60.0  # nothing is heard: a validation
    assert f"left {duration(4989 * 2.0 - 60)}" in shown()
    bars("train", 10_000, 10_000)
    assert "in 1m22s" in shown()


def test_without_a_terminal_lines_are_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [1000.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with Talk().progress() as progress:
        progress("train", 900, 1000)
        for step in range(901, 1001):
            now[0] += 1.0
            progress("train", step, 1000, **TRAIN)
    out = capsys.readouterr()
    assert out.out == ""
    lines = out.err.splitlines()
    assert lines[0] == "train: 900/1000"
    assert lines[1] == "train: 910/1000, 1/s, 1m30s left, " + ", ".join(values(TRAIN))
    assert len(lines) == 11
    assert lines[-1].startswith("train: 1000/1000, 1/s, loss 0.123")
    assert "\x1b" not in out.err


@pytest.mark.parametrize(
    ("load", "threads", "warned"),
    [(9.1, None, True), (None, None, False), (9.1, "1", False)],
)
def test_a_busy_machine_is_a_warning(
    load: float | None,
    threads: str | None,
    warned: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(console, "busy_load", lambda: load)
    monkeypatch.setattr(console.os, "cpu_count", lambda: 2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if threads is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
    warn_if_busy(Talk())
    warning = capsys.readouterr().err
    assert ("busy (load 9.1 on 2 cores)" in warning) is warned
    assert ("OMP_NUM_THREADS=1" in warning) is warned
    warn_if_busy(Talk(quiet=True))  # under torchrun one process says it
    assert capsys.readouterr().err == ""
