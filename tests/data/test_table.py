"""The columns of a split hold what its indexes say, however many names there are."""

from __future__ import annotations

from xmdpt_cli.data.table import Part, Table


def test_more_names_than_two_bytes_count() -> None:
    count = 70_000
    names = [f"view{number}" for number in range(count)]
    members = [[0, 1, 0, 1, 0, 1]] * count
    table = Table([Part(["A", "B"], [2, count - 2], names, members, {}, [(0, 1, 0)])])
    for row in (0, 1, 2, 32_767, 32_768, 65_535, 65_536, count - 1):
        assert table.label(row) == ("A" if row < 2 else "B", names[row])
    assert table.row("B", names[-1]) == count - 1
