"""The whole way with own people: folders named as people name them, to metrics."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stick_people import FIGURE
from toy_models import leaning, person, write_pose

from xmdpt_cli.cli.app import run
from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.data.table import PairRef
from xmdpt_cli.metrics.folders import pair_folders
from xmdpt_cli.sampling.sample_names import sample_name, sample_names

Capture = pytest.CaptureFixture[str]
ZOE = "Zoë Müller"
PEOPLE = [
    "grace",
    "Grace",  # another one
    unicodedata.normalize("NFC", ZOE),
    unicodedata.normalize("NFD", ZOE),  # looks the same, and is another folder on Linux
    "Dr. J. O'Neil (2)",
    "李小龍 👍",
    "a" * 120,
    "a" * 119 + "b",  # differs where names are cut
    "team 1/anna.b",
    "CON",
    "-rf $HOME; `x`",
    "_2_",
    "WOMEN-Dresses-id_00000002-02",
]
VIEWS = ["front.png", "the sïde.v2.png", "ce_side.png"]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """raw/, prepared with toy encoders into data/, and a model trained on it for two steps."""
    work = tmp_path_factory.mktemp("own people")
    for number, name in enumerate(PEOPLE):
        folder = work / "raw" / name
        folder.mkdir(parents=True)
        for at, view in enumerate(VIEWS):
            image = np.asarray(person()).copy()
            image[:8, :8] = (18 * number, 90 * at, 50)
            Image.fromarray(image).save(folder / view)
            points = FIGURE if at == 0 else leaning(0.05 * at)
            write_pose(folder / f"{Path(view).stem}.json", points)
    ok("prepare", "--root", work / "raw", "--out", work / "data", "--encoders", "toy",
       "--resolution", 32, "--vae-steps", 3)  # fmt: skip
    ok("train", "--data", work / "data", "--out", work / "run", "--preset", "demo/tokens-64",
       "--steps", 2, "--batch-size", 4)  # fmt: skip
    return work


def ok(*arguments: object) -> None:
    assert run([str(a) for a in arguments]) == 0


@pytest.mark.parametrize("split", ["test", "train"])
def test_own_people_from_folders_to_metrics(
    split: str, work: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "samples"
    data = ["--data", work / "data", "--split", split]
    ok("sample", *data, "--model", work / "run/model", "--out", out, "--steps", 1)
    pairs = PairDataset(work / "data", split).pairs
    names = sample_names(pairs)
    there = {path.name for path in out.glob("*.png")} - {"sheet.png"}
    assert there == set(names)
    assert len({name.casefold() for name in names}) == len(pairs)
    assert all(name.isascii() and len(name) < 200 for name in names)
    for pair, name in zip(pairs, names, strict=True):  # each is of its own pair
        with Image.open(out / name) as image:
            assert json.loads(image.info["xmdpt"])["pair"] == pair.name()
    capsys.readouterr()
    off = ["--alexnet-weights", "off", "--inception-weights", "off", "--json"]
    ok("evaluate", *data, "--generated", out, *off)
    report = json.loads(capsys.readouterr().out)
    assert report["counts"]["generated"] == len(pairs)
    assert {"ssim_256", "psnr", "l1"} <= set(report["rows"]["generated"])
    # again, from where it was: nothing is missing, nothing is made anew
    before = {name: (out / name).stat().st_mtime_ns for name in names}
    ok("sample", *data, "--model", work / "run/model", "--out", out, "--steps", 1)
    assert {name: (out / name).stat().st_mtime_ns for name in names} == before


def test_every_person_is_prepared(work: Path) -> None:
    keys = {
        pair.key for split in ("train", "test") for pair in PairDataset(work / "data", split).pairs
    }
    assert len(keys) == len(PEOPLE)


def test_a_model_is_evaluated_on_own_people(work: Path, tmp_path: Path, capsys: Capture) -> None:
    off = ["--alexnet-weights", "off", "--inception-weights", "off"]
    ok("evaluate", "--model", work / "run", "--data", work / "data", "--out", tmp_path / "r.json",
       "--limit", 2, *off)  # fmt: skip
    assert json.loads((tmp_path / "r.json").read_text())["counts"]["generated"] > 0


def test_a_list_of_own_people(work: Path, tmp_path: Path, capsys: Capture) -> None:
    """Two rows whose names become the same file get different names."""
    rows = ["source,pose"]
    for name in PEOPLE[2:6]:
        image = work / "raw" / name / "front.png"
        rows.append(f'"{image}","{image.with_name("ce_side.json")}"')
    (tmp_path / "list.csv").write_text("\n".join(rows), encoding="utf-8")
    out = tmp_path / "out"
    ok("sample", "--model", work / "run/model", "--pairs", tmp_path / "list.csv", "--out", out,
       "--steps", 1)  # fmt: skip
    made = {path.name for path in out.glob("*.png")} - {"sheet.png"}
    assert len(made) == 4
    assert "front_in_ce_side.png" in made


def test_a_model_contains_no_paths_of_this_machine(work: Path) -> None:
    """The networks are found all the same (as above): the run keeps where they are."""
    for path in (work / "run/model").iterdir():
        assert str(work).encode() not in path.read_bytes(), path
    assert json.loads((work / "run/places.json").read_text())["data"] == str(work / "data")


def pair(key: str, source: str = "front", target: str = "side") -> PairRef:
    return PairRef(key, source, target, 0)


def check_different(pairs: Sequence[PairRef]) -> list[str]:
    names = sample_names(pairs)
    assert len({name.casefold() for name in names}) == len(pairs)
    return names


def test_names_of_samples() -> None:
    published = pair("WOMEN-Dresses-id_00000002-02", "1_front", "2_side")
    flat = "fashionWOMENDressesid0000000202"
    assert sample_name(published) == f"{flat}_1front_2_{flat}_2side.png"
    assert sample_name(pair("grace")) == "grace.front_2_grace.side.png"
    assert check_different([pair("grace"), pair("Zoe")])[0] == "grace.front_2_grace.side.png"
    check_different([pair("grace"), pair("Grace")])
    # what is a name of DeepFashion in part alone
    assert sample_name(pair(published.key, "1_front", "x")).startswith(f"{published.key}.1_front")
    check_different([
        pair("a", "b_2_a", "c"), pair("a", "b", "a_2_c"), pair("a_2_a", "b", "c"),
        pair("a", "b", "c"), pair("A", "b", "c"), pair("a", "B", "c"),
    ])  # fmt: skip


def test_folders_are_paired_in_every_unicode_form(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 8))
    for folder, form in (("a", "NFC"), ("b", "NFD")):
        (tmp_path / folder).mkdir()
        image.save(tmp_path / folder / f"{unicodedata.normalize(form, ZOE)}.png")
    assert len(pair_folders(tmp_path / "a", tmp_path / "b").pairs) == 1
    for folder in ("a", "b"):  # two people, where a system tells these names apart
        for form in ("NFC", "NFD"):
            image.save(tmp_path / folder / f"{unicodedata.normalize(form, ZOE)}.png")
    count = len(list((tmp_path / "a").iterdir()))
    assert len(pair_folders(tmp_path / "a", tmp_path / "b").pairs) == count
