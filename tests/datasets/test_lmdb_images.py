"""PIDM's LMDB environments as the source of images."""

from __future__ import annotations

import io
import multiprocessing
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fake_dataset import make_dataset
from PIL import Image

from xmdpt_cli.datasets.find import Listing, find_dataset
from xmdpt_cli.datasets.lmdb_images import LmdbImage
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.utils.deepfashion_names import parse_name

lmdb = pytest.importorskip("lmdb")


def pack(
    images: Path, folder: Path, key_of: Callable[[str], str], size: int = 256, form: str = "PNG"
) -> None:
    """An environment of the images below ``images``, squashed, with keys made of paths."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = lmdb.open(str(folder), map_size=2**28)
    with environment.begin(write=True) as transaction:
        for path in sorted(images.rglob("*.jpg")):
            stream = io.BytesIO()
            Image.open(path).resize((size, size)).save(stream, form)
            name = path.relative_to(images).as_posix()
            transaction.put(key_of(name).encode(), stream.getvalue())
        transaction.put(b"length", b"21")
    environment.close()


def pixels(listing: Listing) -> dict[str, np.ndarray]:
    return {
        f"{g.key}/{view}": np.asarray(image.load())
        for g in listing.items
        for view, image in g.views.items()
    }


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    root = make_dataset(tmp_path / "root")
    pack(root / "img_highres", root / "256-256", lambda name: f"256-img/{name}")
    (root / "img_highres").rename(tmp_path / "images")
    return root


@pytest.mark.parametrize(
    "key_of",
    [
        lambda name: name,
        lambda name: f"img/{name}",
        lambda name: f"256-{name}",
        lambda name: parse_name(name).flat,
        lambda name: f"256-{parse_name(name).flat.removesuffix('.jpg')}",
    ],
)
def test_keys_in_any_usual_form(tmp_path: Path, key_of: Callable[[str], str]) -> None:
    root = make_dataset(tmp_path)
    from_files = find_dataset(root)
    pack(root / "img_highres", root / "256-256", key_of)
    assert find_dataset(root).digest() == from_files.digest()  # full-size files come first
    shutil.rmtree(root / "img_highres")
    listing = find_dataset(root)
    assert listing.notes[0].startswith("PIDM LMDB 256-256, pairs CSV")
    assert any("'length'" in note for note in listing.notes)
    assert [(g.key, list(g.views), g.pairs) for g in listing.items] == [
        (g.key, list(g.views), g.pairs) for g in from_files.items
    ]
    assert not listing.problems
    assert {p.shape for p in pixels(listing).values()} == {(256, 256, 3)}


def test_images_equal_the_stored_ones(packed: Path, tmp_path: Path) -> None:
    listing = find_dataset(packed)
    for item in listing.items:
        for image in item.views.values():
            path = tmp_path / "images" / image.name.removeprefix("256-256/256-img/")
            want = np.asarray(Image.open(path).resize((256, 256)))
            np.testing.assert_array_equal(np.asarray(image.load()), want)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_references_can_be_pickled_to_other_processes(packed: Path, method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    listing = find_dataset(packed)
    images = [p for g in listing.items for p in g.views.values()]
    assert all(len(pickle.dumps(image)) < 500 for image in images)
    here = [image.load() for image in images]  # the environment is open in this process
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(LmdbImage.load, images * 5)) == here * 5
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(LmdbImage.load, images) == here
    assert [image.load() for image in images] == here


def test_the_environment_of_the_largest_wanted_size(packed: Path, tmp_path: Path) -> None:
    pack(tmp_path / "images", packed / "512-512", lambda name: name, 512, "JPEG")
    pack(tmp_path / "images", packed / "64-64", lambda name: name, 64, "JPEG")
    (packed / "1024-1024").mkdir()  # holds no environment
    for sizes, want in (((256,), 256), ((256, 512), 512), ((64,), 64), ((1024,), 512)):
        listing = find_dataset(packed, sizes=sizes)
        assert {p.shape[0] for p in pixels(listing).values()} == {want}
        noted = any(f"no environment of size {max(sizes)}" in note for note in listing.notes)
        assert noted == (want != max(sizes))


def test_lmdb_is_preferred_to_padded_files(shared: Callable[[str], Path], packed: Path) -> None:
    sample = shared("deepfashion_lowres_sample")
    (packed / "img").symlink_to(sample / "img")
    listing = find_dataset(packed)
    assert listing.notes[0].startswith("PIDM LMDB 256-256")
    assert "images not used: raw img" in listing.notes


def test_padded_images_in_lmdb_are_cut(shared: Callable[[str], Path], tmp_path: Path) -> None:
    sample = shared("deepfashion_lowres_sample") / "img"
    names = iter(f"MEN/Denim/id_{i // 2:08d}/01_{i % 2}_front.jpg" for i in range(8))
    pack(sample, tmp_path / "256-256", lambda _: next(names))
    (tmp_path / "train_pairs.txt").write_text(
        "MEN/Denim/id_00000000/01_0_front.jpg,MEN/Denim/id_00000000/01_1_front.jpg\n"
    )
    listing = find_dataset(tmp_path)
    assert {p.shape for p in pixels(listing).values()} == {(256, 174, 3)}
    first = np.asarray(Image.open(sorted(sample.rglob("*.jpg"))[0]))
    np.testing.assert_array_equal(
        pixels(listing)["MEN-Denim-id_00000000-01/0_front"], first[:, 41:215]
    )


def test_lmdb_without_lists_by_item(packed: Path) -> None:
    for path in packed.glob("*pairs*"):
        path.unlink()
    with pytest.raises(XmdptError, match="no list of pairs"):
        find_dataset(packed)
    listing = find_dataset(packed, layout="people")
    assert listing.images() == 21
    assert listing.without_keypoints() == 0
    assert {p.shape for p in pixels(listing).values()} == {(256, 256, 3)}


def test_missing_and_broken_images_are_reported(packed: Path, tmp_path: Path) -> None:
    gone = "256-img/MEN/Tees_Tanks/id_00000001/01_1_front.jpg"
    environment = lmdb.open(str(packed / "256-256"), map_size=2**28)
    with environment.begin(write=True) as transaction:
        transaction.delete(gone.encode())
        transaction.put(gone.replace("1_front", "2_side").encode(), b"\x89PNG no more")
    environment.close()
    listing = find_dataset(packed)
    name = gone.removeprefix("256-img/")
    assert {p.file: p.reason for p in listing.problems} == {name: "listed image not found"}
    with pytest.raises(XmdptError, match="not an image") as error:
        listing.items[0].views["2_side"].load()
    assert listing.items[0].views["2_side"].where in error.value.message
    with pytest.raises(XmdptError, match="no such image"):
        LmdbImage("x", str(packed / "256-256"), gone.encode(), 1).load()


def test_invalid_environments_are_refused(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = packed / "512-512"
    shutil.copytree(packed / "256-256", other)
    data = (packed / "256-256" / "data.mdb").read_bytes()
    for content, message in (
        (b"", "not an LMDB environment"),
        (b"x" * 9000, "not an LMDB environment"),
        (data[: len(data) // 8], "cut off"),
    ):
        (other / "data.mdb").write_bytes(content)
        with pytest.raises(XmdptError, match=message):
            find_dataset(packed, sizes=(512,))
    shutil.rmtree(other)
    environment = lmdb.open(str(other), map_size=2**24)
    with environment.begin(write=True) as transaction:
        transaction.put(b"512-00001", b"")
    environment.close()
    with pytest.raises(XmdptError, match=r"no key .* such as '512-00001'"):
        find_dataset(packed, sizes=(512,))
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(XmdptError, match="need the lmdb library") as error:
        find_dataset(packed)
    assert error.value.hint == "pip install 'xmdpt-cli[lmdb]'"


def test_a_damaged_environment_is_reported_without_a_crash(packed: Path) -> None:
    """Random bytes in its pages: the library itself would end the process that reads them."""
    file = packed / "256-256/data.mdb"
    whole = file.read_bytes()
    random = np.random.Generator(np.random.PCG64(0))
    outcomes = set()
    for _ in range(12):
        data = bytearray(whole)
        for at in random.integers(8192, len(data), 2000):
            data[at] = random.integers(0, 256)
        file.write_bytes(data)
        command = [sys.executable, "-c", READ, str(packed)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done
        outcomes.add("damaged" in done.stdout or "cannot read" in done.stdout)
    assert True in outcomes  # the damage was such


READ = """
import sys
from xmdpt_cli.datasets.lmdb_images import read_environment
from pathlib import Path
from xmdpt_cli.errors import XmdptError
try:
    found, _ = read_environment(Path(sys.argv[1]), "256-256", 256)
    for images in found.values():
        for image in images:
            image.stored_bytes()
except XmdptError as err:
    print(err.message)
"""
