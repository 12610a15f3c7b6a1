"""A file of weights that is not whole is named, with what it is and how to fetch it."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from encoder_records import encoder_records
from safetensors.torch import save_file

from xmdpt_cli.encoders.openpose import BODY_FILE, OpenPose
from xmdpt_cli.encoders.weights import find
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.metrics.features import INCEPTION
from xmdpt_cli.metrics.weights import read_weights, weights_file
from xmdpt_cli.model.checkpoint import load_model
from xmdpt_cli.model.published import plain_state
from xmdpt_cli.utils.weights_files import (
    UnreadableError,
    check_state_dict,
    check_whole,
    read_tensors,
)

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 351355128\n"
STEM = "diffusion_pytorch_model"


def folder(path: Path, name: str, data: bytes) -> Path:
    """A folder of a network or of a model whose weights are these bytes."""
    path.mkdir()
    for other in ("config.json", "xmdpt.json"):
        (path / other).write_text("{}")
    (path / name).write_bytes(data)
    facts = {
        "format": "xmdpt-model", "version": 2, "schedule": "linear", "prediction": "epsilon",
        "sampling": {"steps": 1, "guidance": 2.0, "power": 1.0}, "resolution": 64,
        "encoders": encoder_records(), "toy": True, "trained_steps": 1,
    }  # fmt: skip
    (path / "xmdpt.json").write_text(json.dumps(facts))
    return path


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "VAE": (
        f"{STEM}.safetensors",
        lambda p: find(p, what="VAE", stem=STEM, revision=None, hint="--vae DIR"),
    ),
    "DINOv2": (
        "model.safetensors",
        lambda p: find(p, what="DINOv2", stem="model", revision=None, hint="--dino-pose DIR"),
    ),
    "model": ("model.safetensors", load_model),
    "published": ("ema_1.pt", lambda p: plain_state(p / "ema_1.pt")),
    "OpenPose": (BODY_FILE, OpenPose.load),
    "Inception, LPIPS": ("x.pth", lambda p: weights_file(p / "x.pth", INCEPTION)),
}


@pytest.mark.parametrize("kind", READERS)
def test_other_files_are_refused(tmp_path: Path, kind: str) -> None:
    name, read = READERS[kind]
    cases = {
        "is a Git LFS pointer (72 bytes) of the file of 335.1 MiB": POINTER,
        "is a web page": b"<!DOCTYPE html><html>404</html>",
        "is empty (0 bytes)": b"",
    }
    if name.endswith(".safetensors"):
        save_file({"a": torch.zeros(100)}, tmp_path / "whole.safetensors")
        whole = (tmp_path / "whole.safetensors").read_bytes()
        cases[f"is cut: it holds {len(whole) - 50} bytes of {len(whole)} bytes"] = whole[:-50]
        cases["is cut: it holds 30 bytes of 72 bytes"] = whole[:30]  # within its header
    else:
        torch.save({"a": torch.zeros(100)}, tmp_path / "whole.pt")
        cases["is cut: its end is missing"] = (tmp_path / "whole.pt").read_bytes()[:-100]
    for number, (message, data) in enumerate(cases.items()):
        place = folder(tmp_path / str(number), name, data)
        with pytest.raises(XmdptError) as err:
            read(place)
        assert f"{place / name} {message}" in err.value.message
        assert err.value.hint
        if data == POINTER:
            assert "git lfs pull" in err.value.hint
            assert "download" in err.value.hint


def test_complete_files_pass(tmp_path: Path) -> None:
    save_file({}, tmp_path / "none.safetensors")
    save_file({"a": torch.zeros(2)}, tmp_path / "a.safetensors", metadata={"b": "c"})
    torch.save({"a": torch.zeros(100)}, tmp_path / "a.pt")
    torch.save({"a": 1}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for path in tmp_path.iterdir():
        check_whole(path)
    check_whole(tmp_path / "nowhere.pt")


def test_a_missing_shard_and_an_unfinished_download(tmp_path: Path) -> None:
    place = folder(tmp_path / "vae", "readme", b"")
    part = place / ".cache" / "huggingface" / "download" / "abc.incomplete"
    part.parent.mkdir(parents=True)
    part.touch()
    with pytest.raises(XmdptError, match=r"no model\.safetensors; a download into it is unfinish"):
        find(place, what="DINOv2", stem="model", revision=None, hint="")
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = {"weight_map": {"a": names[0], "b": names[1]}}
    (place / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({"a": torch.zeros(2)}, place / names[0])
    with pytest.raises(XmdptError, match=f"has no {names[1]}"):
        find(place, what="DINOv2", stem="model", revision=None, hint="")
    save_file({"b": torch.zeros(2)}, place / names[1])
    assert len(find(place, what="DINOv2", stem="model", revision=None, hint="").files) == 2


@pytest.fixture
def flipped(tmp_path: Path) -> Path:
    """A state dict, one bit of which changed on the way: torch itself loads it."""
    path = tmp_path / "ema_0.9999_300000.pt"
    torch.save({"weight": torch.arange(1000.0)}, path)
    with zipfile.ZipFile(path) as archive:
        member = next(info for info in archive.infolist() if info.filename.endswith("data/0"))
        begin = member.header_offset + len(member.FileHeader()) + 64
    data = bytearray(path.read_bytes())
    at = data.index(torch.arange(100.0, 110.0).numpy().tobytes(), begin)
    data[at + 2] ^= 1
    path.write_bytes(data)
    assert not torch.load(path, weights_only=True)["weight"].equal(torch.arange(1000.0))
    return path


@pytest.mark.parametrize("read", [plain_state, read_weights, OpenPose.load])
def test_a_changed_byte_is_found(read: Callable[[Path], object], flipped: Path) -> None:
    with pytest.raises(XmdptError, match=r"damaged \(.*data/0 has another checksum\)") as error:
        read(flipped)
    assert "copy" in error.value.hint


@pytest.mark.parametrize("zipped", [True, False])
def test_complete_files_are_read_in_both_formats(zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=zipped)
    assert torch.equal(read_tensors(path, "")["a"], torch.ones(3))


def test_half_a_file_and_other_content_are_named_without_torchs_advice(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"a": torch.ones(3000)}, path)
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(UnreadableError):
        read_tensors(path, "")
    torch.save({"a": torch.nn.Linear(2, 2)}, path)
    with pytest.raises(UnreadableError, match="it wants to run torch") as error:
        read_tensors(path, "")
    assert "weights_only" not in str(error.value) + error.value.hint


def test_tensors_that_are_not_the_networks_are_named() -> None:
    net = torch.nn.Linear(3, 2)
    expected, state = net.state_dict(), dict(net.state_dict())
    check_state_dict(state, expected, "FILE")
    check_state_dict({k: tuple(v.shape) for k, v in state.items()}, expected, "FILE")
    for changed, named in (
        ({"bias": None}, "FILE lacks 1 tensors, first bias"),
        ({"scale": torch.ones(1)}, "FILE has 1 unexpected tensors, first scale"),
        ({"bias": torch.ones(3)}, "1 tensors of another shape, first bias: (3,), expected (2,)"),
    ):
        wrong = {k: v for k, v in {**state, **changed}.items() if v is not None}
        with pytest.raises(XmdptError) as error:
            check_state_dict(wrong, expected, "FILE", "copy it again")
        assert named in error.value.message
        assert error.value.hint == "copy it again"
