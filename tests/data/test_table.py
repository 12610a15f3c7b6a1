"""The columns of a split hold the content of its indexes, for any number of names."""

from __future__ import annotations

from xmdpt_cli.data.index import SamplePlace, ShardIndex, ViewPlace
from xmdpt_cli.data.table import Table


def test_more_names_than_two_bytes_count() -> None:
    count = 70_000
    place = ViewPlace("a.jpg", (0, 1), (0, 1), (0, 1), {})
    views = {f"view{number}": place for number in range(count)}
    two = dict(list(views.items())[:2])
    rest = dict(list(views.items())[2:])
    samples = [
        SamplePlace("A", [("view0", "view1", 0)], two),
        SamplePlace("B", [("view2", "view3", 1)], rest),
    ]
    table = Table([ShardIndex("train-000000.tar", "train", 1, "", samples, [])])
    for row in (0, 1, 2, 32_767, 32_768, 65_535, 65_536, count - 1):
        assert table.label(row) == ("A" if row < 2 else "B", f"view{row}")
    assert table.row("B", f"view{count - 1}") == count - 1
