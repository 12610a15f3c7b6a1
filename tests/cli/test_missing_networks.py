"""All networks that are not here are named at once, by ``sample`` and by ``prepare``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from stick_people import FIGURE
from toy_models import make_encoders, make_model, person, write_pose

from xmdpt_cli.cli.app import run
from xmdpt_cli.encoders.missing import Needed, find_all
from xmdpt_cli.errors import XmdptError

Capture = pytest.CaptureFixture[str]
VAE, SOURCE, POSE = "stabilityai/sd-vae-ft-mse", "facebook/dinov2-giant", "facebook/dinov2-base"
OPENPOSE = "lllyasviel/Annotators"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """encoders/, and model/, whose facts say that the published networks made its features."""
    folder = tmp_path_factory.mktemp("published")
    make_encoders(folder / "encoders")
    make_model(folder / "model", folder / "encoders", "keys")
    path = folder / "model" / "xmdpt.json"
    facts = json.loads(path.read_text())
    del facts["data"]
    for part, name in (("vae", VAE), ("source", SOURCE), ("pose", POSE)):
        facts["encoders"][part] |= {"kind": "hub", "id": name, "toy": False, "sha256": None}
    path.write_text(json.dumps(facts))
    person().save(folder / "person.png")
    write_pose(folder / "pose.json", FIGURE)
    return folder


def failed(capsys: Capture, *words: object) -> str:
    capsys.readouterr()
    assert run([str(word) for word in words]) == 1
    return capsys.readouterr().err


def test_sample(published: Path, tmp_path: Path, capsys: Capture) -> None:
    words = ["sample", "--model", published / "model", "--source", published / "person.png"]
    words += ["--pose", published / "pose.json", "--out", tmp_path / "o"]
    output = failed(capsys, *words)
    assert "4 networks are needed and not found" in output
    for name, folder, option in (
        (VAE, "vae", "--vae"),
        (SOURCE, "dino_source", "--dino-source"),
        (POSE, "dino_pose", "--dino-pose"),
        (f"{OPENPOSE} body_pose_model.pth", "openpose", "--openpose"),
    ):
        assert f"hf download {name} --local-dir {folder}\n" in output
        assert f"{option} {folder}" in output
    assert "OpenPose (for person.png)" in output
    assert "--source-keypoints" in output
    # networks that are found, or not needed, are not named
    known = [*words, "--source-keypoints", published / "pose.json"]
    output = failed(capsys, *known, "--vae", published / "encoders/vae")
    assert "2 networks are needed" in output
    assert VAE not in output
    assert OPENPOSE not in output
    output = failed(capsys, *words, "--encoders", published / "encoders")
    assert output.count("hf download") == 1, "OpenPose alone: its own error"
    assert not (tmp_path / "o").exists()


def test_an_incomplete_folder_of_encoders(
    published: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(published / "encoders/vae", tmp_path / "some/vae")
    monkeypatch.chdir(tmp_path)  # some/dino_pose looks like a hub id
    words = ["sample", "--model", published / "model", "--source", published / "person.png"]
    words += ["--pose", published / "pose.json", "--source-keypoints", published / "pose.json"]
    words += ["--out", tmp_path / "o", "--encoders", "some"]
    assert run([str(word) for word in words]) == 2
    output = capsys.readouterr().err
    assert "some has no dino_source/, dino_pose/" in output


def test_prepare(published: Path, tmp_path: Path, capsys: Capture) -> None:
    for i, name in enumerate(("front", "back", "side")):
        (tmp_path / "raw" / "ann").mkdir(parents=True, exist_ok=True)
        person(i).save(tmp_path / "raw" / "ann" / f"{name}.png")
    words = ["prepare", "--root", tmp_path / "raw", "--out", tmp_path / "o", "--resolution", 32]
    output = failed(capsys, *words)
    assert "4 networks are needed and not found" in output
    for name in (VAE, SOURCE, POSE, OPENPOSE):
        assert f"hf download {name}" in output
    for option in ("--vae vae", "--dino-source dino_source", "--openpose openpose"):
        assert option in output
    assert "for 3 of 3 images" in output
    assert "--encoders toy" in output
    assert "front_keypoints.json beside front.jpg" in output
    (tmp_path / "raw/ann/side.json").write_text("{")
    output = failed(capsys, *words, "--encoders", "toy")
    assert "OpenPose" in output
    assert "ann/side.json" in output
    assert output.count("hf download") == 1
    (tmp_path / "raw/ann/side.json").unlink()
    for name in ("front", "back", "side"):
        write_pose(tmp_path / "raw" / "ann" / f"{name}.json", FIGURE)
    output = failed(capsys, *words)
    assert "3 networks are needed" in output
    assert OPENPOSE not in output
    # with keypoints beside the images nothing of it is needed
    assert run([str(word) for word in [*words, "--encoders", published / "encoders"]]) == 0


def test_one_missing_network_has_its_own_error() -> None:
    def fail() -> None:
        raise XmdptError("no A", "get A")

    one = Needed("A", "--a", "a", fail)
    find_all([Needed("B", "--b", "b", lambda: None)])
    with pytest.raises(XmdptError, match="no A") as err:
        find_all([one, Needed("B", "--b", "b", lambda: None)], "or use toys")
    assert err.value.hint == "get A\nor use toys"
