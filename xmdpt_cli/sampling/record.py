"""samples.json: how the images of a folder were made, so that others are never mixed with them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Len
from typing_extensions import NotRequired, TypedDict

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import write_text, writing
from xmdpt_cli.utils import records
from xmdpt_cli.utils.safe_names import is_below

RECORD = "samples.json"
OTHER_OUT = "choose another --out"


class SamplingRecord(TypedDict):
    """The sampling settings, see ``SamplingConfig``; absent ones were not recorded yet."""

    steps: NotRequired[int]
    guidance: NotRequired[float]
    power: NotRequired[float]
    seed: NotRequired[int]
    solver: NotRequired[str]
    spacing: NotRequired[str]
    interval: NotRequired[Annotated[list[float], Len(2, 2)]]


class SamplesRecord(TypedDict):
    """samples.json: of pairs of a dataset, or of a user's own images (``files``, ``sources``)."""

    format: NotRequired[str]
    sampling: NotRequired[SamplingRecord]
    precision: NotRequired[str]
    trained_steps: NotRequired[int | None]
    toy: NotRequired[bool]
    vae: NotRequired[str]
    data: NotRequired[list[str]]
    split: NotRequired[str]
    complete: NotRequired[list[str]]
    files: NotRequired[list[str]]
    sources: NotRequired[list[str]]


def read_record(out: Path) -> dict[str, Any]:
    """XmdptError if it cannot be read or is no record."""
    record: dict[str, Any] = records.read(SamplesRecord, out / RECORD, OTHER_OUT)
    for name in (*record.get("complete", ()), *record.get("files", ())):
        if not is_below(name):
            raise XmdptError(f"{out / RECORD} names {name!a}, which is no image of ours", OTHER_OUT)
    return record


def write_record(out: Path, record: Mapping[str, Any]) -> None:
    with writing(out / RECORD):
        write_text(out / RECORD, json.dumps(record, indent=1))


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], ignored: Collection[str] = ()
) -> list[str]:
    """What of ``now`` is otherwise in ``before``: ``steps (there 20, now 50)``, or the name alone
    where a value is too long to say anything. The sampling settings count one by one."""
    settings = set(now.get("sampling", {}))
    asked, there = _flat(now), _flat(before)
    return [
        f"{key} (there {there.get(key)}, now {value})"
        if key in settings or isinstance(value, (bool, int))
        else key
        for key, value in asked.items()
        if key not in ignored and there.get(key) != value
    ]


def refuse_others(
    what: Path,
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    ignored: Collection[str] = (),
) -> None:
    """XmdptError if what lies in ``what``, a folder or file, was generated with other settings."""
    differs = differences(before, now, ignored)
    if differs:
        raise XmdptError(
            f"{what} holds samples made otherwise; what differs: {', '.join(differs)}", OTHER_OUT
        )


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != "sampling"} | dict(
        record.get("sampling") or {}
    )
