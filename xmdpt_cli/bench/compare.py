"""Compares two reports of ``xmdpt bench``: which rows became slower or faster beyond the noise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from typing_extensions import NotRequired, TypedDict

from xmdpt_cli.bench.report import FORMAT, VERSION, Report, Row
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.report.tables import Table
from xmdpt_cli.utils import records

_HINT = "give a bench.json"


@dataclass(frozen=True)
class Change:
    """The change of one row.

    ``ratio``: the new median time over the old one, above 1 is slower; None if only one report has
    the row. Times are in units of the machine's own peak, measured in the same rounds, or in
    seconds for rows without FLOPs.
    """

    key: str
    ratio: float | None
    verdict: str  # "slower", "faster", "same", "new", "gone"


class _Head(TypedDict):
    format: str
    kind: NotRequired[str]
    version: NotRequired[int]


def load(path: Path) -> Report:
    """Read a JSON report. XmdptError for another file, another version, or ``--roof``'s report."""
    head = records.read(_Head, path, _HINT)
    if head["format"] != FORMAT:
        raise XmdptError(f"{path} is not a report of xmdpt bench", _HINT)
    if head.get("kind") == "roof":
        raise XmdptError(f"{path} holds roofs, which are computed: nothing was measured")
    if head.get("version", VERSION) != VERSION:
        raise XmdptError(f"{path} is a report of another version of xmdpt", "measure again")
    report: Report = records.read(Report, path, _HINT)
    return report


def compare(old: Report, new: Report) -> list[Change]:
    """The change of every row. XmdptError for reports of different machines or different work."""
    _check_comparable(old, new)
    before = {row.key: row for row in old.rows}
    changes = []
    for row in new.rows:
        other = before.pop(row.key, None)
        if other is None:
            changes.append(Change(row.key, None, "new"))
            continue
        (old_low, old_median, old_high), (low, median, high) = _cost(other), _cost(row)
        verdict = "slower" if low > old_high else "faster" if high < old_low else "same"
        changes.append(Change(row.key, median / old_median, verdict))
    return changes + [Change(key, None, "gone") for key in before]


def change_table(changes: list[Change]) -> Table:
    rows = [
        [change.key, "-" if change.ratio is None else f"{change.ratio:.3f}", change.verdict]
        for change in changes
    ]
    return Table("compared with the old report, in units of the peak", ["", "time", ""], rows)


def _check_comparable(old: Report, new: Report) -> None:
    if old.kind != new.kind:
        raise XmdptError(f"one run is of {old.kind}, the other of {new.kind}")
    for what, before, after, hint in (
        ("machines", old.machine.identity, new.machine.identity,
         "ratios of one run can be compared between machines, times cannot"),
        ("work", old.settings, new.settings, "run again with the settings of the old report"),
    ):  # fmt: skip
        # the number of rounds may differ
        names = [name for name in {**before, **after} if name != "rounds"]
        differ = [name for name in names if before.get(name) != after.get(name)]
        if differ:
            text = ", ".join(f"{n} {before.get(n)} and now {after.get(n)}" for n in differ)
            raise XmdptError(f"the two runs are of different {what}: {text}", hint)


def _cost(row: Row) -> tuple[float, float, float]:
    """Low, median and high of the time of an image, in units of the peak or in seconds."""
    if row.mfu is None or row.gflop is None:
        return row.seconds.low, row.seconds.median, row.seconds.high
    return row.gflop / row.mfu.high, row.gflop / row.mfu.median, row.gflop / row.mfu.low
