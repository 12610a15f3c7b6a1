"""Comparisons of two reports."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from bench_reports import sampling_report

from xmdpt_cli.bench.compare import compare, load
from xmdpt_cli.bench.report import Report
from xmdpt_cli.bench.timing import Spread
from xmdpt_cli.errors import XmdptError


def verdicts(old: Report, new: Report) -> dict[str, str]:
    return {change.key: change.verdict for change in compare(old, new)}


def test_a_change_lies_beyond_the_noise_of_both_reports() -> None:
    old = sampling_report({"M / a": (100, 0.5), "M / b": (100, 0.5), "M / c": (100, 0.5)})
    new = sampling_report({"M / a": (100, 0.49), "M / b": (100, 0.4), "M / c": (100, 0.6)})
    assert verdicts(old, new) == {"M / a": "same", "M / b": "slower", "M / c": "faster"}
    noisy = sampling_report(
        {"M / a": (100, 0.5), "M / b": (100, 0.5), "M / c": (100, 0.5)}, spread=0.3
    )
    assert set(verdicts(noisy, new).values()) == {"same"}
    assert [round(c.ratio or 0, 3) for c in compare(old, new)] == [1.02, 1.25, 0.833]


def test_less_work_at_the_same_share_of_the_peak_is_faster() -> None:
    assert verdicts(
        sampling_report({"M / a": (100, 0.5)}), sampling_report({"M / a": (50, 0.5)})
    ) == {"M / a": "faster"}


def test_a_slower_machine_in_both_row_and_peak_is_no_change() -> None:
    """Times twice as long while the machine's own peak was half in the same rounds."""
    old, new = sampling_report({"M / a": (100, 0.5)}), sampling_report({"M / a": (100, 0.5)})
    new.rows[0].seconds = Spread(tuple(2 * s for s in new.rows[0].seconds.rounds))
    assert verdicts(old, new) == {"M / a": "same"}


def test_rows_of_one_report_alone_are_new_or_gone() -> None:
    found = compare(sampling_report({"M / a": (1, 0.5)}), sampling_report({"M / b": (1, 0.5)}))
    assert [(c.key, c.verdict) for c in found] == [("M / b", "new"), ("M / a", "gone")]
    assert all(c.ratio is None for c in found)


def test_rows_without_a_peak_are_compared_by_seconds() -> None:
    old, new = sampling_report({"M / a": (100, 0.5)}), sampling_report({"M / a": (100, 0.25)})
    for report in (old, new):
        report.rows[0].mfu = report.rows[0].gflop = None
    assert verdicts(old, new) == {"M / a": "slower"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.machine.identity.update(processor="Q"), "machines: processor P and now Q"),
        (lambda r: r.machine.identity.update(threads=9), "different machines: threads"),
        (lambda r: r.settings.update(batch=9), "different work: batch 2 and now 9"),
        (lambda r: setattr(r, "kind", "train"), "one run is of sampling"),
    ],
)
def test_reports_of_other_machines_and_other_work_are_refused(
    change: Callable[[Report], object], message: str
) -> None:
    old = sampling_report({"M / a": (100, 0.5)})
    new = copy.deepcopy(old)
    change(new)
    with pytest.raises(XmdptError, match=message):
        compare(old, new)


def test_a_written_report_can_be_loaded(tmp_path: Path) -> None:
    report = sampling_report({"M / a": (100, 0.5), "M / b": (100, 0.5)})
    report.rows[1].compare_to(report.rows[0], "published")
    written = report.write(tmp_path, [report.table()])
    assert [path.name for path in written] == ["bench.json", "bench.md", "bench.svg"]
    assert load(tmp_path / "bench.json") == report


def test_the_number_of_rounds_may_differ() -> None:
    old, new = sampling_report({"M / a": (100, 0.5)}), sampling_report({"M / a": (100, 0.5)})
    new.settings["rounds"] = 20
    assert verdicts(old, new) == {"M / a": "same"}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "xmdpt-bench"}', "no json"])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(XmdptError, match="cannot read"):
        load(path)
    path.write_text(text)
    with pytest.raises(XmdptError, match=r"is not|is damaged: "):
        load(path)
    path.write_text(json.dumps({"format": "xmdpt-bench", "kind": "roof", "rows": []}))
    with pytest.raises(XmdptError, match="nothing was measured"):
        load(path)
    path.write_text(json.dumps({"format": "xmdpt-bench", "kind": "other", "version": 1}))
    with pytest.raises(XmdptError, match="another version"):
        load(path)
