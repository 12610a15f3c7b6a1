"""The contact sheet shows every picture where it belongs."""

from __future__ import annotations

import numpy as np
import pytest

from xmdpt_cli.report.sample_sheet import COLUMNS, GAP, HEADER, contact_sheet


@pytest.mark.parametrize(("count", "size"), [(1, 64), (4, 256), (5, 64), (16, 32)])
def test_each_picture_is_found_where_it_belongs(count: int, size: int) -> None:
    rows = [
        [np.full((size, size, 3), 10 * column + i, np.uint8) for column in range(len(COLUMNS))]
        for i in range(count)
    ]
    sheet = contact_sheet(rows)
    shown = max(1, 128 // size) * size
    lines = count if count <= 4 else -(-count // 2)
    for i in range(count):
        for column in range(4):
            x = GAP + i // lines * (4 * (shown + GAP) + 4 * GAP) + column * (shown + GAP)
            y = HEADER + i % lines * (shown + GAP)
            cell = sheet[y : y + shown, x : x + shown]
            assert cell.shape == (shown, shown, 3)
            assert (cell == 10 * column + i).all()
    header = sheet[:HEADER]
    assert (header < 128).any()  # the names are written
    assert (header[:, -1] == 255).all()


def test_no_rows_no_error() -> None:
    assert contact_sheet([]).ndim == 3
