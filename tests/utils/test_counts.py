"""Singular and plural in messages."""

from __future__ import annotations

from xmdpt_cli.utils.counts import counted


def test_one_is_singular() -> None:
    assert counted(1, "step") == "1 step"
    assert [counted(n, "step") for n in (0, 2, 20_000)] == ["0 steps", "2 steps", "20,000 steps"]
    assert counted(1, "person", "people") == "1 person"
    assert counted(1234, "person", "people") == "1,234 people"
