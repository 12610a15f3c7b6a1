"""Two runs side by side: what became slower or faster beyond the noise that both measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from typing_extensions import NotRequired, TypedDict

from xmdpt_cli.bench.report import FORMAT
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.utils import records


class Change(NamedTuple):
    """One row of both runs. ``ratio``: the new median over the old one, of times in units of the
    machine's own peak, which was measured in the same rounds: above 1 is slower."""

    key: str
    ratio: float
    verdict: str  # "slower", "faster", "same", "new", "gone"


_HINT = "give a bench.json"


class _Kind(TypedDict):
    format: str
    kind: NotRequired[str]


class _Machine(TypedDict):
    identity: dict[str, Any]


class _Seconds(TypedDict):
    low: float
    median: float
    high: float


class _Row(TypedDict):
    key: str
    mfu: _Seconds | None
    gflop: float | None
    seconds: NotRequired[_Seconds]


class _Report(TypedDict):
    """What a comparison reads of a report."""

    kind: str
    machine: _Machine
    settings: dict[str, Any]
    rows: list[_Row]


def load(path: Path) -> dict[str, Any]:
    """A report that ``xmdpt bench --json`` or ``--out`` wrote; XmdptError if it is none."""
    kind = records.read(_Kind, path, _HINT)
    if kind["format"] != FORMAT:
        raise XmdptError(f"{path} is not a report of xmdpt bench", _HINT)
    if kind.get("kind") == "roof":
        raise XmdptError(f"{path} holds roofs, which are computed: nothing was measured")
    found: dict[str, Any] = records.read(_Report, path, _HINT)
    return found


def compare(old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    """Row by row. XmdptError for runs of different machines, or of different work."""
    refuse_others(old, new)
    before = {row["key"]: row for row in old["rows"]}
    changes = []
    for row in new["rows"]:
        other = before.pop(row["key"], None)
        if other is None:
            changes.append(Change(row["key"], float("nan"), "new"))
            continue
        (low, middle, high), (own_low, own_middle, own_high) = _cost(other), _cost(row)
        verdict = "slower" if own_low > high else "faster" if own_high < low else "same"
        changes.append(Change(row["key"], own_middle / middle, verdict))
    return changes + [Change(key, float("nan"), "gone") for key in before]


def refuse_others(old: dict[str, Any], new: dict[str, Any]) -> None:
    """XmdptError where a comparison would say nothing."""
    if old["kind"] != new["kind"]:
        raise XmdptError(f"one run is of {old['kind']}, the other of {new['kind']}")
    for what, before, after in (
        ("machines", old["machine"]["identity"], new["machine"]["identity"]),
        ("work", old["settings"], new["settings"]),
    ):
        # more rounds are the same work
        names = [name for name in {**before, **after} if name != "rounds"]
        other = [name for name in names if before.get(name) != after.get(name)]
        if other:
            said = ", ".join(f"{n} {before.get(n)} and now {after.get(n)}" for n in other)
            raise XmdptError(
                f"the two runs are of different {what}: {said}",
                "ratios of one run can be compared between machines, times cannot"
                if what == "machines"
                else "run again with the settings of the old one",
            )


def _cost(row: dict[str, Any]) -> tuple[float, float, float]:
    """Low, median, high of an image's time: what the machine could have computed in it, or
    seconds where nothing is computed that has a peak."""
    mfu, gflop = row["mfu"], row["gflop"]
    if mfu is None:
        seconds = row["seconds"]
        return seconds["low"], seconds["median"], seconds["high"]
    return gflop / mfu["high"], gflop / mfu["median"], gflop / mfu["low"]
