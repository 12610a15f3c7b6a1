"""Images that the page saves have the metadata of images that the command saves."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from xmdpt_cli.images import fast_png_bytes, save_png
from xmdpt_cli.sampling.png_writer import png_text
from xmdpt_cli.ui.files import save_images

METADATA = {"seed": 3, "steps": 50, "source": "person.png", "note": "grün, 人"}


def image(level: int = 90) -> Image.Image:
    made = Image.new("RGB", (22, 32), (level, 80, 70))
    made.info.update(png_text(METADATA))
    return made


def test_a_saved_image_has_the_same_metadata_as_one_of_the_command(tmp_path: Path) -> None:
    made = image()
    save_png(tmp_path / "a.png", made)
    (tmp_path / "b.png").write_bytes(fast_png_bytes(np.asarray(made), png_text(METADATA)))
    saved, expected = (Image.open(tmp_path / name) for name in ("a.png", "b.png"))
    assert saved.info == expected.info
    assert json.loads(saved.info["xmdpt"]) == METADATA
    np.testing.assert_array_equal(np.asarray(saved), np.asarray(made))


def test_other_metadata_of_an_image_is_not_saved(tmp_path: Path) -> None:
    made = image()
    made.info.update({"comment": "/home/someone/person.png", "dpi": (72, 72), "Software": 3})
    save_png(tmp_path / "a.png", made)
    assert set(Image.open(tmp_path / "a.png").info) == {"Source", "xmdpt"}
    save_png(tmp_path / "plain.png", Image.new("RGB", (4, 4)))
    assert Image.open(tmp_path / "plain.png").info == {}


def test_every_image_of_a_zip_has_the_metadata() -> None:
    files, packed = save_images([image(1), image(2)], 7)
    assert [Path(file).name for file in files] == ["xmdpt-seed7.png", "xmdpt-seed7-1.png"]
    with zipfile.ZipFile(packed) as archive:
        assert archive.namelist() == [Path(file).name for file in files]
        for name in archive.namelist():
            with archive.open(name) as file:
                assert json.loads(Image.open(file).info["xmdpt"]) == METADATA
