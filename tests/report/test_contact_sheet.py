"""The positions of images and labels on contact sheets."""

from __future__ import annotations

import numpy as np
import pytest

from xmdpt_cli.report.contact_sheet import GAP, HEADER, LABEL, MARGIN, contact_sheet, stacked

COLUMNS = ("source", "pose", "ground truth", "generated")


def image(value: int, size: int) -> np.ndarray:
    return np.full((size, size, 3), value, np.uint8)


@pytest.mark.parametrize(("count", "size", "blocks"), [(1, 64, 1), (4, 256, 1), (5, 64, 2)])
@pytest.mark.parametrize("labelled", [False, True])
def test_each_image_is_at_its_row_and_column(
    count: int, size: int, blocks: int, labelled: bool
) -> None:
    rows = [[image(10 * column + i, size) for column in range(4)] for i in range(count)]
    labels = [f"row {i}" for i in range(count)] if labelled else []
    sheet = contact_sheet(rows, COLUMNS, labels=labels, blocks=blocks)
    shown, above = max(1, 128 // size) * size, LABEL if labelled else 0
    lines = -(-count // blocks)
    for i in range(count):
        for column in range(4):
            x = GAP + i // lines * (4 * (shown + GAP) + MARGIN) + column * (shown + GAP)
            y = HEADER + i % lines * (shown + GAP + above) + above
            cell = sheet[y : y + shown, x : x + shown]
            assert cell.shape == (shown, shown, 3)
            assert (cell == 10 * column + i).all()
    header = sheet[:HEADER]
    assert (header < 128).any()  # the names are written
    assert (header[:, -1] == 255).all()


def test_large_images_are_averaged_down() -> None:
    stripes = np.tile(np.array([0, 200], np.uint8)[None, :, None], (64, 32, 3))
    sheet = contact_sheet([[stripes]], ["x"], smallest=32, largest=32)
    assert sheet.shape == (HEADER + 32 + GAP, GAP + 32 + GAP, 3)
    assert (sheet[HEADER : HEADER + 32, GAP : GAP + 32] == 100).all()


def test_missing_images_stay_white() -> None:
    sheet = contact_sheet([[image(9, 128), None], [None, image(7, 128)]], ["a", "b"])
    right = slice(GAP + 128 + GAP, GAP + 128 + GAP + 128)
    assert (sheet[HEADER : HEADER + 128, right] == 255).all()
    assert (sheet[HEADER + 132 : HEADER + 260, right] == 7).all()


def test_sheets_are_stacked_under_their_titles() -> None:
    whole = stacked([("one", image(1, 40)), ("two", image(2, 60))])
    assert whole.shape == (2 * HEADER + 100, 60, 3)
    assert (whole[HEADER : HEADER + 40, :40] == 1).all()
    assert (whole[2 * HEADER + 40 :] == 2).all()


def test_a_sheet_without_rows() -> None:
    assert contact_sheet([], COLUMNS).ndim == 3
