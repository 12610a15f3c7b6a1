"""Batch sizes, against numbers computed by hand from the shapes."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from xmdpt_cli.diffusion import Schedule
from xmdpt_cli.encoders.decoder import CHUNK_PIXELS
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.model import XMDPT
from xmdpt_cli.sampling import batch_size as batch_size_module
from xmdpt_cli.sampling.batch_size import (
    batch_size,
    batch_within,
    fit_memory,
    held_bytes,
    image_bytes,
    in_batches,
    limit_decoding,
    model_bytes,
    parse_bytes,
)
from xmdpt_cli.sampling.sampler import Sampler
from xmdpt_cli.toy.encoders import toy_vae

MIB, GIB = 2**20, 2**30
# Counted in the published code: parameters in training, depth, width, heads; XL's by its shapes
PARAMETERS = {"S": 39_117_301, "B": 153_731_269, "L": 498_945_445}
SHAPES = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}


@cache
def sampler(size: str, side: int = 32) -> Sampler:
    """Only shapes: the meta device holds no weights; its device is reported as a CPU."""
    with torch.device("meta"):
        model = XMDPT.from_size(size, latent_size=side)
    made = Sampler(model, Schedule("linear", "epsilon"), {})
    return type("OnCpu", (Sampler,), {"device": torch.device("cpu")})(
        made.model, made.schedule, made.metadata
    )


@pytest.mark.parametrize(
    ("message", "count"),
    [("8GB", 8 * GIB), ("8g", 8 * GIB), ("1.5 GiB", 3 * GIB // 2), ("500MB", 500 * MIB),
     ("500 mib", 500 * MIB), ("64k", 65536), ("1024", 1024), (" 2T ", 2 * 2**40)],
)  # fmt: skip
def test_amounts_of_memory(message: str, count: int) -> None:
    assert parse_bytes(message) == count


@pytest.mark.parametrize("message", ["", "much", "8 bananas", "-1GB", "1.2.3GB", "8GBB", "."])
def test_invalid_amounts_of_memory_are_refused(message: str) -> None:
    with pytest.raises(ConfigError, match="not an amount of memory") as caught:
        parse_bytes(message)
    assert "8GB" in caught.value.hint


@pytest.mark.parametrize("size", list(SHAPES))
@pytest.mark.parametrize("side", [32, 64])
def test_memory_of_a_model_and_an_image(size: str, side: int) -> None:
    depth, width, heads = SHAPES[size]
    tokens = (side // 2) ** 2
    biases = depth * heads * tokens * tokens * 4
    there = model_bytes(sampler(size, side)) - biases - 256 * MIB  # of modulations
    if side == 32 and size in PARAMETERS:
        assert there == 4 * PARAMETERS[size]
    else:
        assert there == 4 * sum(p.numel() for p in sampler(size, side).model.parameters())
    # 20 values a token and unit of width, of both guidance branches; four copies of 257 DINOv2
    # tokens of 768 and of 1536 values
    one = 4 * (2 * 20 * tokens * width + 4 * 257 * (768 + 1536))
    assert image_bytes(sampler(size, side)) == one


@pytest.mark.parametrize(
    ("size", "side", "limit", "count"),
    [
        # MiB: S holds 149 + 18 + 256, each image 15 + 9.04; room for (limit - 423.2) / 24.03
        ("S", 32, 500 * MIB, 3),
        ("S", 32, 600 * MIB, 7),
        ("S", 32, 8 * GIB, 8),  # more is no faster
        # B: 586.4 + 36 + 256, each 30 + 9.04
        ("B", 32, 930 * MIB, 1),
        ("B", 32, 1100 * MIB, 5),
        # L at 512 px: 1903.3 (weights; + 10.6 of larger tables) + 1536 + 256, each 160 + 9.04
        ("L", 64, 4 * GIB, 2),
        ("L", 64, 4800 * MIB, 6),
    ],
)
def test_batch_size_within_a_limit(size: str, side: int, limit: int, count: int) -> None:
    assert batch_within(sampler(size, side), limit, model_bytes(sampler(size, side))) == count


@pytest.mark.parametrize("size", list(SHAPES))
def test_large_models_at_512_fit_into_8_gb(size: str) -> None:
    """The whole process, its decoder (here sd-vae's 319 MiB) and its images."""
    held = held_bytes(sampler(size, 64), toy_vae(32)) + 319 * MIB
    if size == "XL":  # by hand: 2.5 GiB of weights, 1.75 of biases, 1.7 of all else
        assert held < 6.2 * GIB
    assert batch_within(sampler(size, 64), 8 * GIB, held) == 8
    assert held + GIB < 8 * GIB  # to decode one image of 512 px: 4096 bytes a pixel


def test_a_limit_that_is_too_small_is_refused_with_the_amount() -> None:
    with pytest.raises(XmdptError, match=r"one image needs 3.8 GiB, more than 1.0 GiB") as caught:
        batch_within(sampler("L", 64), GIB, model_bytes(sampler("L", 64)))
    assert "--max-memory" in caught.value.hint
    with pytest.raises(XmdptError, match=r"decode one image needs 1.9 GiB, more than 1.0 GiB"):
        limit_decoding(toy_vae(32), GIB, held=9 * GIB // 10, side=512)


def test_the_memory_of_the_process_counts_on_a_cpu() -> None:
    vae = toy_vae(32)
    with pytest.raises(XmdptError, match=r"more than 800.0 MiB"):
        fit_memory(sampler("S"), vae, 800 * MIB, 256)
    assert fit_memory(sampler("S"), vae, 2 * GIB, 256) == 8
    # 2048 - 1024 - 423.2 - 160 - 0.9 MiB are left, for 4096 bytes a pixel
    assert vae.chunk_pixels == pytest.approx(439.9 * MIB / 4096, rel=0.01)


def test_decoding_is_limited_only_by_a_small_limit() -> None:
    vae = toy_vae(32)
    limit_decoding(vae, 100 * GIB, held=GIB, side=512)
    assert vae.chunk_pixels == CHUNK_PIXELS  # no more than ever
    limit_decoding(vae, 3 * GIB, held=GIB, side=512)
    assert vae.chunk_pixels == 2 * GIB // 4096  # two images of 512 px


def test_without_a_limit_free_memory_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """At least one image, since it is only an estimate."""
    monkeypatch.setattr(batch_size_module, "_room", lambda _: 3 * image_bytes(sampler("L", 64)))
    assert batch_size(sampler("L", 64)) == 3
    vae = toy_vae(32)
    assert fit_memory(sampler("L", 64), vae, None, 512) == 3
    assert vae.chunk_pixels < CHUNK_PIXELS
    for room, count in (
        (-5, 1),
        (10**15, batch_size_module.ON_CPU),
        (None, batch_size_module.ON_CPU),
    ):
        monkeypatch.setattr(batch_size_module, "_room", lambda _, room=room: room)
        assert batch_size(sampler("L", 64)) == count


def test_halving_processes_all_items_and_notifies_once() -> None:
    message: list[str] = []
    tried: list[int] = []

    def work(part: list[int]) -> list[int]:
        tried.append(len(part))
        if len(part) > (3 if part[0] < 8 else 1):  # later images need more
            raise torch.OutOfMemoryError("CUDA out of memory")
        return part

    done = [i for part in in_batches(list(range(13)), 8, work, message.append) for i in part]
    assert done == list(range(13))
    assert tried == [8, 4, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1]
    assert message == ["out of memory: continuing with batches of 4"]
