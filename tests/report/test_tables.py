"""Tables at every width, with the names and numbers of the commands."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

import pytest
from bench_reports import sampling_report

from xmdpt_cli.bench.compare import Change, change_table
from xmdpt_cli.bench.roof import known_peaks, roofs
from xmdpt_cli.bench.sampling import fit_table, paper_table
from xmdpt_cli.cli.console import Talk, table
from xmdpt_cli.metrics.evaluation import Evaluation
from xmdpt_cli.metrics.registry import METRICS
from xmdpt_cli.report.evaluation_json import over_seeds
from xmdpt_cli.report.evaluation_text import beside, seeds_table
from xmdpt_cli.report.evaluation_text import table as metric_cells
from xmdpt_cli.report.evaluation_text import table as vae_cells
from xmdpt_cli.report.tables import Table

PROTOCOLS = ("cfld", "pidm", "pcdms", "clean", "native")
ROWS = ("generated", "copy-source", "mean-image", "vae-reconstruction", "ground-truth")
WIDTHS = (60, 80, 120, 200, None)


def evaluated(protocol: str, rows: tuple[str, ...] = ROWS) -> Evaluation:
    """A report with every metric there is; values as long as they get."""
    values: dict[str, float | None] = dict.fromkeys(METRICS, 123.456789)
    return Evaluation(
        protocol=protocol,
        rows={name: dict(values) for name in rows},
        counts=dict.fromkeys(rows, 8570),
        undefined={},
        sizes=["176x256"],
        weights={},
        toy=[],
        intervals={name: dict.fromkeys(METRICS, (120.0, 126.5)) for name in rows},
    )


def metric_tables() -> list[Table]:
    reports = [evaluated(name) for name in PROTOCOLS]
    made = [metric_cells(reports[0]), beside(reports), seeds_table(over_seeds([reports, reports]))]
    made.append(vae_cells(evaluated("cfld", ("before", "after"))))
    return [table("protocol cfld, 8570 images, TOY model", one.header, one.rows) for one in made]


def bench_tables() -> list[Table]:
    names = ["PIDM-style / D-CFG", "PoCoLD-style / D-CFG, compiled", "X-MDPT-S / published"]
    names += [f"X-MDPT-{size} / D-CFG, compiled, bf16" for size in "SBL"]
    report = sampling_report(dict.fromkeys(names, (1234.0, 0.4)))
    for row in report.rows:
        row.speedup = dict.fromkeys(("PIDM-style", "published", "base", "first"), row.seconds)
        row.gain, row.efficiency = "guidance", 0.93
    beside_paper = paper_table(report)
    assert beside_paper is not None
    changes = [Change(name, 1.234, "slower") for name in names]
    roof = roofs(["S", "B", "L"], known_peaks("bf16"), pixels=256, precision="bf16")
    return [report.table(), beside_paper, fit_table(), roof.table(), change_table(changes)]


ALL: dict[str, Callable[[], list[Table]]] = {"metrics": metric_tables, "bench": bench_tables}


@pytest.mark.parametrize("kind", list(ALL))
def test_every_name_and_digit_is_shown_at_any_width(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = ALL[kind]()
    for width in WIDTHS:
        for one in tables:
            shown = printed(one, width, monkeypatch, capsys)
            for name in one.header:
                for word in name.split(" "):
                    assert word in shown, (word, width)
            found = fields(shown)
            for cell in (cell for row in one.rows for cell in row):
                assert cell.strip() in found, (cell, width)
            for title_word in one.title.split():
                assert title_word in shown
            if width is not None:
                frames = [line for line in shown.splitlines() if line[:1] in "┏┃┡│└"]
                assert max(map(len, frames)) <= width
            assert "…" not in shown


def printed(
    one: Table,
    width: int | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> str:
    with monkeypatch.context() as patch:
        patch.setattr(sys.stdout, "isatty", lambda: width is not None)
        patch.setenv("COLUMNS", str(width or 80))
        patch.setenv("NO_COLOR", "1")
        patch.setenv("TERM", "xterm")
        Talk().result({}, one)
    return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)


def fields(shown: str) -> set[str]:
    """The cells between the lines of a table."""
    return {cell.strip() for line in shown.splitlines() for cell in re.split("[┃│]", line)}


def test_a_value_stands_where_its_row_and_column_meet() -> None:
    """In every form: the same triples of row, column and value."""
    rows = [[f"row{r}", *(f"value{r}{c}" for c in range(6))] for r in range(3)]
    whole = Table("t", ["", *(f"long name {c}" for c in range(6))], rows)
    expected = {(f"row{r}", f"long name {c}", f"value{r}{c}") for r in range(3) for c in range(6)}
    kinds = set()
    for width in range(24, 140):
        parts = whole.fitted(width)
        turned = parts[0].header[1].startswith("row")
        kinds.add((turned, len(parts) > 1, "\n" in parts[0].header[1]))
        found = set()
        for part in parts:
            assert part.width <= width
            for row in part.rows:
                for name, cell in zip(part.header[1:], row[1:], strict=True):
                    name = name.replace("\n", " ")
                    found.add((name, row[0], cell) if turned else (row[0], name, cell))
        assert found == expected, width
    assert {(False, False, False), (False, False, True), (True, False, False)} <= kinds
    assert any(split for _, split, _ in kinds)


def test_cells_too_wide_for_a_table_become_a_list() -> None:
    one = Table("", ["", "value"], [["a" * 30, "b" * 30], ["c" * 30, "d" * 30]])
    (listed,) = one.fitted(40)
    assert [row[0] for row in listed.rows] == [
        "a" * 30, f"  value: {'b' * 30}", "c" * 30, f"  value: {'d' * 30}",
    ]  # fmt: skip


def test_a_split_table_repeats_its_first_columns_and_its_title() -> None:
    header = ["model", "way", *(f"value{i}" for i in range(9))]
    rows = [[f"m{r}", f"way{r}", *("1234567" for _ in range(9))] for r in range(9)]
    parts = Table("speed", header, rows, keys=2).fitted(60)
    assert len(parts) > 1
    assert [part.title for part in parts] == ["speed"] + ["speed (continued)"] * (len(parts) - 1)
    assert all(part.header[:2] == ["model", "way"] for part in parts)
    assert [name for part in parts for name in part.header[2:]] == header[2:]


def test_two_keys_share_a_column_if_that_saves_tables() -> None:
    rows = [["a long name of a model", way, "1234567", "1234567"] for way in ("slow", "quick")]
    rows.append(["alone", "", "1", "2"])
    (one,) = Table("", ["model", "way", "seconds", "memory"], rows, keys=2).fitted(46)
    assert one.header == ["model / way", "seconds", "memory"]
    assert one.rows == [
        ["a long name of a model", "", ""],
        ["  slow", "1234567", "1234567"],
        ["  quick", "1234567", "1234567"],
        ["alone", "1", "2"],
    ]


def test_wide_characters_take_two_columns() -> None:
    assert Table("", ["", "x"], [["名前", "1"]]).width == 4 + 1 + 7


def test_an_empty_table_is_shown() -> None:
    (shown,) = Table("", ["", "name"], []).fitted(20)
    assert (shown.header, shown.rows) == (["", "name"], [])
