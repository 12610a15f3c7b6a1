"""Images and places that are not as they should be: named, counted, never in the way."""

from __future__ import annotations

import os
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_dataset import SIZE, VIEWS, FakeEncoder, make_dataset, tree_name
from PIL import Image

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.datasets.find import find_dataset
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.images import decode_image, fast_png_bytes, load_image
from xmdpt_cli.prepare.pipeline import prepare_dataset

RED = (200, 30, 30)


def prepare(root: Path, out: Path, **options: Any) -> dict[str, Any]:
    options = {"size": 32, "items_per_shard": 2, "batch_size": 4, **options}
    return prepare_dataset(find_dataset(root), out, encoder=FakeEncoder(), **options)


def bomb() -> bytes:
    """A PNG of a kilobyte whose header states 60,000 x 60,000 pixels."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))]
    chunks += [(b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def truncated(path: Path) -> bytes:
    data = path.read_bytes()
    return data[: len(data) // 2]


BROKEN: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "truncated": (truncated, "broken image"),
    "zero bytes": (lambda _: b"", "not an image (or empty)"),
    "text": (lambda _: b"<html>404 Not Found</html>", "not an image"),
    "bomb": (lambda _: bomb(), "too large to decode safely"),
    "noise behind a header": (lambda p: p.read_bytes()[:200] + os.urandom(500), "image"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_image_is_reported_and_left_out(tmp_path: Path, kind: str) -> None:
    root = make_dataset(tmp_path / "raw")
    name = "img_highres/" + tree_name("MEN", 3, VIEWS[1])
    make, reason = BROKEN[kind]
    (root / name).write_bytes(make(root / name))
    manifest = prepare(root, tmp_path / "out")
    assert [file for file, _ in manifest["skipped"]] == [name]
    assert reason in manifest["skipped"][0][1]
    assert str(tmp_path) not in manifest["skipped"][0][1]  # the same data, the same manifest
    assert manifest["counts"]["train"] == {"items": 5, "images": 14, "pairs": 26}


def odd_images(folder: Path) -> Iterator[tuple[str, Path]]:
    """Red images in every form that should just work."""
    red = Image.new("RGB", SIZE, RED)
    cmyk, grey16, alpha, palette = (folder / f"{n}" for n in ("c.jpg", "g.png", "a.png", "p.png"))
    red.convert("CMYK").save(cmyk, quality=95)
    yield "CMYK", cmyk
    Image.fromarray(np.full(SIZE[::-1], 200 * 257, np.uint16)).save(grey16)
    yield "16 bit", grey16
    Image.new("RGBA", SIZE, (*RED, 255)).save(alpha)
    yield "alpha", alpha
    red.convert("P", palette=Image.Palette.ADAPTIVE).save(palette)
    yield "palette", palette
    turned = folder / "r.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", SIZE[::-1], RED).save(turned, exif=exif, quality=95)
    yield "EXIF", turned
    animated = folder / "x.webp"
    frames = [Image.new("RGB", SIZE, colour) for colour in (RED, (0, 0, 255))]
    frames[0].save(animated, save_all=True, append_images=frames[1:], lossless=True)
    yield "animated", animated


def test_unusual_images_are_decoded(tmp_path: Path) -> None:
    for kind, path in odd_images(tmp_path):
        image = load_image(path)
        assert (image.mode, image.size) == ("RGB", SIZE), kind
        want = (200, 200, 200) if kind == "16 bit" else RED
        seen = np.asarray(image, dtype=int).mean(axis=(0, 1))
        np.testing.assert_allclose(seen, want, atol=4, err_msg=kind)


def test_transparent_pixels_become_white(tmp_path: Path) -> None:
    Image.new("RGBA", SIZE, (0, 0, 0, 0)).save(tmp_path / "a.png")
    assert np.asarray(load_image(tmp_path / "a.png")).min() == 255


def test_a_folder_named_like_an_image(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "raw")
    path = root / "img_highres" / tree_name("MEN", 3, VIEWS[1])
    path.unlink()
    path.mkdir()
    manifest = prepare(root, tmp_path / "out")
    assert len(manifest["skipped"]) == 1
    assert path.name in manifest["skipped"][0][0]


def test_all_images_broken_is_an_error(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "raw", train=1, test=0)
    for path in (root / "img_highres").rglob("*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(XmdptError, match="nothing usable"):
        prepare(root, tmp_path / "out")
    assert not (tmp_path / "out" / "dataset.json").exists()


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (64, 64), (256, 256)])
def test_fast_pngs_decode_to_the_same_pixels(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for image in (
        rng.integers(0, 256, (*shape, 3), dtype=np.uint8),
        np.zeros((*shape, 3), dtype=np.uint8),
    ):
        decoded = decode_image(fast_png_bytes(image), "it")
        np.testing.assert_array_equal(np.asarray(decoded), image)


def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "raw", train=1, test=0)
    place = tmp_path / "there"
    place.mkdir()
    place.chmod(0o555)
    if os.access(place, os.W_OK):  # root may write anywhere: a file in the way does as well
        place.rmdir()
        place.write_text("a file")
    with pytest.raises(XmdptError, match=r"cannot (write|prepare) into") as error:
        prepare(root, place / "out")
    assert "--out" in error.value.hint


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 kB; needs the right to mount one."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("no right to mount a small file system here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_reported_and_the_run_resumes_with_space(
    tmp_path: Path, small_disk: Path
) -> None:
    root = make_dataset(tmp_path / "raw", train=9)
    with pytest.raises(XmdptError, match=r"cannot write .*tar: No space left") as error:
        prepare(root, small_disk / "out", size=96)
    assert "make room" in error.value.hint
    names = {path.name for path in (small_disk / "out").iterdir()}
    assert "train-000000.tar" in names  # what is done is kept, what is half done is not
    assert not any(name.endswith(".part") for name in names)
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    manifest = prepare(root, small_disk / "out", size=96)
    assert manifest["counts"]["train"]["items"] == 9
    assert len(PairDataset(small_disk / "out")) == 54
