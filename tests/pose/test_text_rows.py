"""Annotation and pair files in every spelling: the same rows, or one error that names the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conventions import HEADER, rows_of, text_of
from fake_dataset import flat_name, make_dataset

from xmdpt_cli.datasets.find import find_dataset
from xmdpt_cli.datasets.pair_lists import read_pairs
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.pose.formats.text_rows import read_pose_txt

NAN = float("nan")


def points(seed: int) -> np.ndarray:
    rng = np.random.Generator(np.random.PCG64(seed))
    raw = np.stack((rng.integers(1, 170, 18), rng.integers(1, 250, 18)), axis=1).astype(float)
    raw[rng.random(18) < 0.3] = NAN
    return raw


ROWS = {"alice/front.jpg": points(0), "bob: 2/side [1].jpg": points(1)}
PLAIN = {"alice/front.jpg": points(0), "bob/side.jpg": points(1)}


def same(path: Path, wanted: dict[str, np.ndarray]) -> None:
    found = rows_of(path)
    assert list(found) == list(wanted)
    for name, raw in wanted.items():
        np.testing.assert_array_equal(found[name], raw)


@pytest.mark.parametrize(
    ("how", "rows"),
    [
        ({}, ROWS),
        ({"separator": ": "}, PLAIN),
        ({"header": "keypoints_x:name:keypoints_y"}, None),
        ({"header": "name:keypoints_x:keypoints_y", "order": "xy"}, ROWS),
        ({"header": " Name : Keypoints_Y : Keypoints_X"}, ROWS),
        ({"header": None}, ROWS),
        ({"header": f":{HEADER}", "index": True}, ROWS),
        ({"missing": None}, ROWS),
        *(
            ({"separator": s, "header": HEADER.replace(":", s), "quote": quote}, ROWS)
            for s in (",", ";", "\t")
            for quote in (False, True)
        ),
        ({"separator": ",", "header": f",{HEADER.replace(':', ',')}", "quote": True,
          "index": True}, ROWS),
        ({"separator": ",", "header": None, "quote": True, "index": True}, PLAIN),
        ({"separator": ";", "header": None}, PLAIN),
    ],
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_spellings_of_one_file(
    tmp_path: Path, how: dict[str, Any], rows: Any, encoding: str
) -> None:
    path = tmp_path / "annotations.csv"
    if rows is None:  # the name in the middle
        lines = text_of(PLAIN, order="xy", header=None).splitlines()
        cells = [line.split(":") for line in lines]
        text = "\n".join([how["header"], *(f"{x}:{name}:{y}" for name, x, y in cells)])
        rows = PLAIN
    else:
        text = text_of(rows, **how)
    path.write_bytes(text.replace("\n", "\r\n").encode(encoding))
    same(path, rows)


def test_the_header_gives_the_order_of_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"name:keypoints_x:keypoints_y\na.jpg: {[10] * 18}: {[200] * 18}\n")
    assert rows_of(path)["a.jpg"][0].tolist() == [10, 200]


@pytest.mark.parametrize("spelling", ["null", "None", "nan", "NaN", "", "-1", "0"])
def test_spellings_of_missing_joints(tmp_path: Path, spelling: str) -> None:
    path = tmp_path / "a.csv"
    rest = ", ".join(["7"] * 17)
    path.write_text(f"{HEADER}\na.jpg: [{spelling}, {rest}]: [{spelling}, {rest}]\n")
    found = rows_of(path)["a.jpg"]
    assert np.isnan(found[0]).all()
    assert (found[1:] == 7).all()


def test_a_single_zero_is_a_coordinate(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"{HEADER}\na.jpg: {[0] * 18}: {[5] * 18}\nb.jpg: {[5] * 18}: {[0] * 18}\n")
    found = rows_of(path)
    assert found["a.jpg"][0].tolist() == [5, 0]
    assert found["b.jpg"][0].tolist() == [0, 5]


def test_numbers_as_numpy_prints_them(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"{HEADER}\na.jpg:[{' '.join(['1.5'] * 18)}]:[{' '.join(['2'] * 18)}]\n")
    assert rows_of(path)["a.jpg"][0].tolist() == [2, 1.5]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (f"a.jpg: [{'9' * 9000}, {', '.join(['1'] * 17)}]: {[1] * 18}", "not a number of pixels"),
        (f"a.jpg: [1e999, {', '.join(['1'] * 17)}]: {[1] * 18}", "not a number of pixels"),
        (f"a.jpg: {[1] * 40_000}: {[1] * 18}", "a line of 1"),
        (f"a.jpg: {[1] * 17}: {[1] * 18}", "keypoints_y holds 17 numbers instead of 18"),
        (f"a.jpg: {[1] * 18}: [[1]]", "keypoints_x is not a list of numbers"),
        ("a.jpg", "found 1 fields"),
    ],
    ids=["digits", "infinite", "long line", "17 joints", "nested", "one field"],
)
def test_a_wrong_row_is_reported_and_the_others_are_used(
    tmp_path: Path, row: str, message: str
) -> None:
    path = tmp_path / "annotations.csv"
    path.write_text(f"{text_of(PLAIN)}{row}\n")
    same(path, PLAIN)
    path.write_text(f"{HEADER}\n{row}\n")
    with pytest.raises(XmdptError, match=r"its only row is wrong; annotations\.csv:2") as error:
        rows_of(path)
    assert message in error.value.message
    assert len(error.value.message) < 400


def test_a_file_whose_every_row_is_wrong_is_one_error(tmp_path: Path) -> None:
    root = make_dataset(tmp_path)
    file = root / "fasion-resize-annotation-train.csv"
    file.write_text("\n".join([HEADER, *(f"image {i}.jpg: [1]: [2]" for i in range(5000))]))
    with pytest.raises(XmdptError, match="all 5,000 rows are wrong") as error:
        find_dataset(root)
    assert "fasion-resize-annotation-train.csv:2: " in error.value.message
    assert HEADER in error.value.hint
    pairs = root / "fasion-resize-pairs-train.csv"
    pairs.write_text("\n".join(["from,to", *(f"a{i}.jpg,b{i}.jpg" for i in range(3000))]))
    with pytest.raises(XmdptError, match=r"all 3,000 rows are wrong.*:2: not a DeepFashion name"):
        find_dataset(root)


def test_wrong_rows_are_counted_and_the_first_is_reported(tmp_path: Path) -> None:
    root = make_dataset(tmp_path)
    with (root / "fasion-resize-annotation-train.csv").open("a") as file:
        file.writelines(f"image {i}.jpg: [1]: [2]\n" for i in range(3))
    line = "not usable: 3 x annotation row (first: fasion-resize-annotation-train.csv:17)"
    assert line in find_dataset(root).describe()


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("name:keypoints_y", "lacks keypoints_x"),
        ("name:a:b", "lacks keypoints_y, keypoints_x"),
        ("person:keypoints_y:keypoints_x", "lacks name"),
    ],
)
def test_a_header_without_a_column(tmp_path: Path, header: str, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text_of(PLAIN, header=header))
    with pytest.raises(XmdptError, match=message) as error:
        rows_of(path)
    assert "in any order" in error.value.hint


def test_a_file_without_a_header_is_read_as_published_with_a_note(tmp_path: Path) -> None:
    root = make_dataset(tmp_path)
    before = find_dataset(root)
    for path in root.glob("*.csv"):
        path.write_text("\n".join(path.read_text().splitlines()[1:]) + "\n")
    listing = find_dataset(root)
    assert listing.digest() == before.digest()
    notes = "\n".join(listing.notes)
    assert f"annotation-train.csv: no header, its columns are taken as {HEADER}" in notes
    assert "pairs-train.csv: no header, its columns are taken as from,to" in notes


A, B = (flat_name("MEN", 1, view) for view in ("1_front", "2_side"))


@pytest.mark.parametrize(
    "text",
    [
        f"from,to\n{A},{B}\n",
        f"to,from\n{B},{A}\n",
        f"From, To\n{A}, {B}\n",
        f"target;source\n{B};{A}\n",
        f"from\tto\n{A}\t{B}\n",
        f",from,to\n0,{A},{B}\n",
        f",to,from,score\n0,{B},{A},0.5\n",
        f'"from","to"\n"{A}","{B}"\n',
        f"{A},{B}\n",
        f"0;{A};{B}\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_spellings_of_a_list_of_pairs(tmp_path: Path, text: str, encoding: str) -> None:
    path = tmp_path / "pairs.csv"
    path.write_bytes(text.replace("\n", "\r\n").encode(encoding))
    found = read_pairs(path)
    assert not found.problems
    assert [(p.source.flat, p.target.flat, p.position) for p in found.pairs] == [(A, B, 0)]
    assert bool(found.notes) == (text[0] in "f0" and not text.startswith("from"))


def test_a_list_of_pairs_with_half_a_header(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(f"from,where\n{A},{B}\n")
    with pytest.raises(XmdptError, match="lacks to"):
        read_pairs(path)


def test_pidm_lists_and_pose_files_in_other_spellings(tmp_path: Path) -> None:
    path = tmp_path / "train_pairs.txt"
    path.write_bytes(f"{B};{A}\r\n".encode("utf-16"))
    (pair,) = read_pairs(path).pairs
    assert (pair.source.flat, pair.target.flat) == (A, B)
    pose = tmp_path / "pose.txt"
    pose.write_bytes(
        "\r\n".join(["60; 20", "0 0", "nan nan", "-1 -1", *["0 5"] * 14]).encode("utf-16")
    )
    found = read_pose_txt(pose).points
    assert found[0].tolist() == [60, 20]
    assert np.isnan(found[1:4]).all()
    assert (found[4:] == (0, 5)).all()
