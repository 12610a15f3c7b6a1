"""Runs beside one another."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
from bench_reports import drawing

from xmdpt_cli.bench.compare import compare, load
from xmdpt_cli.errors import XmdptError


def verdicts(old: dict[str, Any], new: dict[str, Any]) -> dict[str, str]:
    return {change.key: change.verdict for change in compare(old, new)}


def test_only_what_lies_beyond_the_noise_of_both_is_a_change() -> None:
    old = drawing({"M / a": (100, 0.5), "M / b": (100, 0.5), "M / c": (100, 0.5)})
    new = drawing({"M / a": (100, 0.49), "M / b": (100, 0.4), "M / c": (100, 0.6)})
    assert verdicts(old, new) == {"M / a": "same", "M / b": "slower", "M / c": "faster"}
    noisy = drawing({"M / a": (100, 0.5), "M / b": (100, 0.5), "M / c": (100, 0.5)}, spread=0.3)
    assert set(verdicts(noisy, new).values()) == {"same"}
    assert [round(c.ratio, 3) for c in compare(old, new)] == [1.02, 1.25, 0.833]


def test_less_work_at_the_same_share_of_the_peak_is_faster() -> None:
    assert verdicts(drawing({"M / a": (100, 0.5)}), drawing({"M / a": (50, 0.5)})) == {
        "M / a": "faster"
    }


def test_a_machine_in_another_mood_changes_nothing() -> None:
    """Times twice as long on a machine whose own peak was half in the same rounds."""
    old, new = drawing({"M / a": (100, 0.5)}), drawing({"M / a": (100, 0.5)})
    new["rows"][0]["seconds"]["median"] *= 2
    assert verdicts(old, new) == {"M / a": "same"}


def test_rows_that_come_and_go() -> None:
    found = compare(drawing({"M / a": (1, 0.5)}), drawing({"M / b": (1, 0.5)}))
    assert [(c.key, c.verdict) for c in found] == [("M / b", "new"), ("M / a", "gone")]
    assert all(math.isnan(c.ratio) for c in found)


def test_rows_without_a_peak_are_compared_by_seconds() -> None:
    old, new = drawing({"M / a": (100, 0.5)}), drawing({"M / a": (100, 0.25)})
    for report in (old, new):
        report["rows"][0] |= {"mfu": None, "gflop": None}
    assert verdicts(old, new) == {"M / a": "slower"}


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (("machine", "identity", "processor"), "different machines: processor P and now Q"),
        (("machine", "identity", "threads"), "different machines: threads"),
        (("settings", "batch"), "different work: batch 2 and now Q"),
        (("kind",), "one run is of drawing"),
    ],
)
def test_others_are_refused(place: tuple[str, ...], said: str) -> None:
    old = drawing({"M / a": (100, 0.5)})
    new = copy.deepcopy(old)
    part = new
    for name in place[:-1]:
        part = part[name]
    part[place[-1]] = "Q"
    with pytest.raises(XmdptError, match=said):
        compare(old, new)


def test_more_rounds_are_the_same_work() -> None:
    old, new = drawing({"M / a": (100, 0.5)}), drawing({"M / a": (100, 0.5)})
    new["settings"]["rounds"] = 20
    assert verdicts(old, new) == {"M / a": "same"}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "xmdpt-bench"}', "no json"])
def test_what_is_no_report(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(XmdptError, match="cannot read"):
        load(path)
    path.write_text(text)
    with pytest.raises(XmdptError, match=r"is not|is damaged: "):
        load(path)
    path.write_text(json.dumps({"format": "xmdpt-bench", "kind": "roof", "rows": []}))
    with pytest.raises(XmdptError, match="nothing was measured"):
        load(path)
