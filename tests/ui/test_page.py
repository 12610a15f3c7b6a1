"""The page through Gradio's client: generated images, poses, settings and error messages."""

from __future__ import annotations

import html
import json
import re
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Running, wait_until
from fake_pipeline import SIZE, FakePipeline, SamplingConfig
from PIL import Image

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.pose.drawing import draw_pose
from xmdpt_cli.pose.keypoints import from_fractions
from xmdpt_cli.sampling.png_writer import png_text
from xmdpt_cli.ui.poses import PRESETS
from xmdpt_cli.ui.skeleton import to_json

POSE = to_json(PRESETS[6].keypoints())
SETTINGS = (7, 1.75, 0.5, "dpm", 3, 1, "pad", 2)


@pytest.fixture(scope="module")
def server(
    running: Running, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Any, FakePipeline]]:
    """A client of a running page, and the pipeline of the page."""
    from gradio_client import Client

    pipe = FakePipeline()
    with pytest.MonkeyPatch.context() as environment, running(pipe) as url:
        # where the client leaves an empty folder for each file
        environment.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("client")))
        client = Client(url, verbose=False)
        yield client, pipe
        client.close()


@pytest.fixture
def client(server: tuple[Any, FakePipeline]) -> Any:
    return server[0]


def gallery(*paths: Path) -> list[dict[str, Any]]:
    from gradio_client import handle_file

    return [{"image": handle_file(str(path)), "caption": None} for path in paths]


def text_of(html_text: str) -> str:
    """The text of HTML, without tags."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", html_text)).split())


def component(client: Any, label: str) -> dict[str, Any]:
    (found,) = [c["props"] for c in client.config["components"] if c["props"].get("label") == label]
    return found


def test_an_image_is_generated(client: Any, pipe: FakePipeline, person: Path) -> None:
    job = client.submit(gallery(person), None, POSE, *SETTINGS, api_name="/generate")
    message, images, _, file = job.result(timeout=60)
    (call,) = pipe.calls
    np.testing.assert_array_equal(call["pose"], PRESETS[6].keypoints())
    assert [image.size for image in call["source"]] == [(88, 128)]
    assert {k: v for k, v in call.items() if k not in ("source", "pose")} == {
        "steps": 7, "guidance": 1.75, "power": 0.5, "solver": "dpm", "seed": 3, "num_images": 1,
        "source_keypoints": None, "fit": "pad", "person": 2,
    }  # fmt: skip
    shown = np.asarray(Image.open(images["value"][0]["image"]))
    pose = draw_pose(from_fractions(PRESETS[6].keypoints(), SIZE), SIZE)
    skeleton = pose.max(axis=2) > 0
    np.testing.assert_array_equal(shown[skeleton], pose[skeleton])
    saved = Path(file["value"])
    assert saved.name == "xmdpt-seed3.png"
    np.testing.assert_array_equal(np.asarray(Image.open(saved)), shown)
    assert "1 image in" in text_of(message)
    assert "cut 88x128 around the person" in text_of(message)


def test_each_step_is_shown_during_a_generation(client: Any, person: Path) -> None:
    job = client.submit(gallery(person), None, POSE, 20, *SETTINGS[1:], api_name="/generate")
    job.result(timeout=60)
    texts = [text_of(output[0]) for output in job.outputs()]
    numbers = [int(found[1]) for text in texts if (found := re.match(r"Step (\d+) of 20", text))]
    assert numbers == list(range(1, 21))
    films = [output[2] for output in job.outputs() if isinstance(output[2], str)]
    assert max(film.count("<img") for film in films) == 6


def test_several_images_are_saved_together(client: Any, pipe: FakePipeline, person: Path) -> None:
    people = gallery(person, person)
    result = client.predict(
        people, None, POSE, *SETTINGS[:5], 3, *SETTINGS[6:], api_name="/generate"
    )
    assert pipe.calls[0]["num_images"] == 3
    assert len(pipe.calls[0]["source"]) == 2
    assert len(result[1]["value"]) == 3
    with zipfile.ZipFile(result[3]["value"]) as packed:
        assert packed.namelist() == [f"xmdpt-seed3{end}.png" for end in ("", "-1", "-2")]


def test_saved_and_shown_images_carry_the_sampling_metadata(
    client: Any, pipe: FakePipeline, person: Path
) -> None:
    pipe.info = png_text({"seed": 3, "toy": True})
    result = client.predict(gallery(person), "", POSE, *SETTINGS, api_name="/generate")
    for file in (result[1]["value"][0]["image"], result[3]["value"]):
        info = Image.open(file).info
        assert {name: info[name] for name in pipe.info} == pipe.info


def test_settings_start_at_the_values_of_the_model(client: Any) -> None:
    own = {"Steps": 7, "Guidance": 1.75, "Guidance power": 0.5, "Solver": "dpm", "Seed": 3}
    assert {label: component(client, label)["value"] for label in own} == own
    assert component(client, "Images")["value"] == 1
    assert component(client, "Fit")["value"] == "auto"
    assert component(client, "Person, by size")["value"] == 1
    assert [c[0] for c in component(client, "Solver")["choices"]] == ["ddim", "dpm"]
    assert component(client, "Pose, as JSON")["value"] == to_json(PRESETS[0].keypoints())


def test_the_header_names_the_model_and_marks_a_toy(client: Any) -> None:
    texts = [str(c["props"].get("value")) for c in client.config["components"]]
    (header,) = [text for text in texts if "<h1>xmdpt</h1>" in text]
    assert "TOY model" in header
    assert "RUN &lt;b&gt;/model, 256 px" in header  # the name is escaped


@pytest.mark.parametrize(
    ("pose", "file", "expected"),
    [
        (POSE, None, "No image of a person"),
        (POSE, b"no image", "Not an image (or empty): bad one.png"),
        (json.dumps([None] * 18), "person", "The pose has 0 of 18 joints"),
        ("nonsense", "person", "This is not a skeleton"),
    ],
)
def test_an_error_is_shown_on_the_page_and_the_server_continues(
    client: Any, person: Path, tmp_path: Path, pose: str, file: Any, expected: str
) -> None:
    people = None
    if file is not None:
        path = tmp_path / "bad one.png"
        path.write_bytes(person.read_bytes() if file == "person" else file)
        people = gallery(path)
    message = client.predict(people, None, pose, *SETTINGS, api_name="/generate")[0]
    assert 'role="alert"' in message
    assert expected in text_of(message)
    assert "Traceback" not in message
    assert (
        "1 image" in client.predict(gallery(person), None, POSE, *SETTINGS, api_name="/generate")[0]
    )


def test_keypoints_of_a_file_reach_the_pipeline(
    client: Any, pipe: FakePipeline, person: Path, tmp_path: Path
) -> None:
    from gradio_client import handle_file

    _, placed = client.predict(gallery(person), "", api_name="/inspect")[:2]
    file = tmp_path / "stands.txt"
    file.write_text("100 64\n" * 17 + "-1 -1\n")  # in the padded 256 px frame
    two = [handle_file(str(file))] * 2
    message = client.predict(two, gallery(person), placed, api_name="/keypoints")[1]
    assert "2 files of keypoints for 1 image" in text_of(message)
    placed, message, _ = client.predict(two[:1], gallery(person), placed, api_name="/keypoints")
    assert text_of(message) == "Keypoints of stands.txt"
    client.predict(gallery(person), placed, POSE, *SETTINGS[:7], 1, api_name="/generate")
    (given,) = pipe.calls[0]["source_keypoints"]
    np.testing.assert_allclose(given[:17], [[(100 - 40) / 176, 64 / 256]] * 17, atol=1e-4)
    assert np.isnan(given[17]).all()


def test_what_a_student_fixes_is_explained(tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="the ui extra is not installed")
    from xmdpt_cli.ui.examples import find_examples
    from xmdpt_cli.ui.page import build

    pipe: Any = FakePipeline()
    pipe.solvers, config = ("policy",), SamplingConfig(4, 1.5, 0.01, "policy")
    pipe.sampling_config = lambda: config
    pipe.sampler.metadata["distilled"] = {"steps": 4, "guidance": [1.0, 2.5]}
    page = build(pipe, "runs/B-4-steps", find_examples(pipe), tmp_path)
    fields = {block.label: block for block in page.blocks.values() if hasattr(block, "label")}
    fixed = {"Steps": "distilled to 4 steps", "Solver": "distilled", "Guidance power": "distill"}
    for name, why in fixed.items():
        assert not fields[name].interactive
        assert why in fields[name].info
    assert fields["Guidance"].info == "Strength, from 1 to 2.5."
    assert fields["Guidance"].interactive is not False
    header = next(
        b.value for b in page.blocks.values() if "<header>" in str(b.__dict__.get("value"))
    )
    assert "runs/B-4-steps, 256 px, distilled: 4 steps, guidance 1 to 2.5" in header


@pytest.mark.parametrize(
    ("steps", "count", "expected"),
    [
        (0, 1, "Steps: 0 is not between 1 and 1000"),
        (7, 99, "Images: 99 is not between 1 and 16"),
    ],
)
def test_settings_out_of_range_are_reported(
    client: Any, pipe: FakePipeline, person: Path, steps: int, count: int, expected: str
) -> None:
    settings = (steps, *SETTINGS[1:5], count, *SETTINGS[6:])
    message = client.predict(gallery(person), None, POSE, *settings, api_name="/generate")[0]
    assert text_of(message) == f"{expected} See Settings"
    assert pipe.calls == []


@pytest.mark.parametrize(("person_field", "reached"), [(1, None), (None, None), (3, 3)])
def test_the_largest_person_needs_no_openpose(
    client: Any, pipe: FakePipeline, person: Path, person_field: int | None, reached: int | None
) -> None:
    settings = (*SETTINGS[:7], person_field)
    client.predict(gallery(person), None, POSE, *settings, api_name="/generate")
    assert pipe.calls[0]["person"] == reached


@pytest.mark.parametrize(
    ("fails", "expected"),
    [
        (XmdptError("no person was found", "fit=pad"), "No person was found Fit=pad"),
        (RuntimeError("shape <3>"), "RuntimeError: shape <3>"),
    ],
)
def test_an_error_of_the_pipeline_is_shown(
    client: Any, pipe: FakePipeline, person: Path, fails: Exception, expected: str
) -> None:
    pipe.fails = fails
    message = client.predict(gallery(person), None, POSE, *SETTINGS, api_name="/generate")[0]
    assert 'role="alert"' in message
    assert expected in text_of(message)
    pipe.fails = None
    assert (
        "1 image" in client.predict(gallery(person), None, POSE, *SETTINGS, api_name="/generate")[0]
    )


def test_a_broken_image_is_reported_when_it_is_dropped(
    client: Any, person: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "half.png"
    bad.write_bytes(person.read_bytes()[:90])
    message, _ = client.predict(gallery(bad), "", api_name="/inspect")[:2]
    assert "half.png" in text_of(message)
    assert str(tmp_path) not in message
    message, placed = client.predict(gallery(person), "", api_name="/inspect")[:2]
    assert message == ""
    (view,) = json.loads(placed)["views"]
    assert (view["name"], view["width"], view["height"]) == ("person one.png", 88, 128)
    assert view["places"] is None


def test_a_pose_is_loaded_from_a_photograph_or_a_file(
    client: Any, person: Path, tmp_path: Path
) -> None:
    from gradio_client import handle_file

    def pose_of(path: Path) -> tuple[Any, str]:
        text, message, _ = client.predict(handle_file(str(path)), None, api_name="/pose")
        return text, text_of(message)

    found, message = pose_of(person)
    assert found == to_json(PRESETS[5].keypoints())
    assert message == "Pose found in person one.png"

    points = PRESETS[3].keypoints()
    rows = np.where(
        np.isnan(points), -1, points * (176, 256) + (40, 0)
    )  # in the padded 256 px frame
    text = tmp_path / "pose.txt"
    text.write_text("\n".join(f"{x:.3f} {y:.3f}" for x, y in rows))
    np.testing.assert_allclose(np.array(json.loads(pose_of(text)[0])[0]), points[0], atol=2e-4)

    x, y = np.where(np.isnan(points), -1, points * (176, 256)).T.tolist()
    table = tmp_path / "keypoints.csv"
    table.write_text(f"name:keypoints_y:keypoints_x\na/one.jpg: {y}: {x}\nb.jpg: {y}: {x}\n")
    found, message = pose_of(table)
    np.testing.assert_allclose(np.array(json.loads(found)[4]), points[4], atol=2e-4)
    assert message == "Pose of keypoints.csv, the first of 2"

    text.write_text("1 2\n3\n")
    assert "line 2 is not two numbers" in pose_of(text)[1]
    assert "/" not in pose_of(text)[1]  # no path of the server
    Image.new("RGB", (40, 60)).save(tmp_path / "grey.png")
    assert pose_of(tmp_path / "grey.png")[1].startswith("No person in the image")


def test_a_cancelled_generation_stops(client: Any, pipe: FakePipeline, person: Path) -> None:
    pipe.pause = 0.05
    job = client.submit(gallery(person), None, POSE, 1000, *SETTINGS[1:], api_name="/generate")
    wait_until(lambda: pipe.steps_done > 3, "the generation starts")
    job.cancel()
    client.close()

    def at_rest() -> bool:
        before = pipe.steps_done
        time.sleep(0.3)
        return pipe.steps_done == before

    wait_until(at_rest, "the generation stops")
    assert pipe.steps_done < 1000
