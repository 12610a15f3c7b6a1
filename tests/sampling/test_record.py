"""samples.json: read back, and named errors for invalid content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.sampling.record import RECORD, differences, read_record, write_record

SOUND: dict[str, Any] = {
    "sampling": {"steps": 20, "guidance": 2.0, "solver": "unipc", "interval": [0.0, 1.0]},
    "complete": ["a.png"],
    "trained_steps": None,
}


def test_a_record_is_read_back(tmp_path: Path) -> None:
    write_record(tmp_path, SOUND)
    assert read_record(tmp_path) == SOUND


def test_records_of_earlier_versions_are_without_a_cache(tmp_path: Path) -> None:
    now = {"sampling": {**SOUND["sampling"], "cache": 1}}
    assert differences(SOUND, now) == []
    record = {**SOUND, "sampling": {**SOUND["sampling"], "cache": 0.0}}  # none; later an int
    write_record(tmp_path, record)
    assert differences(read_record(tmp_path), now) == []
    record["sampling"]["cache"] = 4.0
    write_record(tmp_path, record)
    assert differences(read_record(tmp_path), now) == ["cache (there 4.0, now 1)"]
    now["sampling"]["cache"] = 2
    assert differences(SOUND, now) == ["cache (there 1, now 2)"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sampling": [1]}, r"sampling should be an object, not \[1\]"),
        ({"sampling": "x"}, "sampling should be an object, not 'x'"),
        ({"sampling": None}, "sampling should be an object, not None"),
        ({"sampling": {"steps": "x"}}, "sampling.steps should be a valid integer, not 'x'"),
        ({"sampling": {"interval": 3}}, "sampling.interval should be a valid array, not 3"),
        (
            {"sampling": {"interval": [0, 1, 2]}},
            "sampling.interval should have at most 2 items, not",
        ),
        ({"complete": 7}, "complete should be a valid array, not 7"),
        ({"complete": [1, 2]}, r"complete\.0 should be a valid string, not 1"),
        ({"files": {"a": 1}}, "files should be a valid array, not"),
        ({"files": ["../../etc/passwd"]}, "which is not an image of xmdpt"),
    ],
)
def test_wrong_types_are_named(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    (tmp_path / RECORD).write_text(json.dumps({**SOUND, **change}))
    with pytest.raises(XmdptError, match=f"{RECORD} .*{named}"):
        read_record(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "7"])
def test_broken_json_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(XmdptError, match=RECORD):
        read_record(tmp_path)
