"""DINOv2 tokens against transformers called directly, and the pose input."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hub_dino import make_dino
from transformers import Dinov2Model

from xmdpt_cli.encoders.dino import Dino, pose_input
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.toy.encoders import toy_dino


@pytest.fixture(scope="module")
def real_like(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformers folder like facebook/dinov2-giant: SwiGLU, trained last at 518 px."""
    return make_dino(tmp_path_factory.mktemp("dino") / "giant", "giant")


def test_tokens_equal_transformers(tmp_path: Path) -> None:
    """With a position table of the needed grid, which neither resizes."""
    folder = make_dino(tmp_path, "giant", image_size=224)
    dino = Dino.load(folder)
    images = torch.rand(3, 3, 64, 48, generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
    resized = F.interpolate(
        images, size=(224, 224), mode="bicubic", align_corners=False, antialias=False
    )
    net = Dinov2Model.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = net(pixel_values=resized, output_hidden_states=True)
    tokens = dino.tokens(images)
    assert tokens.shape == (3, 257, 72)
    assert (dino.length, dino.width, dino.input_size) == (257, 72, 224)
    torch.testing.assert_close(tokens, expected.last_hidden_state, rtol=1e-4, atol=1e-5)
    # after the last norm, class token first
    torch.testing.assert_close(tokens[:, 0], expected.pooler_output, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(tokens, expected.hidden_states[-1], atol=1e-2)


def test_chunks_do_not_change_the_tokens(real_like: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dino = Dino.load(real_like)
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    whole = dino.tokens(images)
    monkeypatch.setattr("xmdpt_cli.encoders.dino.CHUNK", 2)
    torch.testing.assert_close(dino.tokens(images), whole, rtol=1e-4, atol=1e-5)


def test_pose_images_are_divided_by_their_own_maximum() -> None:
    poses = np.zeros((3, 4, 6, 3), dtype=np.uint8)
    poses[0, 1, 2] = 51, 102, 204
    poses[1, 3, 5, 0] = 255
    values = pose_input(poses)  # the third has no joint: black, not NaN
    assert values.shape == (3, 3, 4, 6)
    torch.testing.assert_close(values[0, :, 1, 2], torch.tensor([0.25, 0.5, 1.0]))
    assert values[1, 0, 3, 5] == 1.0
    assert values[1].sum() == 1.0
    assert torch.equal(values[2], torch.zeros(3, 4, 6))
    with pytest.raises(ValueError, match="uint8"):
        pose_input(poses.astype(np.float32))


@pytest.mark.parametrize(("size", "length"), [(64, 65), (128, 257), (256, 257)])
def test_toy_lengths(size: int, length: int) -> None:
    dino = toy_dino("source", size)
    tokens = dino.tokens(torch.zeros(1, 3, size, size))
    assert tokens.shape == (1, length, dino.width)


def test_toys_depend_only_on_role_and_seed() -> None:
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    before = torch.random.get_rng_state()
    first = toy_dino("source", 64, seed=0).tokens(images)
    assert torch.equal(torch.random.get_rng_state(), before)  # the global generator is not used
    assert torch.equal(first, toy_dino("source", 64, seed=0).tokens(images))
    assert not torch.allclose(first, toy_dino("pose", 64, seed=0).tokens(images))
    assert not torch.allclose(first, toy_dino("source", 64, seed=1).tokens(images))
    with pytest.raises(ValueError, match="role"):
        toy_dino("other", 64)


def test_toy_tokens_distinguish_brightness_and_hue() -> None:
    """A linear reading of random tokens must give the patch colour back, greys included."""
    rng = np.random.default_rng(0)
    values = rng.uniform(-1, 1, (400, 3))
    values[:100] = values[:100, :1]  # greys
    colours = torch.from_numpy(rng.permutation(values)).float()
    tokens = toy_dino("source", 64).tokens(colours[..., None, None].expand(-1, -1, 16, 16))
    middle = tokens[:, 1 + 8 * 4 + 4]
    features = torch.cat([middle, torch.ones(400, 1)], dim=1)
    solution = torch.linalg.lstsq(features[:300], colours[:300]).solution
    error = (features[300:] @ solution - colours[300:]).square().mean()
    assert error < 0.001 * colours.var()


def test_local_folder_is_described_by_its_file(real_like: Path) -> None:
    described = Dino.load(real_like).describe()
    digest = hashlib.sha256((real_like / "model.safetensors").read_bytes()).hexdigest()
    expected = {"kind": "local", "sha256": digest, "toy": False, "input_size": 224}
    assert {key: described[key] for key in expected} == expected


def test_invalid_folders_are_named(
    real_like: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(XmdptError, match="facebook/dinov2-giant at revision v1") as err:
        Dino.load("facebook/dinov2-giant", revision="v1")
    assert "hf download facebook/dinov2-giant --local-dir DIR" in err.value.hint
    toy_dino("pose", 64).save(tmp_path / "d")
    config = (tmp_path / "d" / "config.json").read_text()
    (tmp_path / "d" / "config.json").write_text(config.replace('"dinov2"', '"vit"'))
    with pytest.raises(XmdptError, match="model_type = 'vit', expected 'dinov2'"):
        Dino.load(tmp_path / "d")
