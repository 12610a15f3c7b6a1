"""The report of a prepared dataset: numbers, HTML, images, and the same bytes every time."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from encoder_records import encoder_records
from fake_dataset import FakeEncoder, make_dataset
from html_reader import Reader
from PIL import Image

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.datasets.find import find_dataset
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.pose.drawing import COLOURS
from xmdpt_cli.pose.keypoints import JOINTS
from xmdpt_cli.prepare.pipeline import prepare_dataset
from xmdpt_cli.prepare.verify import check_dataset
from xmdpt_cli.progress import silent
from xmdpt_cli.report.charts import MAX_BARS, bins, histogram
from xmdpt_cli.report.dataset_page import write_report
from xmdpt_cli.report.dataset_sheet import CELL, make_strip, with_joints
from xmdpt_cli.report.dataset_statistics import evenly_spaced, group_skipped, split_statistics
from xmdpt_cli.storage.stores import LocalStore


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    root = make_dataset(folder / "raw")
    prepare_dataset(find_dataset(root), folder / "out", size=32, encoder=FakeEncoder())
    return folder / "out"


@pytest.fixture
def out(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "out"))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer pairs to render, for tests that do not check them."""
    monkeypatch.setattr("xmdpt_cli.report.dataset_page.TRAIN_PAIRS", 2)
    monkeypatch.setattr("xmdpt_cli.report.dataset_page.TEST_PAIRS", 1)


def edit_manifest(out: Path, **change: Any) -> None:
    manifest = json.loads((out / "dataset.json").read_text())
    (out / "dataset.json").write_text(json.dumps({**manifest, **change}))


def page(out: Path) -> str:
    write_report(LocalStore(out))
    return (out / "report.html").read_text("utf-8")


def test_the_page_shows_the_dataset(out: Path) -> None:
    seen: list[tuple[int, int]] = []
    names = write_report(LocalStore(out), lambda s, d, t, /, **_: seen.append((d, t)))
    assert names == ["sheet.png", "report.html"]
    assert (seen[0], seen[-1], len(seen)) == ((0, 19), (19, 19), 20)
    text = (out / "report.html").read_text("utf-8")
    reader = Reader(text)
    assert reader.tags["img"] == 24 + 2  # of 30 training and 2 test pairs
    assert reader.tags["script"] == 0
    assert all(source.startswith("data:image/jpeg;base64,") for source in reader.sources)
    assert "http" not in re.sub(r"base64,[^\"]*", "", text)
    for fact in ("32 pairs", "30 train · 2 test", "7 items", "19 images", "32 px"):
        assert fact in re.sub(r"\s+", " ", reader.text), fact
    assert "train, 3: 5 items (100.0%)" in reader.text
    assert "every listed image is in the dataset" in reader.text
    shards = json.loads((out / "dataset.json").read_text())["shards"]
    assert all(shard["sha256"] in reader.text for shard in shards)
    assert check_dataset(LocalStore(out)).findings == []  # the report belongs to the folder


@pytest.mark.usefixtures("few")
def test_the_same_dataset_gives_the_same_bytes(prepared: Path, tmp_path: Path) -> None:
    made = []
    for name in ("here", "there"):
        copy = Path(shutil.copytree(prepared, tmp_path / name))
        write_report(LocalStore(copy))
        write_report(LocalStore(copy))  # over what is there
        made.append([(copy / file).read_bytes() for file in ("sheet.png", "report.html")])
    assert made[0] == made[1]
    assert not list((tmp_path / "here").glob("*.part"))


@pytest.mark.usefixtures("few")
def test_toy_results_are_marked(out: Path) -> None:
    assert "Toy encoders." in page(out)
    edit_manifest(out, toy=False)
    assert "Toy encoders." not in page(out)


@pytest.mark.usefixtures("few")
def test_names_are_escaped(out: Path) -> None:
    nasty = 'MEN/<script>alert(1)</script>/"T&S"\'ü名/02_1_front.jpg'
    network = {"kind": "local", "id": "/data/<b>&", "toy": False, "sha256": "a", "dtype": "float32",
               "revision": None, "scale": 1.0, "factor": 8, "channels": 4}  # fmt: skip
    edit_manifest(
        out,
        skipped=[[nasty, "broken image: <i>x</i>"], ["byte \ufffd", "<gone>"]],
        encoders={**encoder_records(), "vae": network},
        settings={"tokens": "<fp8>"},
    )
    reader = Reader(page(out))
    # the page itself has six tiles and three legends of two
    assert (reader.tags["script"], reader.tags["b"], reader.tags["i"]) == (0, 6, 6)
    assert reader.text.count(nasty) == 2  # among the first of its reason, and in the list
    for text in ("such as: broken image: <i>x</i>", "/data/<b>&", "<fp8>", "<gone>"):
        assert text in reader.text, text


@pytest.mark.usefixtures("few")
def test_networks_and_settings_are_described(out: Path) -> None:
    network = {
        "kind": "toy", "id": "toy-vae", "sha256": "ab" * 32, "dtype": "float32", "toy": True,
        "revision": None, "scale": 0.5, "factor": 4, "channels": 4, "new_key": 7,
    }  # fmt: skip
    edit_manifest(
        out,
        encoders={**encoder_records(), "vae": network},
        poses={"kind": "listed"},
        tokens="bf16",
        other={"some_new": {"thing": 3}},
    )
    text = page(out)
    made = text[text.index("<h2>Made with</h2>") : text.index("<h2>Shards</h2>")]
    for raw in ("toy: ", "encoders.toy", "poses.kind", "listed<", "some_new", "new_key"):
        assert raw not in made, raw
    read = Reader(made)
    assert read.tables[0][1][0] == "VAE"
    assert read.tables[0][1][3].startswith("latent scale: 0.5")
    assert ["keypoints", "from the lists of the dataset"] in read.tables[1]
    assert ["number format of the tokens", "bf16"] in read.tables[1]
    assert ["other some new thing", "3"] in read.tables[1]
    # on a phone a row's cells stand below each other, each with its column's name
    assert 'class="stacked"' in made
    assert (
        f'<td data-name="Weights"><code>toy-vae</code> (toy)<small>sha256 <code>{"ab" * 32}' in made
    )


@pytest.mark.usefixtures("few")
def test_reasons_are_counted(out: Path) -> None:
    skipped = [[f"{i}.jpg", f"broken image: {i}.jpg (cut)"] for i in range(1200)]
    skipped += [["a.jpg", "listed image not found"]]
    groups = group_skipped(skipped)
    assert [(g.reason, g.count) for g in groups] == [
        ("broken image", 1200),
        ("listed image not found", 1),
    ]
    assert groups[0].examples[0] == ("0.jpg", "broken image: 0.jpg (cut)")
    edit_manifest(out, skipped=skipped)
    text = Reader(page(out)).text
    assert "999.jpg" in text
    assert "1000.jpg" not in text
    assert "and 201 more: all are in dataset.json" in text


def test_statistics_are_counted_from_the_keypoints(prepared: Path) -> None:
    dataset = PairDataset(prepared, "train")
    found = split_statistics(dataset, silent, 0, 0)
    there = np.stack([
        np.isfinite(dataset.keypoints(key, view)).all(axis=1) for key, view in dataset.views()
    ])  # fmt: skip
    assert found.seen == there.sum(axis=0).tolist()
    assert found.joints_per_image == Counter(there.sum(axis=1).tolist())
    assert (found.items, found.images, found.pairs) == (5, 15, 30)
    assert found.views_per_item == {3: 5}
    assert found.pairs_per_item == {6: 5}


@pytest.mark.usefixtures("few")
def test_a_single_split_and_an_unfinished_dataset(tmp_path: Path) -> None:
    root, out = make_dataset(tmp_path / "raw", test=0), tmp_path / "out"
    prepare_dataset(find_dataset(root), out, size=32, encoder=FakeEncoder())
    reader = Reader(page(out))
    assert "Train pairs" in reader.text
    assert "Test pairs" not in reader.text
    (out / "dataset.json").unlink()
    with pytest.raises(XmdptError, match="not finished"):
        write_report(LocalStore(out))


@pytest.mark.usefixtures("few")
def test_the_sheet_shows_the_pairs_it_names(prepared: Path, out: Path) -> None:
    write_report(LocalStore(out))
    sheet = np.asarray(Image.open(out / "sheet.png"))
    dataset = PairDataset(prepared, "train")
    for pair in (dataset.pairs[0], dataset.pairs[-1]):  # the first and the last are among them
        strip = make_strip(dataset, pair).image
        _, _, (left, top), _ = cv2.minMaxLoc(cv2.matchTemplate(sheet, strip, cv2.TM_SQDIFF))
        height, width = strip.shape[:2]
        assert (sheet[top : top + height, left : left + width] == strip).all()
    source = dataset.image(dataset.pairs[0].key, dataset.pairs[0].source)
    strip = make_strip(dataset, dataset.pairs[0])
    shown = cv2.resize(strip.image[:, :CELL], (32, 32), interpolation=cv2.INTER_AREA)
    assert np.abs(shown.astype(int) - source).mean() < 12  # enlarged and reduced again
    assert strip.views == f"{dataset.pairs[0].source} > {dataset.pairs[0].target}"


@pytest.mark.parametrize("side", [64, 256, 512])
def test_joints_are_rendered_at_their_place(side: int) -> None:
    points = np.full((len(JOINTS), 2), np.nan)
    points[4] = (0.25 * side, 0.75 * side)
    shown = with_joints(np.full((side, side, 3), 200, np.uint8), points)
    assert shown.shape == (CELL, CELL, 3)
    assert tuple(shown[round(0.75 * CELL), round(0.25 * CELL)]) == COLOURS[4][::-1]
    assert tuple(shown[0, 0]) == (80, 80, 80)  # dimmed


def test_pairs_are_spread_over_the_list() -> None:
    assert evenly_spaced(range(101_966), 3) == [0, 50_982, 101_965]
    assert evenly_spaced(range(3), 8) == [0, 1, 2]
    assert evenly_spaced(range(9), 1) == [0]
    assert evenly_spaced([], 8) == []


def test_long_histograms_are_put_into_bins() -> None:
    assert bins([Counter({2: 5, 4: 1})]) == [range(2, 3), range(3, 4), range(4, 5)]
    places = bins([Counter({1: 5}), Counter({90: 1})])
    assert len(places) <= MAX_BARS
    assert [value for place in places for value in place][:90] == list(range(1, 91))
    assert bins([Counter()]) == [range(1)]
    chart = histogram(["train"], [Counter({1: 3, 90: 1})], "items", "a label")
    assert "train, 1–5: 3 items (75.0%)" in chart


def test_real_sample(shared: Callable[[str], Path], tmp_path: Path) -> None:
    listing = find_dataset(shared("deepfashion_sample"))
    prepare_dataset(listing, tmp_path, size=128, encoder=FakeEncoder())
    text = page(tmp_path)
    assert Reader(text).tags["img"] == 24 + 8
    assert len(text) < 2_000_000
