"""The list of --pairs: accepted forms, and errors for invalid ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from xmdpt_cli.errors import ConfigError
from xmdpt_cli.sampling.pair_list import Row, read_pair_file


def read(folder: Path, text: str | bytes) -> list[Row]:
    file = folder / "list.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_pair_file(file, folder / "out")


def test_columns_in_any_order(tmp_path: Path) -> None:
    rows = read(
        tmp_path,
        "Seed, pose ,source,out,source_keypoints\n"
        "7,p.json,a.jpg,x/y.png,a.json\n\n"
        ',"p, q.json",b.jpg,,\n'
        ",p.json,b.jpg\n",
    )
    here = tmp_path
    assert rows == [
        Row(2, here / "a.jpg", here / "p.json", "x/y.png", here / "a.json", 7),
        Row(4, here / "b.jpg", here / "p, q.json"),
        Row(5, here / "b.jpg", here / "p.json"),
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_delimiters_encodings_and_line_ends_of_spreadsheets(
    tmp_path: Path, delimiter: str, encoding: str, end: str
) -> None:
    lines = [["source", "pose", "out"], ["é.jpg", "p.json", "ü.png"]]
    text = end.join(delimiter.join(line) for line in lines) + end
    [row] = read(tmp_path, text.encode(encoding))
    assert row == Row(2, tmp_path / "é.jpg", tmp_path / "p.json", "ü.png")


def test_an_index_column_of_pandas_is_skipped(tmp_path: Path) -> None:
    [row] = read(tmp_path, ",source,pose,seed\n0,a.jpg,p.json,3\n")
    assert row == Row(2, tmp_path / "a.jpg", tmp_path / "p.json", seed=3)


def test_paths_are_relative_to_the_list_or_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "a.jpg").touch()
    (tmp_path / "b.jpg").touch()
    (tmp_path / "lists" / "b.jpg").touch()
    monkeypatch.chdir(tmp_path)
    rows = read(tmp_path / "lists", f"source,pose\na.jpg,c.json\nb.jpg,{tmp_path}/d.json\n")
    assert [row.source for row in rows] == [Path("a.jpg"), tmp_path / "lists" / "b.jpg"]
    # a file in neither is looked for beside the list
    assert [row.pose for row in rows] == [tmp_path / "lists" / "c.json", tmp_path / "d.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("source,pose\n", "a header and no rows"),
        ("a.jpg,p.json\nb.jpg,p.json\n", "no header with the columns source and pose"),
        ("source,out\na.jpg,x.png\n", "not found: pose"),
        ("source,pose,sead\na.jpg,p.json,3\n", "unknown columns: sead"),
        ("source,pose,pose\na.jpg,p.json,p.json\n", "pose twice"),
        ("source,pose\na.jpg,\n", "line 2: no pose"),
        ("source,pose\na.jpg,p.json,x,y\n", "line 2: 4 cells for 2 columns"),
        ("source,pose,seed\na.jpg,p.json,-1\n", "line 2: a seed is a whole number from 0 on"),
        ("source,pose,seed\na.jpg,p.json,1.5\n", "not '1.5'"),
        pytest.param(f"source,pose,seed\na,p,{'9' * 9000}\n", "below 2**63, not '999", id="digits"),
        pytest.param(
            f"source,pose\n{'x' * 200_000},p\n", "field larger than field limit", id="long field"
        ),
        ("source,pose,out\na,p,x.png\na,p,y.png\na,q,X.PNG\n", "line 4: out 'X.PNG' is that of li"),
        ("source,pose,out\na,p,x.jpg\n", "'x.jpg' does not end in .png"),
        ("source,pose,out\na,p,../x.png\n", "line 2: out '../x.png' is no plain name"),
        ("source,pose,out\na,p,a/../../x.png\n", "is no plain name"),
        ("source,pose,out\na,p,..\\x.png\n", "is no plain name"),
        ("source,pose,out\na,p,C:x.png\n", "is no plain name"),
        ("source,pose,out\na,p,.lock.png\n", "is no plain name"),
        ("source,pose,out\na,p,/tmp/x.png\n", "'/tmp/x.png' is not in"),
        ("source,pose,out\na,p,sheet.png\n", "the contact sheet"),
        ("source,pose,out\na,p,link/x.png\n", "leads out of"),
        (b"source,pose\n\xe9.jpg,p.json\n", "neither UTF-8 nor UTF-16"),
        ('source,pose\n"a.jpg,p.json\n', "not CSV"),
    ],
)
def test_invalid_lists_are_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError) as err:
        read(tmp_path, text)
    assert message in err.value.message
    assert "list.csv" in err.value.message
    assert err.value.hint


def test_all_errors_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as err:
        read(tmp_path, "source,pose,seed\na,p,x\na,,1\na,p,y\n,p,\na,p,1\n")
    for part in ("line 2", "line 3", "line 4", "and 1 more"):
        assert part in err.value.message
    with pytest.raises(ConfigError, match="cannot read"):
        read_pair_file(tmp_path / "nowhere.csv", tmp_path)
    with pytest.raises(ConfigError, match="cannot read"):
        read_pair_file(tmp_path, tmp_path)


def test_out_may_be_an_absolute_path_below_the_folder(tmp_path: Path) -> None:
    [row] = read(tmp_path, f"source,pose,out\na,p,{tmp_path}/out/x/y.png\n")
    assert row.out == "x/y.png"
