"""Which images are read, in which kinds of pixels, and that the others are named."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xmdpt_cli.datasets.find import find_dataset
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.images import load_image
from xmdpt_cli.metrics.folders import images_in, pair_folders
from xmdpt_cli.sampling.pose_files import pose_files
from xmdpt_cli.utils import image_types
from xmdpt_cli.utils.image_types import SUFFIXES, open_image, say_not_read

FLAT = np.full((12, 8, 3), (200, 60, 20), np.uint8)
KINDS = {
    "jpg": "JPEG",
    "jpe": "JPEG",
    "jfif": "JPEG",
    "tif": "TIFF",
    "heic": "HEIF",
    "avif": "AVIF",
}


def save(path: Path, pixels: np.ndarray = FLAT) -> Path:
    ending = path.suffix[1:].lower()
    path.parent.mkdir(parents=True, exist_ok=True)
    if ending in ("heic", "heif"):
        pytest.importorskip("pillow_heif").register_heif_opener()
    kind = KINDS.get(ending, ending.upper())
    if kind == "AVIF" and not image_types._has_avif():
        pytest.skip("this Pillow reads no AVIF")
    Image.fromarray(pixels).save(path, kind)
    return path


@pytest.mark.parametrize("ending", [*SUFFIXES, "JPG", "HEIC", "Tif"])
def test_every_type_of_the_list_is_read_by_prepare_and_evaluate(
    tmp_path: Path, ending: str
) -> None:
    folder = tmp_path / "alice"
    files = [save(folder / f"{name}.{ending}") for name in ("front", "side")]
    assert np.abs(np.asarray(load_image(files[0])).astype(int) - FLAT).max() < 12
    listing = find_dataset(tmp_path, strict=True)
    assert listing.images() == 2
    assert listing.problems == []
    assert images_in(folder) == files
    assert pose_files(folder, pytest.fail) == files


UNREAD = ("a.raw", "b.CR2", "c.psd")


def test_prepare_reports_unsupported_types(tmp_path: Path) -> None:
    for name in ("front.png", "side.png"):
        save(tmp_path / "alice" / name)
    for name in (*UNREAD, "front.dng", "notes.txt", "list.csv", ".hidden.raw", "._a.png"):
        (tmp_path / "alice" / name).write_bytes(b"x")
    listing = find_dataset(tmp_path)
    problems = {problem.file: (problem.reason, problem.kept) for problem in listing.problems}
    assert problems == {
        "alice/a.raw": ("not read: images of type .raw", False),
        "alice/b.CR2": ("not read: images of type .cr2", False),
        "alice/c.psd": ("not read: images of type .psd", False),
        "alice/front.dng": ("not read: images of type .dng", True),  # front.png is there
    }
    assert "not usable: 3 x not read (first: alice/a.raw)" in listing.describe()
    with pytest.raises(XmdptError, match=r"alice/a\.raw: not read"):
        find_dataset(tmp_path, strict=True)


def test_prepare_of_deepfashion_reports_unsupported_types(tmp_path: Path) -> None:
    folder = tmp_path / "img_highres" / "WOMEN" / "Dresses" / "id_00000002"
    for name in ("02_1_front.jpg", "02_2_side.jpg"):
        save(folder / name)
    (folder / "02_4_full.cr2").write_bytes(b"x")
    for split in ("train", "test"):
        (tmp_path / f"fasion-resize-pairs-{split}.csv").write_text("from,to\n")
    names = [f"fashionWOMENDressesid0000000202_{view}.jpg" for view in ("1front", "2side")]
    (tmp_path / "fasion-resize-pairs-train.csv").write_text(f"from,to\n{','.join(names)}\n")
    with pytest.raises(XmdptError, match=r"02_4_full\.cr2: not read"):
        find_dataset(tmp_path, detect=True, strict=True)


def test_evaluate_and_pose_folders_report_unsupported_types(tmp_path: Path) -> None:
    for folder in ("g", "t"):
        for name in ("a.png", "b.gif"):
            save(tmp_path / folder / name)
        for name in ("._a.png", ".DS_Store", "Thumbs.db", "samples.json", ".c.raw"):
            (tmp_path / folder / name).write_bytes(b"\0\5\x16\7")
    (tmp_path / "g" / "c.raw").write_bytes(b"x")
    found = pair_folders(tmp_path / "g", tmp_path / "t")
    assert [name for name, _, _ in found.pairs] == ["a", "b"]
    assert found.not_read == [tmp_path / "g" / "c.raw"]
    messages: list[str] = []
    (tmp_path / "g" / "samples.json").unlink()
    assert [p.name for p in pose_files(tmp_path / "g", messages.append)] == ["a.png", "b.gif"]
    assert messages == ["not read: 1 file: c.raw"]
    assert say_not_read([*UNREAD, "d.psd"]) == "not read: 4 files: a.raw, b.CR2, c.psd, ..."


def test_heic_without_its_library_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("front.heic", "side.heic"):
        save(tmp_path / "alice" / name)
    save(tmp_path / "alice" / "back.png")
    save(tmp_path / "alice" / "left.png")
    monkeypatch.setattr(image_types, "has_heif", lambda: False)
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    monkeypatch.delitem(Image.OPEN, "HEIF")
    with pytest.raises(XmdptError, match=r"front\.heic: HEIC images need pillow-heif") as err:
        load_image(tmp_path / "alice" / "front.heic")
    assert "pip install 'xmdpt-cli[heic]'" in err.value.hint
    listing = find_dataset(tmp_path)
    assert listing.images() == 2
    assert all("pip install 'xmdpt-cli[heic]'" in p.reason for p in listing.problems)
    assert len(listing.problems) == 2


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"


@pytest.mark.parametrize("name", ["a.eps", "a.png", "a.jpg"])
def test_eps_is_not_passed_to_another_program(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("it is run"))
    (tmp_path / name).write_bytes(EPS)
    Image.init()
    with Image.open(tmp_path / name) as image:  # Pillow by itself would
        assert image.format == "EPS"
    with pytest.raises(XmdptError, match="not an image"):
        load_image(tmp_path / name)


GREY = np.linspace(0, 65535, 96).reshape(12, 8)


def test_kinds_of_pixels(tmp_path: Path) -> None:
    wanted = np.rint(GREY / 257).astype(int)[..., None].repeat(3, -1)
    for name in ("grey.png", "grey.tif"):
        Image.fromarray(GREY.astype(np.uint16)).save(tmp_path / name)
        found = np.asarray(load_image(tmp_path / name)).astype(int)
        assert np.abs(found - wanted).max() <= 1
    alpha = np.zeros((12, 8), np.uint8)
    alpha[:, 4:] = 255
    la = np.stack([np.full((12, 8), 90, np.uint8), alpha], -1)
    Image.fromarray(la, "LA").save(tmp_path / "la.png")
    found = np.asarray(load_image(tmp_path / "la.png"))
    assert (found[:, :4] == 255).all()
    assert (found[:, 4:] == 90).all()
    Image.fromarray(FLAT).quantize(2).save(tmp_path / "p.png", transparency=bytes([0, 255]))
    assert np.asarray(load_image(tmp_path / "p.png"))[0, 0].tolist() in ([255] * 3, [200, 60, 20])
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg")
    assert np.asarray(load_image(tmp_path / "cmyk.jpg"))[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("pixels", "numbers"),
    [
        (np.linspace(0, 1, 96, dtype=np.float32).reshape(12, 8), "floating-point numbers"),
        (np.full((12, 8), np.nan, np.float32), "floating-point numbers"),
        (np.full((12, 8), 200, np.int32), "32-bit numbers"),
    ],
)
def test_pixels_of_an_unknown_range_are_refused(
    tmp_path: Path, pixels: np.ndarray, numbers: str
) -> None:
    Image.fromarray(pixels).save(tmp_path / "x.tif")
    with pytest.raises(XmdptError, match=f"x.tif: its pixels are {numbers}") as err:
        load_image(tmp_path / "x.tif")
    assert "8 or 16 bits" in err.value.hint


@pytest.mark.parametrize("kind", ["gif", "webp", "png", "tif"])
def test_the_first_frame_of_an_animation_is_used_with_a_warning(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    frames = [Image.fromarray(FLAT), Image.new("RGB", (8, 12))]
    path = tmp_path / f"moving.{kind}"
    more = {"lossless": True} if kind == "webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], **more)
    with caplog.at_level(logging.WARNING):
        found = np.asarray(load_image(path))
    assert np.abs(found.astype(int) - FLAT).max() < 8
    assert caplog.messages == [f"{path} holds several frames: the first one is used"]
    caplog.clear()
    load_image(save(tmp_path / f"still.{kind}"))
    assert caplog.messages == []


def test_bytes_are_opened_as_files_are() -> None:
    stream = io.BytesIO()
    Image.fromarray(FLAT).save(stream, "PNG")
    with open_image(stream.getvalue()) as image:
        assert image.size == (8, 12)
