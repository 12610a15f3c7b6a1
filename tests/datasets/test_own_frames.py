"""The frame of keypoints of one's own images: ``annotations.csv``, and files beside the images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conventions import Move, scaled, text_of
from test_annotation_frames import PADDING, own

from xmdpt_cli.datasets.find import Listing, find_dataset
from xmdpt_cli.errors import ConfigError, XmdptError

PORTRAIT = (375, 550)
Names = dict[str, np.ndarray]


def named(wanted: np.ndarray) -> Names:
    """In the 176 x 256 frame, by the images' names."""
    return {f"person {i % 3}/{i}.jpg": points * (176, 256) for i, points in enumerate(wanted)}


def beside(root: Path, wanted: np.ndarray, move: Move, ending: str = ".txt") -> None:
    for name, points in named(wanted).items():
        path = (root / name).with_suffix(ending)
        if ending == ".csv":
            path.write_text(text_of({Path(name).name: points}, move))
        else:
            np.savetxt(path, np.nan_to_num(move(points), nan=-1))


def check(listing: Listing, wanted: np.ndarray) -> None:
    assert listing.without_keypoints() == 0
    for item in listing.items:
        for view, points in item.keypoints.items():
            np.testing.assert_allclose(points, wanted[int(view)], atol=0.01)


@pytest.mark.parametrize("size", [PORTRAIT, (300, 400)])
@pytest.mark.parametrize("count", [6, 40])
@pytest.mark.parametrize("move", [PADDING, scaled(176, 256)])
def test_the_padded_frame_of_annotations(
    tmp_path: Path, move: Move, count: int, size: tuple[int, int]
) -> None:
    wanted = own(tmp_path, count, size)
    (tmp_path / "annotations.csv").write_text(text_of(named(wanted), move))
    check(find_dataset(tmp_path), wanted)


def test_pixels_of_square_images_are_not_the_padded_frame(tmp_path: Path) -> None:
    wanted = own(tmp_path, 6, (256, 256))
    (tmp_path / "annotations.csv").write_text(text_of(named(wanted), scaled(256, 256)))
    check(find_dataset(tmp_path), wanted)


@pytest.mark.parametrize(
    ("move", "frame"),
    [
        (PADDING, "256x256 padded"),
        (scaled(176, 256), "256x176"),
        (scaled(*PORTRAIT), "pixels of the images"),
    ],
)
@pytest.mark.parametrize("ending", [".txt", ".csv"])
def test_files_beside_the_images(tmp_path: Path, ending: str, move: Move, frame: str) -> None:
    wanted = own(tmp_path, 12, PORTRAIT)
    beside(tmp_path, wanted, move, ending)
    listing = find_dataset(tmp_path)
    check(listing, wanted)
    [note] = [note for note in listing.notes if "files beside the images" in note]
    assert note.startswith(f"keypoints: {ending} files beside the images, frame {frame}")


@pytest.mark.parametrize("ending", [".txt", ".csv"])
def test_scaled_missing_joints_beside_images_are_reported(tmp_path: Path, ending: str) -> None:
    wanted = own(tmp_path, 12, PORTRAIT)
    wanted[:, 4] = np.nan

    def scaled_too(points: np.ndarray) -> np.ndarray:
        return np.nan_to_num(points, nan=-1) * np.divide(PORTRAIT, (176, 256))

    rows = {}
    for name, points in named(wanted).items():
        rows[name] = scaled_too(points)
        path = (tmp_path / name).with_suffix(ending)
        if ending == ".csv":
            path.write_text(text_of({path.name: rows[name]}, decimals=3))
        else:
            np.savetxt(path, rows[name])
    listing = find_dataset(tmp_path)
    check(listing, wanted)
    [note] = [note for note in listing.notes if "taken as not seen" in note]
    assert "(-2.13, -2.15)" in note
    assert "so in 11 more of the files" in note


def test_the_frame_option_applies_to_files_beside_images(tmp_path: Path) -> None:
    wanted = own(tmp_path, 6, PORTRAIT)
    beside(tmp_path, wanted * (0.5, 1) + (0.4, 0), scaled(176, 256))  # at the right
    listing = find_dataset(tmp_path, frame="256x176")
    check(listing, wanted * (0.5, 1) + (0.4, 0))
    assert any("beside the images, frame 256x176 (by --frame" in n for n in listing.notes)


def test_the_frame_option_is_refused_for_json(tmp_path: Path) -> None:
    wanted = own(tmp_path, 6, PORTRAIT)
    for name, points in named(wanted).items():
        text = str([[float(x), float(y)] for x, y in points]).replace("[nan, nan]", "null")
        path = (tmp_path / name).with_suffix(".json")
        path.write_text(f'{{"keypoints": {text}, "width": 176, "height": 256}}')
    check(find_dataset(tmp_path), wanted)
    with pytest.raises(ConfigError, match=r"--frame 256x176 does not apply to JSON .*0\.json"):
        find_dataset(tmp_path, frame="256x176")


@pytest.mark.parametrize("spelled", ["./{}", "{}", "././{}"])
@pytest.mark.parametrize("separator", ["/", "\\"])
def test_names_in_the_forms_of_other_systems(tmp_path: Path, spelled: str, separator: str) -> None:
    wanted = own(tmp_path, 6)
    rows = {spelled.format(n).replace("/", separator): p for n, p in named(wanted).items()}
    (tmp_path / "annotations.csv").write_text(text_of(rows, scaled(300, 400)))
    check(find_dataset(tmp_path), wanted)


def test_annotations_of_no_image_are_an_error(tmp_path: Path) -> None:
    rows = {f"elsewhere/{name}": points for name, points in named(own(tmp_path, 6)).items()}
    (tmp_path / "annotations.csv").write_text(text_of(rows, scaled(300, 400)))
    with pytest.raises(XmdptError, match="none of its 6 rows names an image") as error:
        find_dataset(tmp_path)
    assert "elsewhere/person 0/0.jpg" in error.value.message
    assert "as person 0/0.jpg" in error.value.hint
