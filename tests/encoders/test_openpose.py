"""OpenPose's wrapper: loading, coordinates, errors. The network itself is controlnet-aux's."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace as Of
from typing import Any

import numpy as np
import pytest
import torch

from xmdpt_cli.encoders.openpose import OpenPose
from xmdpt_cli.errors import XmdptError

torch.set_num_threads(1)


class FixedPeople:
    """Stands where controlnet-aux's detector stands, with its normalised keypoints."""

    def __init__(self, *people: tuple[float, list[Any]]) -> None:
        self.people = [Of(body=Of(total_score=s, keypoints=k)) for s, k in people]

    def detect_poses(self, picture: np.ndarray) -> list[Any]:
        return self.people


def test_the_most_confident_person_in_pixels() -> None:
    blank = np.zeros((200, 100, 3), dtype=np.uint8)
    nose, ear = Of(x=0.25, y=0.5), Of(x=0.5, y=0.125)
    weak = (3.0, [Of(x=0.9, y=0.9)] * 18)
    strong = (9.0, [nose, *[None] * 16, ear])
    points = OpenPose(FixedPeople(weak, strong)).keypoints(blank)
    assert points is not None
    assert points.dtype == np.float64
    assert points[0].tolist() == [25.0, 100.0]
    assert points[17].tolist() == [50.0, 25.0]
    assert np.isnan(points[1:17]).all()
    assert OpenPose(FixedPeople()).keypoints(blank) is None


def test_a_body_file_of_the_right_shape_loads_and_runs(tmp_path: Path) -> None:
    pytest.importorskip("controlnet_aux.open_pose")
    from controlnet_aux.open_pose.model import bodypose_model

    # the published file names layers without the submodule's name
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = bodypose_model()
    state = {key.split(".", 1)[1]: value for key, value in net.state_dict().items()}
    torch.save(state, tmp_path / "body_pose_model.pth")
    picture = np.random.default_rng(0).integers(0, 256, (32, 24, 3), dtype=np.uint8)
    points = OpenPose.load(tmp_path).keypoints(picture)
    assert points is None or points.shape == (18, 2)


def test_errors_say_what_to_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(XmdptError, match="lllyasviel/Annotators is not on this machine") as err:
        OpenPose.load()
    assert "hf download lllyasviel/Annotators body_pose_model.pth" in err.value.hint
    with pytest.raises(XmdptError, match=r"no body_pose_model\.pth in"):
        OpenPose.load(tmp_path)
    with pytest.raises(XmdptError, match="no such OpenPose file"):
        OpenPose.load(tmp_path / "other.pth")
    (tmp_path / "broken.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(XmdptError, match="not OpenPose's body network"):
        OpenPose.load(tmp_path / "broken.pth")
