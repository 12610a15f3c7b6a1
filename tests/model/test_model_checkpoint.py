"""A model folder: what is written comes back, what is no model is refused by name."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from encoder_records import encoder_records
from safetensors.torch import load_file, save_file
from test_xmdpt import inputs, small

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.model import XMDPT
from xmdpt_cli.model.checkpoint import load_model, published_metadata, save_model

FILES = {"README.md", "config.json", "model.safetensors", "xmdpt.json"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = small()
    save_model(tmp_path / "m", model, published_metadata(model, trained_steps=7))
    return tmp_path / "m"


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))


def weights(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"predictor": "none", "mask_ratio": 0.5},
        {"conditioning": "tokens"},
        {"positions": "rope", "qk_norm": True},
    ],
)
def test_what_was_saved_comes_back(options: dict[str, Any], tmp_path: Path) -> None:
    model = small(**options)
    metadata = {**published_metadata(model), "encoders": encoder_records("ä")}
    save_model(tmp_path / "m", model, metadata)
    again, told = load_model(tmp_path / "m")
    assert told == {"format": "xmdpt-model", "version": 2, **metadata}
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(a, model.state_dict()[k]) for k, a in again.state_dict().items())
    assert again.mask_ratio == model.mask_ratio
    assert not again.training
    hub = XMDPT.from_pretrained(str(tmp_path / "m"))  # the hub's own reader
    a = inputs()
    args = (a["pose"], a["source"], a["latents"])
    assert torch.equal(hub.condition(*args), again.condition(*args))
    assert {p.name for p in (tmp_path / "m").iterdir()} == FILES
    assert len({p.stat().st_mode for p in (tmp_path / "m").iterdir()}) == 1  # by the umask
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_run_stands_for_the_model_in_it(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    folder.rename(tmp_path / "run/model")
    assert load_model(tmp_path / "run")[1]["trained_steps"] == 7


def test_the_rest_of_a_folder_stays(folder: Path) -> None:
    (folder / "vae").mkdir()
    (folder / "vae/config.json").write_text("{}")
    (folder / "README.md").write_text("mine")
    other = small(width=64)
    save_model(folder, other, published_metadata(other))
    assert load_model(folder)[0].width == 64
    assert (folder / "README.md").read_text() == "mine"
    assert {p.name for p in folder.iterdir()} == {*FILES, "vae"}
    assert (folder / "vae/config.json").is_file()


@pytest.mark.parametrize("there", [False, True])
def test_a_disk_that_is_full_leaves_what_was_there(
    there: bool, folder: Path, tmp_path: Path
) -> None:
    out = folder if there else tmp_path / "other"
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    wide = small(width=128)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(XmdptError, match=r"cannot write .*File too large") as error:
            save_model(out, wide, published_metadata(wide))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "make room" in error.value.hint
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert {p.name for p in tmp_path.iterdir()} == {"m"}


def test_a_kill_between_the_renames_leaves_no_mixture(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights of one model beside the config of another would load if the shapes allow it."""
    replace = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if self.name == "model.safetensors":
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    model = small(mask_ratio=0.5)
    with pytest.raises(KeyboardInterrupt):
        save_model(folder, model, published_metadata(model))
    with pytest.raises(XmdptError, match=r"has no xmdpt\.json"):
        load_model(folder)
    monkeypatch.undo()
    save_model(folder, model, published_metadata(model))
    assert load_model(folder)[0].mask_ratio == 0.5


def test_a_write_that_was_killed_is_begun_anew(folder: Path) -> None:
    (folder / ".part").mkdir()
    (folder / ".part/stale").write_text("x")
    save_model(folder, small(), published_metadata(small()))
    assert {p.name for p in folder.iterdir()} == FILES


BROKEN: list[tuple[str, Callable[[Path], object], str]] = [
    ("no config", lambda f: (f / "config.json").unlink(), r"has no config\.json"),
    ("no metadata", lambda f: (f / "xmdpt.json").unlink(), r"has no xmdpt\.json"),
    ("no weights", lambda f: (f / "model.safetensors").unlink(), r"has no model\.safetensors"),
    (
        "pickle",
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        r"only pytorch_model\.bin, a pickle, which could run code",
    ),
    ("no json", lambda f: (f / "xmdpt.json").write_text("{"), r"xmdpt\.json is not valid JSON"),
    (
        "a list",
        lambda f: (f / "config.json").write_text("[]"),
        r"config\.json .* should be an object",
    ),
    (
        "bytes",
        lambda f: (f / "config.json").write_bytes(b"\xff\xfe"),
        r"config\.json is not valid",
    ),
    (
        "another's config",
        lambda f: (f / "config.json").write_text('{"_class_name": "AutoencoderKL"}'),
        r"config\.json is not that of an XMDPT: it has _class_name",
    ),
    (
        "half a config",
        lambda f: change(f / "config.json", lambda c: c.pop("depth")),
        r"config\.json is not that of an XMDPT: it lacks depth",
    ),
    (
        "impossible config",
        lambda f: change(f / "config.json", lambda c: c.update(decode_layers=9)),
        r"decode_layers lies between .* \(config\.json\)",
    ),
    (
        "sizes of another model",
        lambda f: change(f / "config.json", lambda c: c.update(heads=3)),
        r"config\.json says heads 3, the tensors in model\.safetensors have 2",
    ),
    (
        "a model that takes hours to build",
        lambda f: change(f / "config.json", lambda c: c.update(depth=100_000)),
        r"config\.json says depth 100000, the tensors in model\.safetensors have",
    ),
    (
        "endless words",
        lambda f: change(f / "config.json", lambda c: c.update(condition_parts="local+" * 10**5)),
        r"condition_parts should .* at most 100 characters, not 'local",
    ),
    (
        "numbers of thousands of digits",
        lambda f: (f / "config.json").write_text('{"depth": ' + "9" * 5000 + "}"),
        r"config\.json is not valid JSON",
    ),
    (
        "endless nesting",
        lambda f: (f / "xmdpt.json").write_text("[" * 100_000 + "]" * 100_000),
        r"xmdpt\.json is not valid JSON",
    ),
    (
        "words for numbers",
        lambda f: change(f / "config.json", lambda c: c.update(depth="four")),
        r"config\.json is damaged: depth should be a valid integer, not 'four'",
    ),
    (
        "newer",
        lambda f: change(f / "xmdpt.json", lambda c: c.update(version=3)),
        r"newer xmdpt: xmdpt\.json has version 3, this one reads 2",
    ),
    (
        "older",
        lambda f: change(f / "xmdpt.json", lambda c: c.update(version=1)),
        r"older xmdpt: xmdpt\.json has version 1, this one reads 2",
    ),
    (
        "another format",
        lambda f: change(f / "xmdpt.json", lambda c: c.update(format="xmdpt-samples")),
        r"xmdpt\.json does not describe a model",
    ),
    (
        "half the metadata",
        lambda f: change(f / "xmdpt.json", lambda c: c.pop("encoders")),
        r"xmdpt\.json is damaged: encoders is missing",
    ),
    (
        "cut off",
        lambda f: os.truncate(f / "model.safetensors", 2000),
        r"model\.safetensors is cut: it holds 2,000 bytes of",
    ),
    (
        "a tensor missing",
        lambda f: weights(f, lambda t: t.pop("canet.mlp_final.0.weight")),
        r"lacks 1 tensors, first canet\.mlp_final\.0\.weight",
    ),
    (
        "a tensor too many",
        lambda f: weights(f, lambda t: t.update(more=torch.zeros(1))),
        "1 unexpected tensors, first more",
    ),
    (
        "a wrong shape",
        lambda f: weights(
            f, lambda t: t.update({"tdnet.decoder_pos_embed": torch.zeros(1, 9, 32)})
        ),
        r"1 tensors of another shape, first tdnet\.decoder_pos_embed",
    ),
]


@pytest.mark.parametrize(("spoil", "said"), [b[1:] for b in BROKEN], ids=[b[0] for b in BROKEN])
def test_what_is_no_model_is_named(
    spoil: Callable[[Path], object], said: str, folder: Path
) -> None:
    spoil(folder)
    with pytest.raises(XmdptError, match=said):
        load_model(folder)


def test_a_file_or_nothing_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(XmdptError, match="no such model folder"):
        load_model(tmp_path / "nowhere")
    (tmp_path / "ema.pt").touch()
    with pytest.raises(XmdptError, match="is a file") as error:
        load_model(tmp_path / "ema.pt")
    assert f"xmdpt convert {tmp_path}/ema.pt" in error.value.hint


def test_metadata_of_published_checkpoints() -> None:
    """Paper sec. 4.1: 256 px from 32x32 latents, 512 px from 64x64."""
    for latent_size, resolution in ((32, 256), (64, 512)):
        model = XMDPT(depth=4, width=32, heads=2, latent_size=latent_size)
        metadata = published_metadata(model)
        assert metadata["resolution"] == resolution
    assert metadata["sampling"] == {
        "steps": 20, "solver": "unipc", "guidance": 2.0, "power": 0.01,
    }  # fmt: skip
    assert (metadata["schedule"], metadata["prediction"]) == ("linear", "epsilon")
    ids = {part: metadata["encoders"][part]["id"] for part in ("vae", "source", "pose")}
    assert ids == {
        "vae": "stabilityai/sd-vae-ft-mse",
        "source": "facebook/dinov2-giant",
        "pose": "facebook/dinov2-base",
    }
    assert metadata["encoders"]["vae"]["scale"] == 0.18215
    assert metadata["trained_steps"] is None
