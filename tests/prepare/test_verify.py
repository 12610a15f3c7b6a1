"""Checking a prepared dataset: damaged and lost files are found, named, and nothing else is."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_dataset import FakeEncoder, make_dataset

from xmdpt_cli.data.index import read_index
from xmdpt_cli.datasets.find import find_dataset
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.prepare.findings import CheckReport
from xmdpt_cli.prepare.pipeline import prepare_dataset
from xmdpt_cli.prepare.verify import check_dataset
from xmdpt_cli.prepare.verify_shard import walk_shard
from xmdpt_cli.storage.stores import LocalStore


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("check")
    root = make_dataset(folder / "raw")
    prepare_dataset(
        find_dataset(root), folder / "out", size=32, encoder=FakeEncoder(), items_per_shard=2
    )
    return folder / "out"


@pytest.fixture
def out(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "out"))


def check(out: Path, **options: Any) -> CheckReport:
    return check_dataset(LocalStore(out), **options)


def found(report: CheckReport) -> set[tuple[str, str, str, str]]:
    return {(f.kind, f.shard, f.item, f.view) for f in report.findings}


def edit_json(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def flip_byte(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize("deep", [True, False])
def test_an_intact_dataset_has_no_findings(prepared: Path, deep: bool) -> None:
    seen: list[tuple[int, int]] = []
    report = check(prepared, deep=deep, progress=lambda s, d, t, /, **_: seen.append((d, t)))
    assert report.findings == []
    assert report.ok
    assert (report.shards, report.items, report.views, report.pairs) == (4, 7, 19, 32)
    assert report.bytes == sum(path.stat().st_size for path in prepared.glob("*.tar"))
    assert (seen[0], seen[-1]) == ((0, 19), (19, 19))
    assert seen == sorted(seen)
    assert json.loads(json.dumps(report.to_dict()))["ok"] is True


def test_a_changed_byte_is_located(out: Path) -> None:
    index = read_index(LocalStore(out), "train-000001.tar")
    assert index is not None
    sample = index.samples[0]
    flip_byte(out / "train-000001.tar", sample.views["2_side"].image[0] + 20)
    report = check(out)
    assert not report.ok
    assert ("shard-sha256", "train-000001.tar", "", "") in found(report)
    assert ("image", "train-000001.tar", sample.key, "2_side") in found(report)
    assert all(f.shard == "train-000001.tar" for f in report.findings)
    assert all("prepare" in f.hint for f in report.findings)
    assert check(out, deep=False).ok  # a quick look does not read the shards


def test_any_damage_is_found_without_stopping_the_check(out: Path) -> None:
    rng, shard = random.Random(0), out / "train-000002.tar"
    whole = shard.read_bytes()
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(rng.choice((1, 1, 20))):
            at = rng.randrange(len(damaged))
            damaged[at] = (damaged[at] + rng.randrange(1, 256)) % 256
        shard.write_bytes(damaged)
        walked = walk_shard(LocalStore(out), shard.name, 32)
        assert (walked.sha256 == hashlib.sha256(whole).hexdigest()) == (damaged == whole)
    report = check(out)
    assert {f.shard for f in report.findings} == {shard.name}


def test_a_broken_header_in_the_middle(out: Path) -> None:
    index = read_index(LocalStore(out), "test-000000.tar")
    assert index is not None
    offset = index.samples[1].views["2_side"].keypoints[0] - 512
    flip_byte(out / "test-000000.tar", offset + 3)
    report = check(out)
    assert {f.kind for f in report.findings} == {"shard-sha256", "shard-broken"}
    assert f"no tar header at byte {offset}" in "".join(report.lines())


@pytest.mark.parametrize("deep", [True, False])
def test_missing_and_cut_files(out: Path, deep: bool) -> None:
    (out / "train-000000.tar").unlink()
    cut = out / "train-000001.tar"
    cut.write_bytes(cut.read_bytes()[:-512])
    (out / "train-000002.index.json").unlink()
    broken = out / "test-000000.index.json"
    broken.write_bytes(broken.read_bytes()[:100])
    assert found(check(out, deep=deep)) == {
        ("shard-missing", "train-000000.tar", "", ""),
        ("shard-size", "train-000001.tar", "", ""),
        ("index-missing", "train-000002.tar", "", ""),
        ("index-broken", "test-000000.tar", "", ""),
    }


def test_an_index_with_wrong_offsets(out: Path) -> None:
    def change(index: Any) -> None:
        index["samples"][0]["views"]["1_front"]["tensors"]["moments"]["offset"] += 2

    edit_json(out / "train-000001.index.json", change)
    report = check(out)
    (finding,) = report.findings
    assert (finding.kind, finding.shard) == ("index-differs", "train-000001.tar")
    assert finding.item
    assert "repair rebuilds the index" in finding.hint


def test_damaged_manifests(out: Path) -> None:
    manifest = out / "dataset.json"
    edit_json(manifest, lambda content: content["counts"]["train"].update(pairs=31))
    assert [f.line() for f in check(out).findings] == ["train: 30 pairs, 31 in dataset.json"]
    edit_json(manifest, lambda content: content.pop("counts"))
    assert {f.kind for f in check(out).findings} == {"manifest-broken"}
    manifest.write_text("{")
    assert {f.kind for f in check(out).findings} == {"manifest-broken"}
    manifest.unlink()
    report = check(out)
    assert {f.kind for f in report.findings} == {"manifest-missing"}
    assert report.pairs == 32  # the shards are checked all the same
    assert "same prepare command" in report.findings[0].hint


def test_damaged_settings(out: Path) -> None:
    edit_json(out / "prepare.json", lambda content: content["encoders"].update(name="other"))
    report = check(out)
    assert [f.kind for f in report.findings] == ["settings-differ"]
    assert not report.ok
    (out / "prepare.json").unlink()
    report = check(out)
    assert [f.kind for f in report.findings] == ["settings-missing"]
    assert report.ok


def test_other_folders_are_refused(tmp_path: Path, out: Path) -> None:
    with pytest.raises(XmdptError, match="does not exist"):
        check(tmp_path / "nowhere")
    with pytest.raises(XmdptError, match="holds no prepared dataset"):
        check(tmp_path)
    edit_json(out / "dataset.json", lambda content: content.update(version=1))
    with pytest.raises(XmdptError, match="version 1"):
        check(out)


def test_stray_files_are_harmless_findings(out: Path) -> None:
    for name in ("train-000009.tar.part", "notes <1>.txt", "train-000007.index.json"):
        (out / name).write_text("x")
    for name in ("sheet.png", "report.html", ".lock"):
        (out / name).write_text("known")
    (out / "encoders").mkdir()
    report = check(out)
    assert found(report) == {
        ("stray-part", "train-000009.tar.part", "", ""),
        ("stray-file", "notes <1>.txt", "", ""),
        ("stray-shard", "train-000007.index.json", "", ""),
    }
    assert report.ok


class Counting(LocalStore):
    """Records the length of each request."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.largest, self.total = 0, 0

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        data = super().read_range(name, offset, length)
        self.largest, self.total = max(self.largest, len(data)), self.total + len(data)
        return data


def test_shards_are_read_once_in_pieces(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xmdpt_cli.prepare.verify_shard.CHUNK", 1000)
    store = Counting(prepared)
    report = check_dataset(store)
    assert report.ok
    assert store.total == report.bytes
    assert store.largest < 10_000  # the largest member, never a shard


def test_a_failing_store_is_not_a_broken_shard(prepared: Path) -> None:
    class Failing(LocalStore):
        def read_range(self, name: str, offset: int, length: int) -> bytes:
            raise OSError("connection reset")

    report = check_dataset(Failing(prepared))
    assert {f.kind for f in report.findings} == {"shard-unreadable"}
    assert "connection reset" in report.findings[0].message


def test_the_report_as_text(out: Path) -> None:
    (out / "train-000000.tar").unlink()
    (out / "train-000001.tar").unlink()
    lines = check(out).lines()
    assert lines[:2] == [
        "train-000000.tar: the shard does not exist",
        "train-000001.tar: the shard does not exist",
    ]
    assert lines[2].startswith("  -> --repair --root ROOT makes the shard again")
    assert len(lines) == 3
