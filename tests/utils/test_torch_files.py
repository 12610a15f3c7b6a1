"""Files of torch.save: a changed byte is found, wherever a command reads such a file."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from xmdpt_cli.encoders.openpose import OpenPose
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.metrics.weights import read_weights
from xmdpt_cli.model.checkpoint_file import plain_state
from xmdpt_cli.utils.torch_files import UnreadableError, read_tensors


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
def test_whole_files_are_read_in_both_formats(zipped: bool, tmp_path: Path) -> None:
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
