"""No error reaches the page with an option, a command or a folder in it."""

from __future__ import annotations

import ast
import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import xmdpt_cli
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.pose.formats import read_poses
from xmdpt_cli.sampling.inputs import read_pose, read_view
from xmdpt_cli.ui.html_snippets import failed, film, short
from xmdpt_cli.ui.poses import PRESETS
from xmdpt_cli.ui.wording import DRAG, OPERATOR, PLACE, page_note, page_words, without_folders

PACKAGE = Path(xmdpt_cli.__file__).parent
#: files whose errors can reach the page
REACHED = [
    "images.py", "sampling/inputs.py", "sampling/pipeline.py", "sampling/encoders.py",
    "sampling/sampler.py", "sampling/batch_size.py", "encoders/places.py",
    "sampling/generation.py", "sampling/conditioning.py", "pose/framing.py",
    "pose/from_pose_image.py", "pose/formats/__init__.py", "pose/formats/json_poses.py",
    "pose/formats/joint_tables.py",
    "pose/formats/text_rows.py", "datasets/pair_lists.py", "data/shard_reader.py",
    "diffusion/sampler.py", "diffusion/solvers.py", "encoders/openpose.py", "encoders/vae.py",
    "encoders/weights.py", "encoders/dino.py", "encoders/bundle.py",
]  # fmt: skip
COMMAND_LINE = re.compile(r"(?<!\w)--\w|`|\bxmdpt |\bhf |pip install|\bDIR\b|/\w+/")


def text_of(node: ast.expr, names: dict[str, ast.expr]) -> str:
    """The text of a literal, ``X`` for each inserted value."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part, names) for part in node.values)
    if isinstance(node, ast.BinOp):
        return text_of(node.left, names) + text_of(node.right, names)
    if isinstance(node, ast.Name) and node.id in names:
        return text_of(names[node.id], {})
    return "X"


def errors_of(path: Path) -> list[XmdptError]:
    """The errors with literal messages that a file raises."""
    tree = ast.parse(path.read_text("utf-8"))
    names = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    return [
        XmdptError(*(text_of(argument, names) for argument in node.args[:2]))
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id.endswith("Error")
        and node.func.id in ("XmdptError", "ConfigError", "NoOpenPoseError", "ShardError")
        and node.args
    ]


@pytest.mark.parametrize("name", REACHED)
def test_every_error_that_can_reach_the_page_is_reworded(name: str) -> None:
    for err in errors_of(PACKAGE / name):
        for part in ("person", "pose"):
            message, hint = page_words(err, part)  # type: ignore[arg-type]
            assert not COMMAND_LINE.search(message), message
            assert not COMMAND_LINE.search(hint), hint
            assert message


def test_errors_of_finds_the_errors() -> None:
    hints = [err.hint for name in REACHED for err in errors_of(PACKAGE / name)]
    assert len(hints) > 60
    assert sum("--" in hint for hint in hints) > 5


def no_openpose() -> Any:
    raise XmdptError("OpenPose x/y is not on this machine", "hf download x/y; then --openpose DIR")


def page_error(part: Any, function: Any, *args: Any, **kwargs: Any) -> tuple[str, str]:
    with pytest.raises(XmdptError) as caught:
        function(*args, **kwargs)
    return page_words(caught.value, part)


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    path = tmp_path / "wide image.png"
    Image.new("RGB", (300, 100), (90, 80, 70)).save(path)
    return path


def test_errors_without_an_estimator_have_a_hint_for_the_page(wide: Path) -> None:
    message, hint = page_error("person", read_view, wide, 64, no_openpose, needs_keypoints=True)
    assert message == "wide image.png: there is no keypoint estimator here to find the person"
    assert hint == PLACE
    message, hint = page_error("person", read_view, wide, 64, no_openpose)
    assert "wide image.png: the image is 300 x 100" in message
    assert hint.startswith(PLACE)
    assert "Fit in Settings" in hint
    assert page_error("pose", read_pose, wide, 64, no_openpose)[1] == DRAG
    outside = PRESETS[0].keypoints() + 5
    assert page_error("person", read_view, wide, 64, no_openpose, keypoints=outside)[1] == PLACE


@pytest.mark.parametrize("content", ["[1, 2]", "{", '{"people": []}', "[]", "null", '{"a": 1}'])
def test_a_broken_file_is_reported_by_its_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "my pose.json"
    path.write_text(content)
    message, _ = page_error("pose", read_poses, path)
    assert message.startswith("my pose.json: ")
    assert str(tmp_path) not in message


def test_pixels_without_an_image_size_have_a_hint_for_the_page(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps({"keypoints": [[40, 50]] * 18}))
    assert '"width" and "height"' in page_error("pose", read_pose, path, 64, no_openpose)[1]


def test_a_hint_that_applies_to_the_page_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text("1 2\n3")
    message, hint = page_error("pose", read_poses, path)
    assert message == "p.txt: line 2 is not two numbers"
    assert hint.startswith("a pose in .txt is 18 lines x y")


def test_a_missing_person_names_the_setting() -> None:
    err = XmdptError("a.png: person 3 requested, 2 found", "--person 1 to 2")
    assert page_words(err) == (err.message, "set Person, by size, in Settings to 1 to 2")


def test_an_error_that_only_the_operator_can_fix_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    err = XmdptError("no such VAE folder: /home/someone/vae", "name its own: --vae DIR")
    assert page_words(err) == ("no such VAE folder: vae", OPERATOR)
    assert "/home/someone/vae (name its own: --vae DIR)" in caplog.text


def test_notes_name_the_settings() -> None:
    note = "a.png: 2 people, the largest is taken (--person chooses)"
    assert page_note(note) == "a.png: 2 people, the largest is taken (Person, by size, chooses)"
    note = "p.png: a pose image, square, so it is squashed (else --pose-fit person)"
    assert page_note(note) == "p.png: a pose image, square, so it is squashed"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/tmp/gradio/ab12/person one.png: line 2", "person one.png: line 2"),
        ("C:\\Users\\me\\x.png is broken", "x.png is broken"),
        ("the whole 176 / 256, 1/2 or a/one.jpg", "the whole 176 / 256, 1/2 or a/one.jpg"),
        ("see https://example.org/a/b", "see https://example.org/a/b"),
        ("'/tmp/gradio/a/b.png'", "'b.png'"),
    ],
)
def test_folders_are_removed(text: str, expected: str) -> None:
    assert without_folders(text) == expected


def test_a_long_file_name_is_shortened_and_complete_in_the_title() -> None:
    name = "a " + "very <b> " * 12 + "long name-1.jpg"
    message = failed(XmdptError(f"{name}: not an image", f"see {name}"), names=[name])
    escaped = html.escape(name)
    assert message.count(escaped) == 2
    assert message.count(f'title="{escaped}"') == 2
    shown = html.unescape(re.sub("<[^>]*>", "", message))
    assert shown.startswith(f"{name[:19]}…{name[-12:]}: not an image")
    assert short("person one.png") == "person one.png"
    assert "<abbr" not in failed(XmdptError("a.png: not an image"), names=["a.png"])


def test_the_previews_have_a_caption() -> None:
    assert "Preview after step" in film(["<figure></figure>"])


def test_an_unexpected_error_shows_no_folder() -> None:
    message = failed(FileNotFoundError(2, "No such file", "/tmp/gradio/12/a.png"))
    assert "a.png" in message
    assert "/tmp" not in message
    assert "Out of memory" in failed(MemoryError())
