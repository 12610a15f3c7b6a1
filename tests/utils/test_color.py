"""Colours are sRGB: an embedded profile is applied, and without one no value changes."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from icc import (
    ADOBE,
    P3,
    SRGB,
    cmyk_profile,
    expected_srgb,
    gray_profile,
    matrix_profile,
    srgb_encode,
)
from PIL import Image, ImageCms

from xmdpt_cli.datasets.listing import ImageFile, Item
from xmdpt_cli.images import decode_image, load_image, resize_square, upright
from xmdpt_cli.prepare.decode import decode_item
from xmdpt_cli.sampling.user_inputs import UserImage
from xmdpt_cli.utils import color

COLOURS = np.random.default_rng(0).integers(0, 256, (32, 24, 3), np.uint8)


def png(image: Image.Image, profile: bytes | None = None, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **({} if profile is None else {"icc_profile": profile}))
    return stream.getvalue()


def pixels(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize(
    ("primaries", "gamma"), [(P3, None), (ADOBE, 2.19921875)], ids=["Display P3", "Adobe RGB"]
)
def test_other_primaries_become_srgb(primaries: tuple, gamma: float | None) -> None:
    data = png(Image.fromarray(COLOURS), matrix_profile(primaries, gamma))
    wanted = expected_srgb(COLOURS, primaries, gamma)
    assert np.abs(wanted - COLOURS).max() > 25  # ignored, it is seen
    found = pixels(decode_image(data, "p3.png")).astype(float)
    assert np.abs(found - wanted).max() < 2
    assert "icc_profile" not in decode_image(data, "p3.png").info


def test_every_kind_of_file_that_carries_a_profile() -> None:
    flat = np.full((16, 16, 3), (200, 60, 60), np.uint8)
    wanted = expected_srgb(flat[:1, :1], P3)[0, 0]
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"):
        if kind == "HEIF":
            pytest.importorskip("pillow_heif").register_heif_opener()
        elif kind == "AVIF" and "AVIF" not in Image.SAVE:
            continue
        found = pixels(decode_image(png(Image.fromarray(flat), matrix_profile(P3), kind), kind))
        assert np.abs(found[8, 8] - wanted).max() <= 4, kind  # lossy


def test_no_profile_or_one_of_srgb_changes_no_bit() -> None:
    plain = Image.fromarray(COLOURS)
    for profile in (
        None,
        b"",
        matrix_profile(SRGB),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    ):
        assert np.array_equal(pixels(decode_image(png(plain, profile), "x")), COLOURS)


def test_real_photographs_of_deepfashion_are_unchanged(shared: Callable[[str], Path]) -> None:
    files = sorted(shared("deepfashion_sample").rglob("*.jpg"))[:40]
    files += sorted(shared("deepfashion_lowres_sample").rglob("*.jpg"))[:20]
    assert len(files) >= 20
    for path in files:
        with Image.open(path) as image:
            assert "icc_profile" not in image.info
            assert np.array_equal(np.asarray(image.convert("RGB")), pixels(load_image(path)))


def test_alpha_and_palettes_and_greys_keep_their_own_part() -> None:
    profile = matrix_profile(P3)
    wanted = expected_srgb(COLOURS, P3)
    alpha = np.full((32, 24, 1), 255, np.uint8)
    alpha[:, :8] = 0
    rgba = Image.fromarray(np.concatenate([COLOURS, alpha], axis=2))
    found = pixels(decode_image(png(rgba, profile), "rgba")).astype(float)
    assert (found[:, :8] == 255).all()  # white below, not moved by the profile
    assert np.abs(found[:, 8:] - wanted[:, 8:]).max() < 2
    few = Image.fromarray(COLOURS).quantize(16)
    moved = expected_srgb(np.asarray(few.convert("RGB")), P3)
    assert np.abs(pixels(decode_image(png(few, profile), "p")) - moved).max() < 2
    grey = Image.fromarray(COLOURS[..., 0])  # grey is grey in every such space
    assert (
        np.abs(pixels(decode_image(png(grey, profile), "l")).astype(int) - COLOURS[..., :1]).max()
        < 2
    )


def test_grey_and_cmyk_profiles() -> None:
    levels = np.arange(256, dtype=np.uint8)[None].repeat(4, 0)
    found = pixels(decode_image(png(Image.fromarray(levels), gray_profile(1.0)), "grey"))
    assert np.abs(found[0, :, 0] - 255 * srgb_encode(levels[0] / 255)).max() < 2
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    profile = cmyk_profile(50)
    middle = pixels(decode_image(png(cyan, profile, "TIFF"), "cmyk.tif"))[0, 0]
    assert np.abs(middle.astype(int) - 119).max() <= 3  # L* = 50
    assert pixels(decode_image(png(cyan, None, "TIFF"), "cmyk.tif"))[0, 0].tolist() == [0, 255, 255]


@pytest.mark.parametrize(
    "profile",
    [b"no profile", matrix_profile(P3)[:200], cmyk_profile(50), gray_profile(2.2)],
    ids=["text", "cut", "of CMYK", "of grey"],
)
def test_an_unusable_profile_is_ignored_with_one_warning(
    profile: bytes, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(color, "_reported", set())
    data = png(Image.fromarray(COLOURS), profile)
    with caplog.at_level(logging.WARNING):
        for name in ("first.png", "second.png"):
            assert np.array_equal(pixels(decode_image(data, name)), COLOURS)
    (warning,) = caplog.messages
    assert warning.startswith("first.png: its colour profile is ignored: it is ")


def test_an_image_is_converted_once() -> None:
    """What was opened may be given on as a PIL image, as sampling in Python does."""
    image = decode_image(png(Image.fromarray(COLOURS), matrix_profile(P3)), "x")
    assert np.array_equal(pixels(upright(image)), pixels(image))
    assert np.array_equal(pixels(UserImage.open(image).image), pixels(image))


def test_what_prepare_decodes_and_what_a_user_gives_in_python(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(Image.fromarray(COLOURS), matrix_profile(P3)))
    item = Item("a", "train", {"x": ImageFile("x", path)})
    prepared = decode_item(item, [32]).views["x"].sized[32].image
    assert np.array_equal(prepared, resize_square(load_image(path), 32))
    assert np.abs(prepared.astype(int) - resize_square(Image.fromarray(COLOURS), 32)).max() > 10
    with Image.open(path) as image:
        given = pixels(UserImage.open(image).image)
        assert "icc_profile" in image.info  # the user's own image is not changed
    assert np.array_equal(given, pixels(load_image(path)))
