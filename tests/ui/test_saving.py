"""What the page saves says how it was made, as the command's files do."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from xmdpt_cli.images import fast_png_bytes, save_png
from xmdpt_cli.sampling.png_writer import png_text
from xmdpt_cli.ui.files import save_images

FACTS = {"seed": 3, "steps": 50, "source": "person.png", "note": "grün, 人"}


def image(level: int = 90) -> Image.Image:
    made = Image.new("RGB", (22, 32), (level, 80, 70))
    made.info.update(png_text(FACTS))
    return made


def test_an_image_carries_its_recipe_as_the_commands_does(tmp_path: Path) -> None:
    made = image()
    save_png(tmp_path / "a.png", made)
    (tmp_path / "b.png").write_bytes(fast_png_bytes(np.asarray(made), png_text(FACTS)))
    ours, theirs = (Image.open(tmp_path / name) for name in ("a.png", "b.png"))
    assert ours.info == theirs.info
    assert json.loads(ours.info["xmdpt"]) == FACTS
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(made))


def test_nothing_else_of_the_image_is_written(tmp_path: Path) -> None:
    made = image()
    made.info.update({"comment": "/home/someone/person.png", "dpi": (72, 72), "Software": 3})
    save_png(tmp_path / "a.png", made)
    assert set(Image.open(tmp_path / "a.png").info) == {"Source", "xmdpt"}
    save_png(tmp_path / "plain.png", Image.new("RGB", (4, 4)))
    assert Image.open(tmp_path / "plain.png").info == {}


def test_every_image_of_a_zip_carries_it() -> None:
    files, packed = save_images([image(1), image(2)], 7)
    assert [Path(file).name for file in files] == ["xmdpt-seed7.png", "xmdpt-seed7-1.png"]
    with zipfile.ZipFile(packed) as archive:
        assert archive.namelist() == [Path(file).name for file in files]
        for name in archive.namelist():
            with archive.open(name) as file:
                assert json.loads(Image.open(file).info["xmdpt"]) == FACTS
