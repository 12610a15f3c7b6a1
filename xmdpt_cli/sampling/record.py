"""samples.json: how the images of a folder were made, so that others are never mixed with them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import write_text, writing
from xmdpt_cli.plain_names import is_below

RECORD = "samples.json"
OTHER_OUT = "choose another --out"
NUMBERS = ("steps", "guidance", "power", "seed")


def read_record(out: Path) -> dict[str, Any]:
    """XmdptError if it cannot be read or holds no record."""
    try:
        found = json.loads((out / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise XmdptError(f"cannot read {out / RECORD} ({err})", OTHER_OUT) from err
    if not isinstance(found, dict) or not _sound(found):
        raise XmdptError(f"{out / RECORD} is not what xmdpt sample wrote", OTHER_OUT)
    return found


def _sound(record: dict[str, Any]) -> bool:
    """Whether what is read of a record has the types that it should have."""
    recipe = record.get("recipe", {})
    interval = recipe.get("interval", [0, 1]) if isinstance(recipe, dict) else None
    lists = [record.get(name, []) for name in ("complete", "files", "sources")]
    return (
        isinstance(interval, list)
        and len(interval) == 2
        and all(isinstance(v, (int, float, str, list)) for v in recipe.values())
        and all(isinstance(v, (int, float)) for k, v in recipe.items() if k in NUMBERS)
        and all(isinstance(names, list) for names in lists)
        and all(isinstance(name, str) for names in lists for name in names)
        and all(is_below(name) for names in lists[:2] for name in names)
    )


def write_record(out: Path, record: Mapping[str, Any]) -> None:
    with writing(out / RECORD):
        write_text(out / RECORD, json.dumps(record, indent=1))


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], ignored: Collection[str] = ()
) -> list[str]:
    """What of ``now`` is otherwise in ``before``: ``steps (there 20, now 50)``, or the name alone
    where a value is too long to say anything. The sampling settings count one by one."""
    settings = set(now.get("recipe", {}))
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
    return {key: value for key, value in record.items() if key != "recipe"} | dict(
        record.get("recipe") or {}
    )
