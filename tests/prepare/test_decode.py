"""Decoder processes give what decoding here gives, whatever fits into the shared memory."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from xmdpt_cli.datasets.listing import ImageFile, Item, Pair
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.prepare.decode import DecodedGarment, decode_garment
from xmdpt_cli.prepare.workers import Decoders

SIZES = (32, 48)


@pytest.fixture(scope="module")
def garments(tmp_path_factory: pytest.TempPathFactory) -> list[Item]:
    """Garments of 1 to 12 pictures (five fit), every other one without keypoints."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    made = []
    for number, count in enumerate((1, 12, 12, 2, 5, 4, 10, 2)):
        garment = Item(f"garment-{number}", "train")
        for view in range(count):
            path = folder / f"{number}-{view}.png"
            Image.fromarray(rng.integers(0, 256, (60, 40, 3), dtype=np.uint8)).save(path)
            garment.views[f"{view}_front"] = ImageFile(path.name, path)
            if number % 2:
                garment.keypoints[f"{view}_front"] = rng.random((18, 2))
        garment.pairs.append(Pair("0_front", f"{count - 1}_front", number))
        made.append(garment)
    return made


def same(got: DecodedGarment, want: DecodedGarment) -> None:
    assert got.garment.key == want.garment.key
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
def test_decoded_elsewhere_is_decoded_here(garments: list[Item], workers: int, keep: bool) -> None:
    """With ``keep`` no slot is given back: they run out, and the pipe serves."""
    want = [decode_garment(garment, SIZES) for garment in garments] * 2
    with Decoders(workers, SIZES, ahead=8) as decoders:
        got = []
        for item in decoders.decode((garment, SIZES) for garment in garments * 2):
            if not keep:
                same(item, want[len(got)])
                item.release()
            got.append(item)
        assert len(got) == len(want)
        if keep:
            for item, wanted in zip(got, want, strict=True):
                same(item, wanted)


def test_a_dead_decoder_is_told_as_one() -> None:
    with (
        pytest.raises(XmdptError, match="a decoder process died") as error,
        Decoders(1, SIZES, ahead=4) as decoders,
    ):
        list(decoders.map(os._exit, [9]))
    assert "same command" in error.value.hint
