"""Settings that do not fit the dataset or model are named before a run starts."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.model import XMDPT
from xmdpt_cli.model.checkpoint import settings_of
from xmdpt_cli.training.checks import check_dataset, check_model
from xmdpt_cli.training.config import TrainConfig

PAPER = TrainConfig(resolution=256, source_encoder="dinov2-giant", pose_encoder="dinov2-base")
MANIFEST: dict[str, Any] = {
    "resolution": 256,
    "toy": False,
    "tokens": "bf16",
    "encoders": {
        "vae": {"kind": "hub", "id": "stabilityai/sd-vae-ft-mse", "scale": 0.18215, "channels": 4},
        "source": {"kind": "hub", "id": "facebook/dinov2-giant", "width": 1536},
        "pose": {"kind": "hub", "id": "facebook/dinov2-base", "width": 768},
    },
}


def manifest(**changes: Any) -> dict[str, Any]:
    """The manifest above with ``part__key=value`` changes."""
    made = copy.deepcopy(MANIFEST)
    for name, value in changes.items():
        part, _, key = name.partition("__")
        if key:
            made["encoders"][part][key] = value
        else:
            made[part] = value
    return made


# recipe and dataset


def test_a_fitting_dataset_passes() -> None:
    assert check_dataset(PAPER, MANIFEST, "data", tokens="bf16", channels=4) == []
    folder = {"source__kind": "local", "source__id": "/weights/giant"}
    assert check_dataset(PAPER, manifest(**folder), "data") == []
    anything = TrainConfig()
    other = manifest(resolution=512, source__id="other/vit", tokens="fp8", vae__channels=16)
    assert check_dataset(anything, other, "data") == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"resolution": 512}, "images of 256 px (the dataset's: 512 px)"),
        (
            {"source__id": "facebook/dinov2-large"},
            "source tokens of dinov2-giant (the dataset's: dinov2-large)",
        ),
        (
            {"pose__kind": "local", "pose__id": "/weights/dino", "pose__width": 1024},
            "pose tokens of dinov2-base (the dataset's: /weights/dino)",
        ),
        ({"tokens": "fp8"}, "tokens stored as bf16 (the dataset's: fp8)"),
        ({"vae__channels": 16}, "latent channels: 4 (the dataset's: 16)"),
    ],
)
def test_datasets_of_other_settings_are_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(XmdptError, match=r"^data does not fit") as error:
        check_dataset(PAPER, manifest(**changes), "data", tokens="bf16", channels=4)
    assert named in error.value.message
    assert error.value.message.count("(the dataset's") == 1
    assert error.value.hint == (
        "make the right one: xmdpt prepare --root ROOT --out OUT --resolution 256 "
        "--dino-source facebook/dinov2-giant --dino-pose facebook/dinov2-base --tokens bf16"
    )
    toy = manifest(**changes, toy=True)
    (problem,) = check_dataset(PAPER, toy, "data", tokens="bf16", channels=4)
    assert named in problem
    assert "toy" in problem


def test_datasets_of_other_encoders_are_refused() -> None:
    with pytest.raises(XmdptError, match="does not say which VAE") as error:
        check_dataset(PAPER, {"resolution": 256, "encoders": {"name": "random"}}, "data")
    assert "xmdpt prepare" in error.value.hint


# model and weights


def tiny(**more: Any) -> XMDPT:
    return XMDPT.from_size("tiny", **{"latent_size": 8, **more})


def test_the_same_model_passes(tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path / "model")
    check_model(tiny(mask_ratio=0.5), tmp_path / "model")
    save_file(tiny().state_dict(), tmp_path / "model.safetensors")
    check_model(tiny(), tmp_path)
    check_model(tiny(), tmp_path / "model.safetensors")


@pytest.mark.parametrize("sidecar", [True, False])
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"depth": 6}, ["depth 4, expected 6"]),
        ({"width": 64, "heads": 2}, ["width 128, expected 64", "heads 4, expected 2"]),
        ({"latent_size": 16}, ["latent_size 8, expected 16"]),
        ({"latent_channels": 16}, ["latent_channels 4, expected 16"]),
        ({"patch": 4}, ["patch 2, expected 4"]),
        ({"conditioning": "tokens"}, ["conditioning vector, expected tokens"]),
        ({"pose_width": 64, "pose_length": 17}, ["pose_width 768", "pose_length 257"]),
        ({"source_width": 64, "source_length": 17}, ["source_width 1536", "source_length 257"]),
    ],
)
def test_another_model_is_refused_setting_by_setting(
    tmp_path: Path, changes: dict[str, Any], named: list[str], sidecar: bool
) -> None:
    if sidecar:
        tiny().save_pretrained(tmp_path)
    else:
        save_file(tiny().state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(XmdptError, match=r"holds another model \(size tiny\)") as error:
        check_model(tiny(**changes), tmp_path)
    for text in named:
        assert text in error.value.message
    assert error.value.message.count("expected") == len(named)
    assert "size mismatch" not in error.value.message


def test_settings_without_a_shape_are_compared(tmp_path: Path) -> None:
    save_file(tiny().state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(XmdptError, match=r"13 unexpected tensors, first mipnet\.sideblocks_cross"):
        check_model(tiny(predictor="self"), tmp_path)


def test_settings_are_inferred_from_the_shapes() -> None:
    made = {"latent_size": 16, "latent_channels": 8, "pose_width": 48, "source_length": 10}
    for conditioning in ("vector", "tokens"):
        rotary = {"positions": "rope", "qk_norm": True} if conditioning == "tokens" else {}
        model = tiny(**made, conditioning=conditioning, **rotary)
        found = settings_of({k: tuple(v.shape) for k, v in model.state_dict().items()})
        assert found == {k: model._hub_mixin_config[k] for k in found}
        assert found.keys() >= {*made, "depth", "width", "heads", "patch", "conditioning"}
        assert found.keys() >= {"positions", "qk_norm"}


@pytest.mark.parametrize("content", [b"", b"no weights at all", None])
def test_invalid_weight_files_are_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(XmdptError, match=r"cannot read|is empty"):
        check_model(tiny(), tmp_path)
