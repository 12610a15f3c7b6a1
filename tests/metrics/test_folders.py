"""Pairs of two folders, by the names that the public codes write."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.metrics.folders import pair_folders

TARGETS = ["WOMENid1_1front", "WOMENid1_2side", "WOMENid2_1front"]


def folder(path: Path, names: list[str]) -> Path:
    path.mkdir()
    for name in names:
        Image.new("RGB", (2, 2)).save(path / f"{name}.png")
    return path


@pytest.mark.parametrize(
    "form",
    ["{0}_2_{1}", "{0}_2_{1}_vis", "{0}_to_{1}", "{1}_vis", "{1}"],
    ids=["pidm, xmdpt", "gfla, nted", "pcdms", "target_vis", "the same"],
)
def test_targets_are_found_by_the_name_of_the_generated_image(tmp_path: Path, form: str) -> None:
    wanted = [(TARGETS[0], TARGETS[1]), (TARGETS[1], TARGETS[0])]
    generated = folder(tmp_path / "g", [form.format(*pair) for pair in wanted] + ["stray"])
    found = pair_folders(generated, folder(tmp_path / "t", TARGETS))
    named = {name: target.stem for name, _, target in found.pairs}
    assert named == {form.format(*pair): pair[1] for pair in wanted}
    assert [path.stem for path in found.generated_only] == ["stray"]
    assert [path.stem for path in found.target_only] == [TARGETS[2]]


def test_equal_names_come_before_the_target_in_the_name(tmp_path: Path) -> None:
    """The target's name alone would pair the wrong images here."""
    pairs = ["a_2_b", "b_2_a"]
    found = pair_folders(folder(tmp_path / "g", pairs), folder(tmp_path / "t", [*pairs, "a", "b"]))
    assert [(name, target.stem) for name, _, target in found.pairs] == [(p, p) for p in pairs]


@pytest.mark.parametrize("form", ["{0}_2_{1}_vis", "{0}_2_{1}", "{1}"])
def test_ground_truths_of_pidm_have_the_prefix_deep(tmp_path: Path, form: str) -> None:
    flat = [f"fashionWOMENDressesid0000000{k}01_1front" for k in range(3)]
    generated = folder(tmp_path / "g", [form.format(flat[1], flat[k]) for k in (0, 1)])
    targets = folder(tmp_path / "t", [f"deep{name}" for name in flat])
    found = pair_folders(generated, targets)
    assert [target.stem for _, _, target in found.pairs] == [f"deep{name}" for name in flat[:2]]
    assert [path.stem for path in found.target_only] == [f"deep{flat[2]}"]
    # if both spellings exist, the equal name comes first
    Image.new("RGB", (2, 2)).save(targets / f"{flat[0]}.png")
    again = pair_folders(generated, targets)
    assert again.pairs[0][2].stem == flat[0]
    assert [path.stem for path in again.target_only] == [f"deep{flat[0]}", f"deep{flat[2]}"]


def test_several_generated_images_of_one_target(tmp_path: Path) -> None:
    made = ["a_2_c", "b_2_c"]
    found = pair_folders(folder(tmp_path / "g", made), folder(tmp_path / "t", ["c"]))
    assert [(name, target.stem) for name, _, target in found.pairs] == [(m, "c") for m in made]
    assert found.target_only == []


def test_suffixes_may_differ_and_unpaired_images_are_listed(tmp_path: Path) -> None:
    left = folder(tmp_path / "left", ["b", "a", "only here"])
    right = folder(tmp_path / "right", ["b", "c"])
    Image.new("RGB", (2, 2)).save(right / "a.JPG")
    (left / "notes.txt").write_text("a")
    found = pair_folders(left, right)
    assert found.pairs == [
        ("a", left / "a.png", right / "a.JPG"),
        ("b", left / "b.png", right / "b.png"),
    ]
    assert found.generated_only == [left / "only here.png"]
    assert found.target_only == [right / "c.png"]


def test_folders_without_pairs_and_equal_names_are_refused(tmp_path: Path) -> None:
    left, right = folder(tmp_path / "left", ["a"]), folder(tmp_path / "right", ["a"])
    with pytest.raises(XmdptError, match="no file name"):
        pair_folders(folder(tmp_path / "empty", []), right)
    with pytest.raises(XmdptError, match="no such folder"):
        pair_folders(tmp_path / "none", right)
    Image.new("RGB", (2, 2)).save(left / "a.jpg")
    with pytest.raises(XmdptError, match="two images of one name"):
        pair_folders(left, right)
