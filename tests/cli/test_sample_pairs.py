"""``xmdpt sample --pairs``: many people in one start, on toy networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from stick_people import FIGURE
from toy_models import leaning, make_encoders, make_model, person, write_pose

from xmdpt_cli.cli.app import run
from xmdpt_cli.sampling.sampler import Sampler

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model/, three people with keypoints beside them, poses a.json, b.json, and walk.json."""
    folder = tmp_path_factory.mktemp("pairs")
    make_encoders(folder / "encoders")
    make_model(folder / "model", folder / "encoders", "keys")
    for hue, name in enumerate(("ann", "bob", "cy")):
        person(hue).save(folder / f"{name}.png")
        write_pose(folder / f"{name}.json", FIGURE)
    write_pose(folder / "a.json", leaning(0.1))
    write_pose(folder / "b.json", leaning(-0.1))
    walk = [{"keypoints": (leaning(0.05 * i) * (88, 128)).tolist()} for i in range(3)]
    text = json.dumps({"frames": walk, "width": 88, "height": 128})
    (folder / "walk.json").write_text(text)
    return folder


def sample(
    toy: Path, rows: str, out: Path, capsys: Capture, *more: object, code: int = 0
) -> tuple[Any, str]:
    """Run ``xmdpt sample --pairs``; returns the JSON and stderr."""
    (toy / "list.csv").write_text(rows)
    words = ["sample", "--model", toy / "model", "--pairs", toy / "list.csv", "--out", out]
    capsys.readouterr()
    assert run([*map(str, [*words, *more]), "--json"]) == code
    output = capsys.readouterr()
    return json.loads(output.out) if output.out else None, output.err


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def stamps(out: Path) -> dict[str, int]:
    files = [p for p in out.rglob("*.png") if p.name != "sheet.png"]
    return {p.relative_to(out).as_posix(): p.stat().st_mtime_ns for p in files}


ROWS = """\
source,pose,out,seed
ann.png,a.json,,
bob.png,b.json,others/bob.png,5
ann.png,b.json,,
ann.png,a.json,,9
"""


def test_each_row_equals_a_run_of_its_own(toy: Path, tmp_path: Path, capsys: Capture) -> None:
    """Different people in one batch: each as alone, up to rounding; the model is loaded once."""
    loads = []
    load = Sampler.load.__func__  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        counted = classmethod(lambda cls, *a, **k: (loads.append(a), load(cls, *a, **k))[1])
        patch.setattr(Sampler, "load", counted)
        out = tmp_path / "o"
        printed, _ = sample(toy, ROWS, out, capsys, "--batch-size", 4)
    assert len(loads) == 1
    names = ["ann_in_a.png", "others/bob.png", "ann_in_b.png", "ann_in_a_2.png"]
    assert [row["file"] for row in printed["rows"]] == [str(out / name) for name in names]
    assert [row["line"] for row in printed["rows"]] == [2, 3, 4, 5]
    assert printed["files"] == [str(out / name) for name in names]
    assert (out / "sheet.png").is_file()
    single = ["sample", "--model", toy / "model"]
    for name, source, pose, seed in (
        (names[0], "ann", "a", 0), (names[1], "bob", "b", 5),
        (names[2], "ann", "b", 0), (names[3], "ann", "a", 9),
    ):  # fmt: skip
        alone = tmp_path / f"alone{source}{pose}{seed}"
        words = [*single, "--source", toy / f"{source}.png", "--pose", toy / f"{pose}.json"]
        words += ["--seed", seed, "--out", alone]
        assert run([str(word) for word in words]) == 0
        one = alone / f"{source}_in_{pose}.png"
        assert abs(pixels(one) - pixels(out / name)).max() <= 1, name
        facts = [json.loads(Image.open(path).info["xmdpt"]) for path in (one, out / name)]
        assert facts[0] == facts[1]
    assert abs(pixels(out / names[0]) - pixels(out / names[3])).max() > 1, "the seed counts"


def test_existing_images_are_not_generated_again(
    toy: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "o"
    sample(toy, ROWS, out, capsys)
    before = stamps(out)
    printed, _ = sample(toy, ROWS, out, capsys)
    assert printed["generated"] == 0
    assert stamps(out) == before
    (out / "ann_in_b.png").unlink()
    printed, _ = sample(toy, ROWS + "cy.png,a.json,,\n", out, capsys)
    assert printed["generated"] == 2
    now = stamps(out)
    assert {name for name in now if now[name] != before.get(name)} == {
        "ann_in_b.png",
        "cy_in_a.png",
    }
    assert len(json.loads((out / "samples.json").read_text())["files"]) == 5


def test_other_settings_and_other_inputs(toy: Path, tmp_path: Path, capsys: Capture) -> None:
    """Never over what is there: refused by name, left out by line, or beside."""
    out = tmp_path / "o"
    sample(toy, ROWS, out, capsys)
    before = {path: path.read_bytes() for path in out.rglob("*.png")}
    printed, output = sample(toy, ROWS, out, capsys, "--steps", 2, code=1)
    assert printed is None
    assert "what differs: steps (there 3, now 2)" in output
    rows = "source,pose,out,seed\ncy.png,b.json,others/bob.png,\nann.png,a.json,,11\n"
    printed, output = sample(toy, rows, out, capsys, code=1)
    assert "line 2: " in output
    assert "others/bob.png exists with other inputs or settings; what differs: inputs" in output
    assert printed["rows"][1]["file"] == str(out / "ann_in_a_3.png")
    for path, data in before.items():
        assert path.name == "sheet.png" or path.read_bytes() == data


@pytest.mark.parametrize("batch", [1, 2])
def test_bad_rows_are_left_out_and_named(
    toy: Path, tmp_path: Path, capsys: Capture, batch: int
) -> None:
    (toy / "broken.png").write_bytes((toy / "ann.png").read_bytes()[:200])
    rows = (
        "source,pose\nann.png,a.json\nnowhere.png,a.json\nbob.png,b.json\nbroken.png,a.json\n"
        "cy.png,nothing.json\ncy.png,walk.json\ncy.png,b.json\n"
    )
    out = tmp_path / "o"
    printed, output = sample(toy, rows, out, capsys, "--batch-size", batch, code=1)
    assert sorted(stamps(out)) == ["ann_in_a.png", "bob_in_b.png", "cy_in_b.png"]
    failed = {row["line"]: row["error"] for row in printed["rows"] if "error" in row}
    assert sorted(failed) == [3, 5, 6, 7]
    for line, part in ((3, "nowhere.png"), (5, "broken.png"), (6, "nothing.json"), (7, "3 poses")):
        assert part in failed[line]
        assert f"line {line} is left out: {failed[line]}" in output
    assert "4 of 7 rows of" in output
    assert "and 1 more" in output
    assert output.splitlines()[-1].startswith("hint:")


def test_a_list_without_a_usable_row(toy: Path, tmp_path: Path, capsys: Capture) -> None:
    printed, output = sample(toy, "source,pose\nno.png,a.json\n", tmp_path / "o", capsys, code=1)
    assert printed["files"] == []
    assert printed["sheet"] is None
    assert "1 of 1 rows" in output
    assert not list((tmp_path / "o").iterdir())


def test_files_of_others_are_not_replaced(toy: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "o"
    out.mkdir()
    (out / "x.png").write_bytes((toy / "ann.png").read_bytes())
    rows = "source,pose,out\nann.png,a.json,x.png\nbob.png,a.json,y.png\n"
    _, output = sample(toy, rows, out, capsys, code=1)
    assert "x.png exists and was not generated by xmdpt" in output
    assert (out / "x.png").read_bytes() == (toy / "ann.png").read_bytes()
    assert (out / "y.png").is_file()


def test_more_rows_than_are_read_at_once(
    toy: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xmdpt_cli.sampling import own_images

    monkeypatch.setattr(own_images, "SECTION", 2)
    cut, _ = sample(toy, ROWS, tmp_path / "cut", capsys, "--max-memory", "100GB")
    monkeypatch.undo()
    whole, _ = sample(toy, ROWS, tmp_path / "whole", capsys)
    assert [Path(f).name for f in cut["files"]] == [Path(f).name for f in whole["files"]]
    for one, other in zip(cut["files"], whole["files"], strict=True):
        assert abs(pixels(Path(one)) - pixels(Path(other))).max() <= 1


def test_a_missing_list_is_named(toy: Path, capsys: Capture) -> None:
    assert run(["sample", "--model", str(toy / "model"), "--pairs", "nowhere.csv"]) == 2
    assert "cannot read nowhere.csv" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "output"),
    [
        (["--source", "a.png", "--pose", "p.json"], "cannot be combined"),
        (["--data", "d"], "cannot be combined"),
        (["--pose", "p.json"], "--pose cannot be combined with --pairs"),
        (["--source-keypoints", "k.json"], "--source-keypoints cannot be combined with --pairs"),
        (["--animate", "a.gif"], "--animate cannot be combined with --pairs"),
        (["--limit", "3"], "--limit cannot be combined with --pairs"),
        (["--num-images", "2"], "--num-images cannot be combined with --pairs"),
        (["--fit", "stretch"], "'stretch' is not one of"),
        (["--pose-size", "0x0"], "pose size"),
    ],
)
def test_options_that_cannot_be_combined(
    toy: Path, tmp_path: Path, capsys: Capture, more: list[str], output: str
) -> None:
    _, err = sample(toy, ROWS, tmp_path / "o", capsys, *more, code=2)
    assert output in err
    assert not list(tmp_path.rglob("*.png"))
