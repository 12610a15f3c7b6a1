"""Data of wrong types is refused by every event with a message, without a traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_pipeline import FakePipeline
from test_attacks import Client, events, file, page

__all__ = ["page"]  # a fixture
WRONG: list[Any] = [
    -1, 1e400, float("nan"), "x", [[[]]], {"path": 1}, {"a": 1}, [{"path": 1}], [1, 2], "[1]",
    '{"views":[1],"at":0}', '{"views":[],"at":-5}', "[" * 5000, f"[{'[1e400, 0],' * 17}[0, 0]]",
]  # fmt: skip
INPUT_LISTS: list[list[Any]] = [[], ["/etc/passwd", None], [{"path": 1}, None], [[[[[]]]], []]]


def test_wrong_data_is_refused_without_a_traceback(
    page: tuple[Client, FakePipeline, Path],
    person: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = page[0]
    image = file(json.loads(client.upload("a.png", person.read_bytes())[1])[0])
    skeleton = json.dumps([[0.5, 0.5]] * 18)
    right: dict[str, Any] = {
        "gallery": [{"image": image, "caption": None}], "number": 1, "checkbox": False,
        "file": None, "dropdown": None, "html": skeleton,
    }  # fmt: skip
    for name, number, kinds in events(client):
        if not kinds:
            continue
        values = [right[kind] for kind in kinds]
        if name == "generate":
            values[1], values[6], values[10] = "", None, "auto"
        sent = [
            [*values[:place], wrong, *values[place + 1 :]]
            for place in range(len(kinds))
            for wrong in (WRONG[:1] if name.startswith("js_fn") else WRONG)  # no server part
        ]
        for data in [*sent, *INPUT_LISTS]:
            answer = client.call(number, data)
            output = answer + "".join(capfd.readouterr()) + caplog.text
            assert "process_completed" in answer, (name, data)
            assert "Internal error" not in output, (name, str(data)[:500], output[-900:])
            assert "Traceback" not in output, (name, str(data)[:500], output[-900:])


def test_an_invalid_number_of_an_example_is_reported(
    page: tuple[Client, FakePipeline, Path],
) -> None:
    client = page[0]
    number = next(number for name, number, _ in events(client) if name == "example")
    for wrong in ({"path": 1}, [[[]]], "/etc/passwd", None, 10**6):
        assert "No such example" in client.call(number, [wrong])
