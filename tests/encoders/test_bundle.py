"""The three encoders together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from xmdpt_cli.encoders.bundle import Encoders, load_encoders
from xmdpt_cli.encoders.vae import to_signed
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.toy.encoders import toy_encoders

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def toys() -> Encoders:
    return toy_encoders(64)


def sample() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    poses = np.zeros((2, 64, 64, 3), dtype=np.uint8)
    poses[0, 20:40, 20:40, 1] = 120  # the second pose is empty
    return images, poses


def test_encode_gives_the_features_of_each_network(toys: Encoders) -> None:
    images, poses = sample()
    features = toys.encode(images, poses)
    assert features["moments"].shape == (2, 8, 16, 16)
    assert features["moments"].dtype == torch.float16
    assert torch.equal(features["moments"], toys.vae.encode_moments(images).half())
    assert features["source_tokens"].shape == features["pose_tokens"].shape == (2, 65, 64)
    source = toys.source.tokens(to_signed(images))
    assert torch.equal(features["source_tokens"], source.bfloat16())
    scaled = (
        torch.from_numpy(poses).permute(0, 3, 1, 2) / torch.tensor([120, 1])[:, None, None, None]
    )
    assert torch.equal(features["pose_tokens"], toys.pose.tokens(scaled).bfloat16())
    for tensor in features.values():
        assert tensor.isfinite().all()


def test_moments_beyond_half_precision_stay_float32(
    toys: Encoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, poses = sample()
    huge = torch.full((2, 8, 16, 16), 1e6)
    monkeypatch.setattr(toys.vae, "encode_moments", lambda _: huge, raising=True)
    moments = toys.encode(images, poses)["moments"]
    assert torch.equal(moments, huge)


def test_round_trip_keeps_features_and_marks(toys: Encoders, tmp_path: Path) -> None:
    """Saved and loaded twice: a loaded toy is saved as a toy."""
    toys.save(tmp_path / "once")
    once = Encoders.load(tmp_path / "once")
    once.save(tmp_path / "toy")
    again = Encoders.load(tmp_path / "toy")
    described = json.loads(json.dumps(again.describe()))
    assert described == once.describe() == toys.describe()
    assert [described[part]["toy"] for part in ("vae", "source", "pose")] == [True] * 3
    assert "toy" in described["vae"]["id"]
    assert again.pose.input_size == toys.pose.input_size == 112
    first, second = (file.read_bytes() for file in sorted(tmp_path.glob(f"*/vae/{WEIGHTS}")))
    assert first == second
    assert sorted(path.name for path in tmp_path.iterdir()) == ["once", "toy"]
    images, poses = sample()
    before, after = toys.encode(images, poses), again.encode(images, poses)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert (tmp_path / "toy" / "dino_pose" / "model.safetensors").is_file()


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        toy_encoders(64, seed=7).save(tmp_path / name)
    for path in (tmp_path / "a").rglob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_missing_parts_are_named(toys: Encoders, tmp_path: Path) -> None:
    toys.vae.save(tmp_path / "vae")
    with pytest.raises(XmdptError, match=r"dino_source/config\.json"):
        Encoders.load(tmp_path)
    with pytest.raises(XmdptError, match="no such DINOv2 folder"):
        load_encoders(tmp_path / "vae", tmp_path / "none", tmp_path / "none")
