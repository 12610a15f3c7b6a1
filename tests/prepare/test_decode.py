"""Decoder processes give what decoding here gives, whatever fits into the shared memory."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from xmdpt_cli.datasets.listing import ImageFile, Item, Pair
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.prepare.decode import DecodedItem, decode_item
from xmdpt_cli.prepare.workers import Decoders

SIZES = (32, 48)


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[Item]:
    """Items of 1 to 12 images (five fit), every other one without keypoints."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    made = []
    for number, count in enumerate((1, 12, 12, 2, 5, 4, 10, 2)):
        item = Item(f"item-{number}", "train")
        for view in range(count):
            path = folder / f"{number}-{view}.png"
            Image.fromarray(rng.integers(0, 256, (60, 40, 3), dtype=np.uint8)).save(path)
            item.views[f"{view}_front"] = ImageFile(path.name, path)
            if number % 2:
                item.keypoints[f"{view}_front"] = rng.random((18, 2))
        item.pairs.append(Pair("0_front", f"{count - 1}_front", number))
        made.append(item)
    return made


def same(got: DecodedItem, want: DecodedItem) -> None:
    assert got.item.key == want.item.key
    assert got.views.keys() == want.views.keys()
    for name, view in want.views.items():
        other = got.views[name]
        assert other.file == view.file
        for size in SIZES:
            a, b = other.sized[size], view.sized[size]
            assert a.png == b.png
            np.testing.assert_array_equal(a.image, b.image)
            assert (a.pose is None) == (b.pose is None)
            if a.pose is not None and b.pose is not None:
                np.testing.assert_array_equal(a.pose, b.pose)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("keep", [False, True])
def test_processes_decode_to_the_same_arrays(items: list[Item], workers: int, keep: bool) -> None:
    """With ``keep`` no slot is given back: they run out, and the pipe serves."""
    want = [decode_item(item, SIZES) for item in items] * 2
    with Decoders(workers, SIZES, ahead=8) as decoders:
        got = []
        for decoded in decoders.decode((item, SIZES) for item in items * 2):
            if not keep:
                same(decoded, want[len(got)])
                decoded.release()
            got.append(decoded)
        assert len(got) == len(want)
        if keep:
            for decoded, wanted in zip(got, want, strict=True):
                same(decoded, wanted)


def test_a_dead_decoder_is_reported() -> None:
    with (
        pytest.raises(XmdptError, match="a decoder process died") as error,
        Decoders(1, SIZES, ahead=4) as decoders,
    ):
        list(decoders.map(os._exit, [9]))
    assert "same command" in error.value.hint
