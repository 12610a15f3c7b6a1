"""Resizes against the published pipelines' images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image

from xmdpt_cli.errors import ConfigError
from xmdpt_cli.metrics.protocols import get_protocol

Shared = Callable[[str], Path]

# the 512 px image whose published resize the golden holds; Pillow before 13 makes another
CFLD_INPUT = "ccfe8514cc087c2288bdeaf6e0a90734c7479031a76d5eaaf39de887eec01cc2"


def test_cfld_resizes_are_bit_equal_to_the_published_code(shared: Shared) -> None:
    golden = np.load(shared("golden/metrics/resize_golden.npz"))
    with Image.open(shared("golden/metrics/resize_source_750x1101.png")) as image:
        photograph = image.convert("RGB")
    cfld = get_protocol("cfld")
    target = cfld.ground_truth(np.asarray(photograph))
    np.testing.assert_array_equal(target, golden["pil_bicubic_256x176_u8"])
    generated = np.asarray(photograph.resize((512, 512), Image.Resampling.BICUBIC))
    if hashlib.sha256(generated.tobytes()).hexdigest() != CFLD_INPUT:
        pytest.skip(f"Pillow {PIL.__version__} makes another 512 px image than the golden's")
    np.testing.assert_array_equal(cfld.generated(generated), golden["cfld_512_to_256x176_u8"])


def test_pidm_pcdms_and_clean_resizes_equal_the_published_code(shared: Shared) -> None:
    golden = np.load(shared("golden/metrics/resize_golden.npz"))
    with Image.open(shared("golden/metrics/resize_source_750x1101.png")) as image:
        photograph = np.asarray(image.convert("RGB"))
    pidm, pcdms, clean = (get_protocol(name) for name in ("pidm", "pcdms", "clean"))
    assert pidm.square is not None
    square = np.asarray(pidm.square(photograph), dtype=np.uint8)
    np.testing.assert_array_equal(square, golden["pil_bicubic_256x256_u8"])
    for given in (photograph, square):  # a folder of squares was resized before
        found = pidm.ground_truth(given)
        np.testing.assert_array_equal(found, golden["pidm_cv2_linear_256x176_f32"])
        np.testing.assert_array_equal(pidm.generated(given), found)
        # OpenCV's releases differ by 2e-5 of white
        cubic = golden["pcdms_cv2_cubic_256x176_f32"]
        np.testing.assert_allclose(pcdms.ground_truth(given), cubic, atol=255 * 2e-5)
    np.testing.assert_array_equal(clean.ground_truth(photograph), golden["pil_bicubic_256x176_u8"])


@pytest.mark.parametrize("name", ["cfld", "pidm", "pcdms", "clean"])
def test_both_published_sizes(name: str) -> None:
    image = np.random.default_rng(1).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    for height, size in ((256, (256, 176)), (512, (512, 352))):
        protocol = get_protocol(name, height)
        assert protocol.size == size
        assert protocol.ground_truth(image).shape == protocol.generated(image).shape == (*size, 3)
    with pytest.raises(ConfigError, match="no protocol is 300 px high") as caught:
        get_protocol(name, 300)
    assert "256, 512" in caught.value.hint


def test_cfld_truncates_predictions_and_rounds_photographs() -> None:
    # stripes of 100.5 on average: one path rounds up, one truncates
    stripes = np.zeros((512, 352, 3), np.uint8)
    stripes[:, 0::2], stripes[:, 1::2] = 100, 101
    cfld = get_protocol("cfld")
    target, prediction = cfld.ground_truth(stripes), cfld.generated(stripes)
    assert target.shape == prediction.shape == (256, 176, 3)
    centre = (slice(64, 192), slice(44, 132))
    assert (prediction[centre] == 100).all()
    assert target[centre].mean() > 100


@pytest.mark.parametrize("name", ["cfld", "clean", "native"])
def test_images_of_the_compared_size_are_unchanged(name: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (256, 176, 3), dtype=np.uint8)
    protocol = get_protocol(name)
    np.testing.assert_array_equal(protocol.ground_truth(image), image)
    np.testing.assert_array_equal(protocol.generated(image), image)


def test_the_error_of_an_unknown_protocol_lists_all() -> None:
    with pytest.raises(ConfigError) as caught:
        get_protocol("cldf")
    assert "cfld, pidm, pcdms, clean, native" in caught.value.hint
