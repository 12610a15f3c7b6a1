"""``xmdpt sample --source --pose``, end to end on toy networks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from stick_people import FIGURE
from toy_models import leaning, make_encoders, make_model, person, write_pose

from xmdpt_cli.app import run

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """encoders/, model/ (reads keypoints), vector/ (the paper's), person.png, .json, poses/."""
    folder = tmp_path_factory.mktemp("own")
    make_encoders(folder / "encoders")
    make_model(folder / "model", folder / "encoders", "keys")
    make_model(folder / "vector", folder / "encoders", "vector")
    person().save(folder / "person.png")
    write_pose(folder / "person.json", FIGURE)
    (folder / "poses").mkdir()
    for name, amount in (("a", 0.1), ("b", -0.1)):
        write_pose(folder / "poses" / f"{name}.json", leaning(amount))
    (folder / "poses" / "notes.md").touch()
    (folder / "poses" / "._a.json").write_bytes(b"\0\5\x16\7")  # what macOS leaves behind
    walk = [{"keypoints": (leaning(0.05 * i) * (88, 128)).tolist()} for i in range(3)]
    text = json.dumps({"frames": walk, "width": 88, "height": 128})
    (folder / "walk.json").write_text(text)
    return folder


def command(toy: Path, out: Path, *more: object, pose: str = "poses/a.json") -> list[str]:
    given = ["sample", "--model", toy / "model", "--source", toy / "person.png", "--out", out]
    given += ["--source-keypoints", toy / "person.json", "--pose", toy / pose, *more]
    return [str(one) for one in given]


def result(capsys: Capture, arguments: list[str]) -> dict[str, Any]:
    """With --json stdout holds one object, and nothing else."""
    capsys.readouterr()
    assert run([*arguments, "--json"]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    return told


def refused(capsys: Capture, arguments: list[str], code: int = 1) -> str:
    """error: and hint:, and no traceback."""
    capsys.readouterr()
    assert run(arguments) == code
    said = capsys.readouterr()
    assert not said.out
    assert said.err.splitlines()[-1].startswith(("error:", "hint:"))
    assert "a bug of ours" not in said.err
    return said.err


def stamps(out: Path) -> dict[str, tuple[int, int]]:
    return {
        p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in out.iterdir() if "_in_" in p.name
    }


def test_one_picture(toy: Path, tmp_path: Path, capsys: Capture) -> None:
    assert run(command(toy, tmp_path / "o")) == 0
    said = capsys.readouterr()
    path = tmp_path / "o" / "person_in_a.png"
    assert said.out.startswith(f"{path}, drawn by a TOY model")
    assert "squashed" in said.err
    with Image.open(path) as image:
        assert image.size == (22, 32)
        told = json.loads(image.info["xmdpt"])
        assert "not a photograph" in image.info["Source"]
    assert told["recipe"]["seed"] == 0
    assert told["recipe"]["steps"] == 3
    assert (told["image"], told["trained_steps"], told["toy"]) == (0, 7, True)
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == [
        "person_in_a.png",
        "samples.json",
        "sheet.png",
    ]


def test_a_folder_of_poses_in_numbers(toy: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "o"
    many = command(toy, out, "--num-images", 2, "--square", pose="poses")
    told = result(capsys, many)
    names = [f"person_in_{pose}_{k}.png" for pose in "ab" for k in (1, 2)]
    assert told["files"] == [str(out / name) for name in names]
    assert told == {**told, "toy": True, "sources": ["person"], "sheet": "sheet.png"}
    assert {Image.open(path).size for path in told["files"]} == {(32, 32)}
    record = json.loads((out / "samples.json").read_text())
    assert record["files"] == names
    before = stamps(out)
    result(capsys, many)
    assert stamps(out) == before, "the second run draws nothing"
    (out / names[2]).unlink()
    half = (out / names[1]).read_bytes()
    (out / names[1]).write_bytes(half[: len(half) // 2])
    result(capsys, many)
    assert {n for n, at in stamps(out).items() if before[n] != at} == {names[1], names[2]}
    assert (out / names[1]).read_bytes() == half


def test_other_settings_are_refused_by_name(toy: Path, tmp_path: Path, capsys: Capture) -> None:
    """Nothing in --out is replaced, nor is something else put beside it."""
    from xmdpt_cli.encoders.toy import toy_vae

    out = tmp_path / "o"
    result(capsys, command(toy, out))
    toy_vae(32, seed=3).save(tmp_path / "vae")
    before = {path: path.read_bytes() for path in out.iterdir()}
    for other, said in (
        (["--seed", 1], "what differs: seed (there 0, now 1)"),
        (["--steps", 2, "--guidance", 1], "steps (there 3, now 2), guidance (there 1.5, now 1.0)"),
        (["--vae", tmp_path / "vae"], "what differs: vae\n"),
        (["--square"], "square (there False, now True)"),
        (["--solver", "unipc"], "solver (there ddim, now unipc)"),
        (["--seed", 1], "hint: choose another --out"),
    ):
        more = [*other, "--num-images", 2]
        assert said in refused(capsys, command(toy, out, *more, pose="poses/b.json")), other
        assert {path: path.read_bytes() for path in out.iterdir()} == before
    vector = command(toy, out)
    vector[vector.index(str(toy / "model"))] = str(toy / "vector")
    assert "what differs: model" in refused(capsys, vector)


def test_the_same_settings_add_files(toy: Path, tmp_path: Path, capsys: Capture) -> None:
    """Another pose, another person, more images; the record names all of them."""
    out = tmp_path / "o"
    result(capsys, command(toy, out))
    before = stamps(out)
    result(capsys, command(toy, out, pose="poses/b.json"))
    result(capsys, command(toy, out, "--num-images", 2))
    now = stamps(out)
    assert {name: now[name] for name in before} == before
    names = ["person_in_a.png", "person_in_b.png", "person_in_a_1.png", "person_in_a_2.png"]
    assert sorted(now) == sorted(names)
    assert json.loads((out / "samples.json").read_text())["files"] == names


def test_another_person_of_the_same_name_stands_beside(
    toy: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "o"
    result(capsys, command(toy, out))
    first = (out / "person_in_a.png").read_bytes()
    (tmp_path / "other").mkdir()
    person(1).save(tmp_path / "other" / "person.png")
    words = command(toy, out)
    words[words.index(str(toy / "person.png"))] = str(tmp_path / "other" / "person.png")
    assert run(words) == 0
    said = capsys.readouterr().err
    assert "person_in_a.png is in" in said
    assert "written beside it" in said
    assert (out / "person_in_a.png").read_bytes() == first
    second = (out / "person_in_a_2.png").read_bytes()
    assert second != first
    at = stamps(out)
    for again in (words, command(toy, out)):  # each finds its own
        told = result(capsys, again)
        assert stamps(out) == at
    assert told["files"] == [str(out / "person_in_a.png")]
    assert sorted(at) == ["person_in_a.png", "person_in_a_2.png"]


def test_an_interrupted_run_holds_to_its_settings(
    toy: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xmdpt_cli.sampling import own

    def full(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(own, "_sheet", full)
    assert run(command(toy, tmp_path / "o")) == 130
    monkeypatch.undo()
    assert (tmp_path / "o" / "person_in_a.png").is_file()
    assert "steps (there 3, now 2)" in refused(capsys, command(toy, tmp_path / "o", "--steps", 2))
    at = stamps(tmp_path / "o")
    result(capsys, command(toy, tmp_path / "o"))
    assert stamps(tmp_path / "o") == at


def test_openpose_files_as_they_are_written(toy: Path, tmp_path: Path, capsys: Capture) -> None:
    """No image size in them: it is given, an image's beside them, or the source's."""
    one, two = (
        [v for x, y in (points * (88, 128)).tolist() for v in (x, y, 0.9)]
        for points in (leaning(0.1), FIGURE * 0.3)
    )
    people = [{"person_id": [-1], "pose_keypoints_2d": person} for person in (two, one)]
    (tmp_path / "walk_keypoints.json").write_text(json.dumps({"version": 1.3, "people": people}))
    given = command(toy, tmp_path / "o")
    given[given.index(str(toy / "poses/a.json"))] = str(tmp_path / "walk_keypoints.json")
    given[given.index(str(toy / "person.json"))] = str(tmp_path / "walk_keypoints.json")
    for more, where in (
        ([], "(the size of the source image"),
        (["--pose-size", "88x128"], "(--pose-size)"),
    ):
        assert run([*given, *more]) == 0
        said = capsys.readouterr().err
        assert f"walk_keypoints.json: in pixels of an image of 88 x 128 {where}" in said
        assert "2 people, the largest is taken (--pose-person chooses)" in said
        assert "2 people, the largest is taken (--person chooses)" in said
    person(width=100, height=200).save(tmp_path / "walk.png")
    assert run(given) == 0
    assert "100 x 200 (the size of walk.png beside it)" in capsys.readouterr().err
    assert "lie outside of an image of 20 x 30" in refused(capsys, [*given, "--pose-size", "20x30"])
    for bad in ("0x0", "abc", "12"):
        assert "for instance 750x1101" in refused(capsys, [*given, "--pose-size", bad], 2)
    assert run(command(toy, tmp_path / "p", "--pose-size", "9x9")) == 0
    assert "--pose-size is not used" in capsys.readouterr().err


def test_a_photograph_with_its_keypoints_is_one_pose(
    toy: Path, tmp_path: Path, capsys: Capture
) -> None:
    """In a folder of poses; and the source's lie beside it."""
    shutil.copytree(toy / "poses", tmp_path / "poses")
    person().save(tmp_path / "poses" / "a.jpg")
    words = ["sample", "--model", toy / "model", "--source", toy / "person.png"]
    words += ["--pose", tmp_path / "poses", "--out", tmp_path / "o"]
    told = result(capsys, [str(word) for word in words])
    assert [Path(name).name for name in told["files"]] == ["person_in_a.png", "person_in_b.png"]
    assert "person.png: keypoints of person.json beside it" in told["notes"]
    alone = [str(word) for word in words]
    alone[alone.index(str(tmp_path / "poses"))] = str(tmp_path / "poses" / "a.jpg")
    assert result(capsys, alone)["files"] == [str(tmp_path / "o" / "person_in_a.png")]


def test_what_is_no_pose_in_a_folder_is_left_out(
    toy: Path, tmp_path: Path, capsys: Capture
) -> None:
    folder = tmp_path / "poses"
    shutil.copytree(toy / "poses", folder)
    few = {"keypoints": [[1.0, 1.0]] * 3 + [None] * 15, "width": 9, "height": 9}
    (folder / "a2.json").write_text(json.dumps(few))
    (folder / "meta.json").write_text('{"made by": "somebody"}')
    words = command(toy, tmp_path / "o")
    words[words.index(str(toy / "poses/a.json"))] = str(folder)
    told = result(capsys, words)
    assert [Path(name).name for name in told["files"]] == ["person_in_a.png", "person_in_b.png"]
    assert "a2.json: the pose has 3 of 18 joints" in told["left_out"][0]
    assert "meta.json" in told["left_out"][1]
    for name in "ab":  # nothing is left: the last one's trouble is the command's
        (folder / f"{name}.json").unlink()
    assert "meta.json" in refused(capsys, words)


def test_an_animation(toy: Path, tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "there" / "walk.gif"
    animated = ["--animate", file, "--fps", 10]
    told = result(capsys, command(toy, tmp_path / "o", *animated, pose="walk.json"))
    assert [Path(name).name for name in told["files"]] == [
        f"person_in_walk_{i:04d}.png" for i in range(3)
    ]
    with Image.open(file) as image:
        assert (image.n_frames, image.info["duration"]) == (3, 100)  # type: ignore[attr-defined]
    wrong = command(toy, tmp_path / "p", "--animate", tmp_path / "walk.avi")
    assert ".webp, .gif, .mp4" in refused(capsys, wrong, 2)
    assert not (tmp_path / "p").exists()


def test_poses_of_one_name_get_names_of_their_own(
    toy: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "more").mkdir()
    for name in ("a", "a_2", "A b%#\u2603\U0001f600"):
        write_pose(tmp_path / "more" / f"{name}.json", leaning(0.02))
    more = ["--pose", tmp_path / "more" / "a.json", "--pose", tmp_path / "more"]
    told = result(capsys, command(toy, tmp_path / "o", *more))
    names = [Path(name).name for name in told["files"]]
    assert len({name.lower() for name in names}) == 5
    assert names[:2] == ["person_in_a.png", "person_in_a_2.png"]
    assert all((tmp_path / "o" / name).is_file() for name in names)


def test_what_is_not_ours_stays(toy: Path, tmp_path: Path, capsys: Capture) -> None:
    """A picture, something else under its name, another record, another sheet."""
    arguments = command(toy, tmp_path / "o")
    for name, content in (
        ("person_in_a.png", (toy / "person.png").read_bytes()),
        ("person_in_a.png", b"my notes"),
        ("sheet.png", (toy / "person.png").read_bytes()),
        ("samples.json", b'{"format": "xmdpt-samples"}'),
        ("samples.json", b"my notes"),
    ):
        shutil.rmtree(tmp_path / "o", ignore_errors=True)
        (tmp_path / "o").mkdir()
        (tmp_path / "o" / name).write_bytes(content)
        assert "choose another" in refused(capsys, arguments)
        assert (tmp_path / "o" / name).read_bytes() == content
        assert [p.name for p in (tmp_path / "o").iterdir()] == [name]
    (tmp_path / "o" / "samples.json").unlink()
    (tmp_path / "o" / "person_in_a.png").touch()  # what a power cut leaves of ours
    assert run(arguments) == 0


def test_several_views_and_openpose_that_is_not_there(
    toy: Path, tmp_path: Path, capsys: Capture
) -> None:
    person(1).save(tmp_path / "back.jpg")
    views = ["--source", tmp_path / "back.jpg"]
    assert "1 source keypoints for 2" in refused(capsys, command(toy, tmp_path / "o", *views), 2)
    both = [*views, "--source-keypoints", toy / "person.json"]
    told = result(capsys, command(toy, tmp_path / "o", *both))
    assert told["sources"] == ["person", "back"]
    columns = Image.open(tmp_path / "o" / "sheet.png").width
    assert columns > Image.open(tmp_path / "o" / "person_in_a.png").width * 4
    person().save(tmp_path / "alone.png")
    without = ["sample", "--model", toy / "model", "--source", tmp_path / "alone.png"]
    without += ["--out", tmp_path / "p", "--pose", toy / "poses/a.json"]
    said = refused(capsys, [str(one) for one in without])
    assert "--source-keypoints" in said
    assert "hf download" in said
    vector = [str(one) if one != toy / "model" else str(toy / "vector") for one in without]
    assert run(vector) == 0
    Image.new("RGB", (300, 100)).save(tmp_path / "wide.png")
    vector[vector.index(str(tmp_path / "alone.png"))] = str(tmp_path / "wide.png")
    said = refused(capsys, vector)
    assert "wide.png: the picture is 300 x 100" in said
    for way in ("--fit pad", "--fit squash", "--openpose"):
        assert way in said
    assert run([*vector, "--fit", "pad"]) == 0


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (["--limit", 3], 2, "--limit does not go with --source"),
        (["--shard", "0/2"], 2, "--shard does not go with --source"),
        (["--data", "d"], 2, "give one of them"),
        (["--num-images", 0], 2, "--num-images"),
        (["--fit", "stretch"], 2, "'stretch' is not one of"),
        (["--pose-fit", "stretch"], 2, "'stretch' is not one of"),
        (["--person", 99], 1, "person 99 is asked for, 1 found"),
        (["--pose-person", 2], 1, "--pose-person 1 to 1"),
        (["--guidance", "nan"], 2, "guidance is a number"),
        (["--interval", "0.5"], 2, "LOW:HIGH"),
        (["--solver", "euler"], 2, "euler"),
        (["--max-memory", "1KB"], 1, "raise --max-memory"),
        (["--max-memory", "lots"], 2, "no amount of memory"),
        (["--batch-size", "0"], 2, "at least 1"),
        (["--encoders", "/no/where"], 1, "/no/where"),
        (["--model", "/no/where"], 1, "no such model folder: /no/where"),
        (["--source", "/no/where.jpg"], 2, "1 source keypoints for 2 sources"),
        (["--pose", "/no/where.json"], 1, "no such file of keypoints: /no/where.json"),
        (["--pose", "/no/where.jpg"], 1, "no such picture: /no/where.jpg"),
    ],
)
def test_what_cannot_be(
    toy: Path, tmp_path: Path, capsys: Capture, more: list[object], code: int, said: str
) -> None:
    assert said in refused(capsys, command(toy, tmp_path / "o", *more), code)
    assert not list(tmp_path.rglob("*.png"))


def test_own_options_do_not_go_with_a_dataset(toy: Path, tmp_path: Path, capsys: Capture) -> None:
    data = ["sample", "--model", str(toy / "model"), "--data", "d", "--out", str(tmp_path / "o")]
    for name, value in (("pose", "p.json"), ("person", "2"), ("animate", "a.gif"),
                        ("source-keypoints", "k.json"), ("encoders", "e")):  # fmt: skip
        said = refused(capsys, [*data, f"--{name}", value], 2)
        assert f"--{name} does not go with --data" in said
    assert "--square does not go" in refused(capsys, [*data, "--square"], 2)
    alone = ["sample", "--model", "m", "--source", "x.png", "--out", "o"]
    assert "--source needs --pose" in refused(capsys, alone, 2)


def test_the_batch_changes_rounding_alone(toy: Path, tmp_path: Path) -> None:
    for size in (1, 3):
        out = tmp_path / str(size)
        assert run(command(toy, out, "--batch-size", size, pose="walk.json")) == 0
    for path in (tmp_path / "1").glob("person_in_*"):
        one, three = (np.asarray(Image.open(tmp_path / n / path.name)).astype(int) for n in "13")
        assert abs(one - three).max() <= 1
