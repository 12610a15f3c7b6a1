"""Animations, read back with Pillow and OpenCV."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.sampling import animation
from xmdpt_cli.sampling.animation import check_animation, write_animation

Frames = list[NDArray[np.uint8]]


def frames(count: int = 6, height: int = 64, width: int = 44) -> Frames:
    """One grey per image, distinguishable after compression."""
    return [np.full((height, width, 3), 30 + 35 * i, np.uint8) for i in range(count)]


def video(path: Path) -> tuple[float, list[int], tuple[int, ...]]:
    """(images a second, their greys, their shape)."""
    capture = cv2.VideoCapture(str(path))
    found = []
    while (read := capture.read())[0]:
        found.append(read[1])
    fps = capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    return fps, [int(one.mean()) for one in found], found[0].shape


@pytest.mark.parametrize("suffix", [".webp", ".gif", ".GIF", ".WebP"])
def test_pillow_reads_webp_and_gif(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "new" / f"a walk 100% #1 %02d é{suffix}"
    write_animation(path, frames(), fps=10)
    with Image.open(path) as image:
        assert (image.n_frames, image.size) == (6, (44, 64))  # type: ignore[attr-defined]
        assert image.info["loop"] == 0
        for i in range(6):
            image.seek(i)
            image.load()
            assert image.info["duration"] == 100
            assert np.asarray(image.convert("RGB")).mean() == pytest.approx(30 + 35 * i, abs=3)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["walk.mp4", "WALK.MP4", "100% %02d #1 é.mp4", "x" * 251 + ".mp4"])
def test_opencv_reads_mp4(tmp_path: Path, name: str) -> None:
    write_animation(tmp_path / name, frames(), fps=12.5)
    fps, greys, shape = video(tmp_path / name)
    assert fps == pytest.approx(12.5)
    np.testing.assert_allclose(greys, [30 + 35 * i for i in range(6)], atol=6)
    assert shape == (64, 44, 3)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_odd_sizes_and_a_single_image(tmp_path: Path) -> None:
    write_animation(tmp_path / "odd.mp4", frames(3, 33, 23), fps=5)
    assert video(tmp_path / "odd.mp4")[2] == (32, 22, 3)  # 4:2:0 needs even sides
    for name in ("odd.gif", "odd.webp"):
        write_animation(tmp_path / name, frames(3, 33, 23), fps=5)
        assert Image.open(tmp_path / name).size == (23, 33)
    for suffix in (".mp4", ".gif", ".webp"):
        write_animation(tmp_path / f"one{suffix}", frames(1), fps=12)
        assert (tmp_path / f"one{suffix}").stat().st_size


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    for name in ("walk.avi", "walk", "walk.mp4.part"):
        with pytest.raises(ConfigError, match=name) as err:
            check_animation(Path(name))
        assert ".webp, .gif, .mp4" in err.value.hint
        with pytest.raises(ConfigError):
            write_animation(tmp_path / name, frames(), 12)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_keeps_the_old_animation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "walk.mp4"
    path.write_bytes(b"before")
    monkeypatch.setattr(animation, "_frames", lambda _: 2)  # what a full disk leaves of it
    with pytest.raises(XmdptError, match="2 of 6 images are in it"):
        write_animation(path, frames(), 12)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
    (tmp_path / "folder.gif").mkdir()
    with pytest.raises(XmdptError, match=r"cannot write .*folder\.gif"):
        write_animation(tmp_path / "folder.gif", frames(), 12)
    with pytest.raises(XmdptError, match="cannot write"):
        write_animation(path / "below_a_file.gif", frames(), 12)


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_a_killed_write_leaves_no_animation(tmp_path: Path, suffix: str) -> None:
    """No file of that name; the next attempt leaves no other file."""
    path = tmp_path / f"walk{suffix}"
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from xmdpt_cli.sampling.animation import write_animation\n"
        "images = [np.full((64, 44, 3), i, np.uint8) for i in range(0, 250, 50)]\n"
        "Path.replace = lambda *_: os._exit(9)\n"
        f"write_animation(Path({str(path)!r}), images, 12)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert done.returncode == 9, done.stderr
    assert not path.exists()
    assert len(list(tmp_path.iterdir())) == 1
    write_animation(path, frames(), 12)
    assert list(tmp_path.iterdir()) == [path]
