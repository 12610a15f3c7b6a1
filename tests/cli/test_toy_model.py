"""The toy model of the package: with a stand-in of random weights, in folders without a model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from small_data import make_data
from toy_models import make_encoders, make_model

from xmdpt_cli.cli.app import run
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.sampling.pipeline import XMDPTPipeline
from xmdpt_cli.sampling.record import save_sheet
from xmdpt_cli.toy import pretrained
from xmdpt_cli.toy.examples import examples_of
from xmdpt_cli.toy.people.views import render_view, views_of
from xmdpt_cli.ui.examples import FEWEST_JOINTS, Examples

Capture = pytest.CaptureFixture[str]
SOURCE = ("--source", "person.png", "--pose", "pose.json")


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder as the package would have it."""
    folder = tmp_path_factory.mktemp("package")
    encoders = make_encoders(folder / "encoders")
    pipe = XMDPTPipeline.from_pretrained(
        make_model(folder / "model", encoders, "keys"), device="cpu", encoders=encoders
    )
    pipe.save_pretrained(folder / "weights")
    shutil.rmtree(folder / "model")
    shutil.rmtree(encoders)
    return folder / "weights"


@pytest.fixture(autouse=True)
def empty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stand_in: Path) -> Path:
    """The working directory: empty, of an installation that has the toy model."""
    monkeypatch.setattr(pretrained, "FOLDER", stand_in)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def own_person() -> None:
    """person.png, person.json and pose.json in the working directory."""
    source, target = views_of("test", 5, seed=0, views=2)
    for view, name in ((source, "person"), (target, "pose")):
        rendering = render_view(view)
        joints = [None if np.isnan(x) else [x, y] for x, y in rendering.keypoints]
        keypoints = {"keypoints": joints, "width": 176, "height": 256}
        Path(f"{name}.json").write_text(json.dumps(keypoints), encoding="utf-8")
    Image.fromarray(render_view(source).image).save("person.png")


def result(capsys: Capture, *line: object) -> tuple[dict[str, Any], str]:
    """The object on stdout of a command with --json, and its messages as one line."""
    capsys.readouterr()
    assert run([*map(str, line), "--json"]) == 0
    printed = capsys.readouterr()
    data: dict[str, Any] = json.loads(printed.out)
    return data, " ".join(printed.err.split())


def refused(capsys: Capture, *line: str) -> str:
    capsys.readouterr()
    assert run(list(line)) in (1, 2)
    return " ".join(capsys.readouterr().err.split())


def test_the_folder_is_a_complete_pipeline(stand_in: Path) -> None:
    pipe = XMDPTPipeline.from_pretrained(pretrained.folder(), device="cpu")
    source, target = views_of("test", 0, seed=0, views=2)
    fractions = [render_view(v).keypoints / (176, 256) for v in (source, target)]
    (image,) = pipe(render_view(source).image, fractions[1], source_keypoints=fractions[0])
    assert image.size == (22, 32)
    assert pipe.toy


def test_sample_alone_generates_synthetic_people(capsys: Capture) -> None:
    record, messages = result(capsys, "sample")
    assert "model: the toy model of the package" in messages
    assert "synthetic people" in messages
    assert record["toy"] is True
    assert record["out"] == "samples/toy"
    assert len(record["files"]) == 8
    for name in record["files"]:
        with Image.open(Path("samples/toy") / name) as image:
            assert image.size == (22, 32)
            assert json.loads(image.info["xmdpt"])["toy"] is True
    with Image.open(Path("samples/toy") / record["sheet"]) as sheet:
        assert sheet.width > 2 * 4 * 22  # source, pose, ground truth, generated, in two blocks
    before = {p: p.stat().st_mtime_ns for p in Path("samples/toy").glob("person_*.png")}
    again, _ = result(capsys, "sample")
    assert (again["generated"], again["files"]) == (0, record["files"])
    assert {p: p.stat().st_mtime_ns for p in Path("samples/toy").glob("person_*.png")} == before


def test_the_sheet_of_examples_has_the_ground_truth(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    sheets: list[tuple[Any, Any]] = []
    monkeypatch.setattr(
        "xmdpt_cli.toy.examples.save_sheet",
        lambda out, rows, columns, metadata: sheets.append((rows, columns)),
    )
    result(capsys, "sample")
    ((rows, columns),) = sheets
    assert columns == ("source", "pose", "ground truth", "generated")
    source, target = examples_of()[0].source, examples_of()[0].target
    np.testing.assert_array_equal(rows[0][0], render_view(source, height=32).image)
    np.testing.assert_array_equal(rows[0][2], render_view(target, height=32).image)
    generated = Image.open("samples/toy/person_1_pose_1.png")
    np.testing.assert_array_equal(rows[0][3], np.asarray(generated))


def test_the_saved_inputs_can_be_sampled(capsys: Capture) -> None:
    result(capsys, "sample")
    inputs = Path("samples/toy/inputs")
    record, _ = result(
        capsys, "sample", "--source", inputs / "person_1.png",
        "--pose", inputs / "person_2_pose_1.json",
    )  # fmt: skip
    assert record["out"] == "samples/toy-own"


def test_own_images_are_generated_with_it_where_no_model_is(capsys: Capture) -> None:
    own_person()
    record, messages = result(capsys, "sample", *SOURCE)
    assert "the toy model of the package (no model here: it knows synthetic people only)" in (
        messages
    )
    assert record["toy"] is True
    assert (record["out"], len(record["files"])) == ("samples/toy-own", 1)
    Path("list.csv").write_text("source,pose\nperson.png,pose.json\n", encoding="utf-8")
    listed, messages = result(capsys, "sample", "--pairs", "list.csv", "--out", "listed")
    assert "the toy model of the package" in messages
    assert len(listed["files"]) == 1


def test_a_photograph_without_keypoints_gets_the_hint_that_fits(capsys: Capture) -> None:
    own_person()
    Path("person.json").unlink()
    error = refused(capsys, "sample", *SOURCE)
    assert "the keypoints of the person are not known" in error
    assert "the toy model of the package knows synthetic people only" in error
    assert "--source-keypoints FILE" in error


@pytest.mark.parametrize(("toy", "name"), [(True, "TOY output"), (False, "generated")])
def test_contact_sheets_name_the_images_of_toy_models(
    monkeypatch: pytest.MonkeyPatch, toy: bool, name: str
) -> None:
    seen: list[list[str]] = []

    def contact_sheet(rows: Any, columns: Any, blocks: int) -> NDArray[np.uint8]:
        seen.append(list(columns))
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr("xmdpt_cli.sampling.record.contact_sheet", contact_sheet)
    save_sheet(Path(), [], ["source", "pose", "generated", "generated"], {"toy": toy})
    assert seen == [["source", "pose", name, name]]


def test_a_model_of_ones_own_comes_first(capsys: Capture, tmp_path: Path) -> None:
    own_person()
    encoders = make_encoders(tmp_path / "encoders")
    make_model(Path("models/mine"), encoders, "keys")
    record, messages = result(capsys, "sample", *SOURCE, "--encoders", encoders)
    assert record["out"] == "samples/mine-own"
    assert "toy model of the package" not in messages
    _, messages = result(capsys, "sample", *SOURCE, "--model", "toy")
    assert "the toy model of the package (it knows synthetic people only)" in messages


def test_a_folder_named_toy_is_not_shadowed(capsys: Capture, tmp_path: Path) -> None:
    own_person()
    encoders = make_encoders(tmp_path / "encoders")
    make_model(Path("toy"), encoders, "keys", trained_steps=11)
    line = ["sample", *SOURCE, "--model", "toy", "--encoders", encoders]
    record, messages = result(capsys, *line)
    assert record["trained_steps"] == 11
    assert "of the package" not in messages


def test_what_needs_a_model_of_ones_own_still_says_so(capsys: Capture) -> None:
    for line in (["evaluate", "--ssim"], ["distill", "guidance"], ["sample", "--limit", "3"]):
        error = refused(capsys, *line)
        assert "error: " in error
        assert "toy model of the package" not in error
    assert not Path("samples").exists()


def test_an_interrupted_training_is_not_replaced_by_the_toy_model(capsys: Capture) -> None:
    own_person()
    Path("runs/B").mkdir(parents=True)
    Path("runs/B/config.toml").write_text("[train]\nsteps = 8\n", encoding="utf-8")
    assert "runs/B has no model yet" in refused(capsys, "sample", *SOURCE)


def test_the_page_opens_with_it_where_no_model_is(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With synthetic people to click, whom it has not seen."""
    served: list[tuple[bool, str]] = []
    shown: list[Examples] = []

    def serve(pipe: XMDPTPipeline, model: str, *_: Any, examples: Examples, **__: Any) -> None:
        served.append((pipe.toy, model))
        shown.append(examples)

    monkeypatch.setattr("xmdpt_cli.ui.serve.serve", serve)
    for line in (["ui", "--port", "0"], ["ui", "--port", "0", "--model", "toy"]):
        assert run(line) == 0
        assert "model: the toy model of the package" in capsys.readouterr().err
    assert served == [(True, pretrained.TITLE)] * 2
    examples = shown[0]
    assert len(examples.people) == len(examples.poses) == 6
    rendering = render_view(examples_of(1, poses=1)[0].source)
    np.testing.assert_array_equal(np.asarray(examples.people[0].image), rendering.image)
    sides = (rendering.image.shape[1], rendering.image.shape[0])
    np.testing.assert_allclose(examples.people[0].keypoints * sides, rendering.keypoints)
    for keypoints in (*(person.keypoints for person in examples.people), *examples.poses):
        seen = keypoints[~np.isnan(keypoints).any(axis=1)]
        assert len(seen) >= FEWEST_JOINTS
        assert ((seen > 0) & (seen < 1)).all()


def test_status_names_it_in_an_empty_folder_only(capsys: Capture) -> None:
    assert run(["status"]) == 0
    assert "toy model of the package" in capsys.readouterr().out
    make_model(Path("models/mine"), make_encoders(Path("encoders").absolute()), "keys")
    assert run(["status"]) == 0
    assert "toy model of the package" not in capsys.readouterr().out


def test_the_demo_shows_its_images_and_can_stop_there(capsys: Capture) -> None:
    summary, messages = result(capsys, "demo", "--no-train")
    shown = summary["toy_model"]
    assert shown["images"] == 8
    assert Path(shown["image"]).is_file()
    assert shown["image"] in messages
    assert shown["seconds"] > 0
    assert {path.name for path in Path("xmdpt-demo").iterdir()} == {"toy-model"}


def test_the_demo_replaces_images_of_an_earlier_toy_model(capsys: Capture) -> None:
    result(capsys, "demo", "--no-train")
    folder = Path("xmdpt-demo/toy-model")
    record, image = folder / "samples.json", folder / "person_1_pose_1.png"
    before = image.read_bytes()
    made = json.loads(record.read_text())
    record.write_text(json.dumps({**made, "model": "0" * 64, "trained_steps": 6000}))
    image.write_bytes((folder / "person_2_pose_1.png").read_bytes())
    summary, _ = result(capsys, "demo", "--no-train")
    assert summary["toy_model"]["images"] == 8
    assert image.read_bytes() == before
    assert json.loads(record.read_text())["model"] == made["model"]


def test_the_demo_trains_after_the_images(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Path] = []

    def stop(out: Path, *_: object, **__: object) -> None:
        called.append(out)
        raise XmdptError("stop here")

    monkeypatch.setattr("xmdpt_cli.toy.demo.run_demo", stop)
    assert "stop here" in refused(capsys, "demo")
    assert called == [Path("xmdpt-demo")]
    assert Path("xmdpt-demo/toy-model/sheet.png").is_file()


def test_without_it_the_demo_trains_at_once_and_sample_names_the_next_command(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "none")
    with pytest.raises(XmdptError, match="no toy model"):
        pretrained.folder()
    assert "no toy model" in refused(capsys, "demo", "--no-train")
    assert "no toy model" in refused(capsys, "sample", "--model", "toy")
    assert run(["status"]) == 0
    assert "toy model of the package" not in capsys.readouterr().out


def test_examples_are_complete_people_and_their_own_poses() -> None:
    examples = examples_of(3, 2)
    assert [e.name for e in examples[:3]] == [
        "person_1_pose_1",
        "person_1_pose_2",
        "person_2_pose_1",
    ]
    for example in examples:
        assert example.source.person == example.target.person
        assert example.source.pose != example.target.pose
        for view in (example.source, example.target):  # neck to ankles are in the image
            assert np.isfinite(render_view(view).keypoints[1:14]).all()
    assert len({e.source.person for e in examples}) == 3


def test_training_starts_from_the_toy_model_where_its_name_is_given(
    tmp_path: Path, capsys: Capture
) -> None:
    data = str(make_data(tmp_path))
    error = refused(capsys, "train", "--data", data, "--init-from", "toy", "--dry-run")
    assert f"cannot start from {pretrained.folder()}, which is another model" in error
