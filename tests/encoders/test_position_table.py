"""DINOv2's position table against torch.hub's formulas, and in records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hub_dino import SHAPES, hub_table, hub_tokens, make_dino
from safetensors.torch import load_file
from transformers import Dinov2Config, Dinov2Model

from xmdpt_cli.encoders.dino import Dino, resize_table
from xmdpt_cli.encoders.weights import Origin
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.toy.encoders import toy_dino

RECORD: dict[str, Any] = {"dtype": "float32", "sha256": "1" * 64, "position_table": "hub"}


@pytest.fixture(scope="module", params=sorted(SHAPES))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dino(tmp_path_factory.mktemp("dino") / request.param, request.param)


def heads(folder: Path) -> int:
    return int(SHAPES[folder.name]["num_attention_heads"])


def images(count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1


def rms(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).square().mean().sqrt() / b.square().mean().sqrt())


@pytest.mark.parametrize("side", [37, 24])
@pytest.mark.parametrize("grid", [1, 8, 12, 15, 16, 17, 18, 32, 36, 37, 50])
def test_resized_tables_equal_torch_hub(grid: int, side: int) -> None:
    table = torch.randn(1, 1 + side * side, 5, generator=torch.Generator().manual_seed(grid))
    made = resize_table(table, grid)
    expected = torch.from_numpy(hub_table(table[0].double().numpy(), grid))
    assert made.shape == (1, 1 + grid * grid, 5)
    torch.testing.assert_close(made[0].double(), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(made[:, 0], table[:, 0])  # the CLS position
    if grid != side:  # transformers' way differs by far more than the tolerance
        other = torch.from_numpy(hub_table(table[0].double().numpy(), grid, offset=0.0))
        assert rms(made[0].double(), other) > 0.01
    half = resize_table(table.bfloat16(), grid)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, resize_table(table.bfloat16().float(), grid).bfloat16())


@pytest.mark.parametrize("size", [112, 168, 224, 252, 448, 518])
def test_tokens_equal_torch_hub_on_every_grid(
    folder: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xmdpt_cli.encoders.dino.INPUT_SIZE", size)
    given = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(size)) * 2 - 1
    dino = Dino.load(folder)
    tokens = dino.tokens(given)
    assert tokens.shape == (1, (size // 14) ** 2 + 1, dino.width)
    assert rms(tokens.double(), hub_tokens(folder, given, heads(folder))) < 2e-6
    if size != 518:
        assert rms(tokens.double(), hub_tokens(folder, given, heads(folder), offset=0.0)) > 1e-3


def test_transformers_does_not_resize_the_table(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dino = Dino.load(folder)
    assert dino.net.embeddings.position_embeddings.shape[1] == 257

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("a table was interpolated")

    monkeypatch.setattr(F, "interpolate", refused)
    with torch.no_grad():
        dino.net(pixel_values=images())


def test_saving_keeps_the_checkpoint(folder: Path, tmp_path: Path) -> None:
    dino = Dino.load(folder)
    dino.save(tmp_path / "copy")
    before, after = (load_file(f / "model.safetensors") for f in (folder, tmp_path / "copy"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(Dino.load(tmp_path / "copy").tokens(images()), dino.tokens(images()))


def test_a_table_of_the_needed_grid_is_unchanged(tmp_path: Path) -> None:
    folder = make_dino(tmp_path / "small", "base", image_size=224)
    dino = Dino.load(folder)
    stored = load_file(folder / "model.safetensors")["embeddings.position_embeddings"]
    assert torch.equal(dino.net.embeddings.position_embeddings, stored)
    assert dino.describe()["position_table"] == "stored"
    again = Dino.load_recorded(dino.describe(), folder)
    assert torch.equal(again.tokens(images()), dino.tokens(images()))


def test_position_tables_that_are_not_square_are_refused() -> None:
    with torch.random.fork_rng(devices=[]):
        net = Dinov2Model(
            Dinov2Config(
                hidden_size=24, num_hidden_layers=1, num_attention_heads=2, patch_size=14,
                image_size=(518, 504),
            )
        )  # fmt: skip
    with pytest.raises(XmdptError, match="1332 patch positions, which is not a square grid"):
        Dino(net, Origin("local", "tall"))


def test_invalid_records_are_refused(folder: Path) -> None:
    with pytest.raises(XmdptError, match="recorded as 'bilinear', which this version does not"):
        Dino.load_recorded({**RECORD, "position_table": "bilinear"}, folder)
    for bad in ({"dtype": "float"}, {"dtype": "nn"}, {"autocast": 16}):
        record = {**RECORD, **bad}
        if bad == {"dtype": "float"}:  # torch's own alias
            assert Dino.load_recorded(record, folder).dtype == torch.float32
            continue
        with pytest.raises(XmdptError, match="unknown number type"):
            Dino.load_recorded(record, folder)
    # a toy's record, and a real network for it: loaded, for its identity to be refused by name
    other = Dino.load_recorded({"toy": True, "sha256": "3" * 64}, folder)
    assert other.describe()["position_table"] == "hub"


def test_records_contain_the_table(folder: Path) -> None:
    assert Dino.load(folder).describe()["position_table"] == "hub"
    assert "position_table" not in toy_dino("source", 64).describe()


def test_autocast_keeps_the_residual_stream_in_float32(tmp_path: Path) -> None:
    """As deep as the giant: weights in bfloat16 throughout lose about twice as much."""
    folder = make_dino(tmp_path / "deep", "giant", layers=40)
    expected = hub_tokens(folder, images(1), heads=3)
    autocast = Dino.load(folder, autocast=torch.bfloat16)
    throughout = Dino.load(folder, dtype=torch.bfloat16)
    stream: list[torch.dtype] = []

    def seen(_: torch.nn.Module, given: tuple[torch.Tensor, ...], out: Any) -> None:
        stream.append((out[0] if isinstance(out, tuple) else out).dtype)

    layers = [m for m in autocast.net.modules() if type(m).__name__ == "Dinov2Layer"]
    assert len(layers) == 40
    for layer in layers:
        layer.register_forward_hook(seen)
    made = [dino.tokens(images(1)) for dino in (autocast, throughout)]
    assert stream == [torch.float32] * 40
    errors = [rms(tokens.double(), expected) for tokens in made]
    assert 1e-4 < errors[0] < errors[1] / 1.5
    described = autocast.describe()
    assert (described["dtype"], described["autocast"]) == ("float32", "bfloat16")
    again = Dino.load_recorded(described, folder)
    assert torch.equal(again.tokens(images(1)), made[0])
    assert again.describe() == described
    assert throughout.describe()["dtype"] == "bfloat16"
    assert "autocast" not in throughout.describe()
