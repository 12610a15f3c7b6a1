"""``xmdpt convert``: there, back, and on to samples."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from transformers import Dinov2Config, Dinov2Model

from xmdpt_cli.cli.app import run
from xmdpt_cli.model import XMDPT, parameter_counts
from xmdpt_cli.model.checkpoint import load_model, published_metadata, save_model
from xmdpt_cli.model.published import to_published
from xmdpt_cli.toy.encoders import toy_vae

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``ema_0.9999_300000.pt``, of a model for 64 px and DINOv2 of width 32."""
    work = tmp_path_factory.mktemp("convert")
    torch.manual_seed(0)
    model = XMDPT(depth=4, width=64, heads=4, latent_size=8, pose_width=32, source_width=32)
    torch.save(to_published(model), work / "ema_0.9999_300000.pt")
    return work


def call(*arguments: object) -> int:
    return run([str(a) for a in arguments])


@pytest.fixture
def checkpoint(work: Path) -> Path:
    return work / "ema_0.9999_300000.pt"


def test_conversion_in_both_directions_is_bit_equal(
    checkpoint: Path, tmp_path: Path, capsys: Capture
) -> None:
    folder, back = tmp_path / "m", tmp_path / "back.pt"
    assert call("convert", checkpoint, "--out", folder, "--mask-ratio", 0.5, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    model, facts = load_model(folder)
    assert (printed["size"], printed["depth"], printed["width"]) == (None, 4, 64)
    assert printed["parameters"] == parameter_counts(model)
    assert printed["resolution"] == facts["resolution"] == 64
    assert printed["trained_steps"] == facts["trained_steps"] == 300_000
    assert model.mask_ratio == 0.5
    assert call("convert", folder, "--to", "published", "--out", back, "--json") == 0
    assert json.loads(capsys.readouterr().out)["out"] == str(back)
    before, after = (torch.load(path, weights_only=True) for path in (checkpoint, back))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_size_counts_and_notes_are_printed(tmp_path: Path, capsys: Capture) -> None:
    """The paper's Table 1: 33.52 M parameters for S."""
    state = to_published(XMDPT.from_size("S"))
    torch.save({"ema": {f"module.{k}": v.half() for k, v in state.items()}}, tmp_path / "x.pt")
    assert call("convert", tmp_path / "x.pt", "--out", tmp_path / "S") == 0
    output = capsys.readouterr()
    assert "X-MDPT-S (depth 12, width 384, 6 heads), 256 px, 33,519,781 parameters" in output.out
    assert "39,117,301 in training" in output.out
    assert (
        f"next: xmdpt sample --model {tmp_path}/S --source person.jpg --pose pose.json"
        in output.out
    )
    for note in ("took 'ema'", "stripped 'module.'", "made float32 of float16"):
        assert note in output.err


def test_a_checkpoint_without_mipnet_is_noted(
    checkpoint: Path, tmp_path: Path, capsys: Capture
) -> None:
    state = torch.load(checkpoint, weights_only=True)
    bare = {k: v for k, v in state.items() if not k.startswith(("sideblocks", "mask_token"))}
    torch.save(bare, tmp_path / "x.pt")
    assert call("convert", tmp_path / "x.pt", "--out", tmp_path / "m") == 0
    assert "the checkpoint has no MIPNet" in capsys.readouterr().err


def test_an_existing_model_is_replaced_only_with_force(
    checkpoint: Path, tmp_path: Path, capsys: Capture
) -> None:
    folder, file = tmp_path / "m", tmp_path / "x.pt"
    there = ("convert", checkpoint, "--out", folder)
    back = ("convert", folder, "--to", "published", "--out", file)
    state = torch.load(checkpoint, weights_only=True)
    for command, what, out in (
        (there, "model folder", folder / "model.safetensors"),
        (back, "published checkpoint", file),
    ):
        assert call(*command) == 0
        written = out.stat().st_mtime_ns
        capsys.readouterr()
        assert call(*command) == 0  # as after an interruption: it is what would be written
        assert f"is already this {what}" in " ".join(capsys.readouterr().err.split())
        assert out.stat().st_mtime_ns == written
        assert call(*command, "--force") == 0
        assert out.stat().st_mtime_ns != written
    assert call(*there, "--mask-ratio", 0.5) == 1
    assert "is already a model folder" in " ".join(capsys.readouterr().err.split())
    key = next(key for key, value in state.items() if value.is_floating_point())
    torch.save({**state, key: state[key] + 1}, file)
    assert call(*back) == 1
    assert "is already a published checkpoint" in " ".join(capsys.readouterr().err.split())
    for other in (tmp_path, checkpoint):  # a folder that is no model, and a file
        capsys.readouterr()
        assert call("convert", checkpoint, "--out", other, "--force") == 1
        assert "is not a model folder" in capsys.readouterr().err
    torch.save({"theirs": torch.zeros(1)}, file)
    assert call(*back, "--force") == 1
    assert "is not a published checkpoint" in capsys.readouterr().err
    assert list(torch.load(file, weights_only=True)) == ["theirs"]


def test_another_kind_of_model_is_not_replaced(
    checkpoint: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Folders of other libraries have files of the same names."""
    config = Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    Dinov2Model(config).save_pretrained(tmp_path / "dino")
    before = load_file(tmp_path / "dino/model.safetensors")
    assert call("convert", checkpoint, "--out", tmp_path / "dino", "--force") == 1
    assert "is not a model folder" in capsys.readouterr().err
    assert load_file(tmp_path / "dino/model.safetensors").keys() == before.keys()


@pytest.mark.parametrize(
    ("arguments", "code", "output"),
    [
        (["FILE", "--to", "onnx"], 2, "'onnx' is not one of 'folder', 'published'"),
        (["FILE", "--to", "published"], 2, "must be a .pt file"),
        (["MODEL", "--to", "published", "--out", "x.pt", "--mask-ratio", "0.3"], 2, "mask-ratio"),
        (["MODEL"], 2, "is already a model folder"),
        (["FILE", "--mask-ratio", "1"], 2, "mask_ratio lies in"),
        (["FILE", "--to", "published", "--out", "x.pt"], 1, "is a file, not a model folder"),
        (["nowhere.pt"], 1, "no such checkpoint: nowhere.pt\nhint: name the published ema_*.pt"),
        (["."], 1, "is a folder, not a checkpoint"),
    ],
)
def test_wrong_calls_are_errors_and_write_nothing(
    arguments: list[str], code: int, output: str, checkpoint: Path, tmp_path: Path,
    capsys: Capture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    model = XMDPT(depth=4, width=64, heads=4, latent_size=8)
    save_model(tmp_path / "m", model, published_metadata(model))
    monkeypatch.chdir(tmp_path)
    given = [{"FILE": str(checkpoint), "MODEL": "m"}.get(a, a) for a in arguments]
    out = [] if "--out" in given else ["--out", "new"]
    assert call("convert", *given, *out) == code
    assert output in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_models_that_the_published_code_cannot_hold_are_refused(
    tmp_path: Path, capsys: Capture
) -> None:
    model = XMDPT(depth=4, width=64, heads=4, latent_size=8)
    facts = {**published_metadata(model), "prediction": "v"}
    save_model(tmp_path / "m", model, facts)
    out = tmp_path / "x.pt"
    assert call("convert", tmp_path / "m", "--to", "published", "--out", out) == 1
    assert "prediction 'v'" in capsys.readouterr().err
    assert not out.exists()


def test_a_converted_model_samples(checkpoint: Path, tmp_path: Path, capsys: Capture) -> None:
    """From a checkpoint and local folders of encoders to images; features of toys are refused."""
    net = toy_vae(256).net  # f = 8
    net.register_to_config(scaling_factor=0.18215)
    net.save_pretrained(tmp_path / "vae")  # without the mark of a toy: as if it were trained
    assert isinstance(net, AutoencoderKL)
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=224, patch_size=14
    )
    Dinov2Model(config).save_pretrained(tmp_path / "dino")
    people = ("--people", 1, "--test-people", 1, "--height", 64)
    assert call("synth", "--out", tmp_path / "raw", *people) == 0
    networks = ("--vae", tmp_path / "vae", "--dino-source", tmp_path / "dino")
    prepare = ("prepare", "--root", tmp_path / "raw", "--resolution", 64)
    more = (*networks, "--dino-pose", tmp_path / "dino")
    assert call(*prepare, "--out", tmp_path / "data", *more) == 0
    assert call("convert", checkpoint, "--out", tmp_path / "m") == 0
    sample = ("sample", "--model", tmp_path / "m", "--steps", 2)
    assert call(*sample, "--data", tmp_path / "data", "--out", tmp_path / "s", "--limit", 1) == 0
    assert len(list((tmp_path / "s").glob("*_2_*.png"))) == 1
    toys = ("--encoders", "toy", "--vae-steps", 1)
    assert call(*prepare, "--out", tmp_path / "toys", *toys) == 0
    capsys.readouterr()
    assert call(*sample, "--data", tmp_path / "toys", "--out", tmp_path / "t") == 1
    output = capsys.readouterr().err
    assert "another vae encoder (stabilityai/sd-vae-ft-mse, not" in output
    assert "is a toy" in output
