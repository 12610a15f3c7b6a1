"""Names that stand in files of others reach nothing but what lies beside these files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_dataset import FakeEncoder, make_dataset

from xmdpt_cli.cli.app import run
from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.data.index import read_index
from xmdpt_cli.datasets.find import find_dataset
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.prepare.pipeline import prepare_dataset
from xmdpt_cli.prepare.repair import repair_dataset
from xmdpt_cli.prepare.verify import check_dataset
from xmdpt_cli.sampling.record import read_record
from xmdpt_cli.storage.remote import RemoteStore
from xmdpt_cli.storage.stores import LocalStore
from xmdpt_cli.training import checkpoint
from xmdpt_cli.utils.deepfashion_names import match_name
from xmdpt_cli.utils.safe_names import SHARD, is_below, is_plain, plain

ELSEWHERE = ["../victim.tar", "/etc/passwd", "a/../../victim.tar", "..", ".", "", "a\\b", "a\0b"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("names")
    listing = find_dataset(make_dataset(folder / "raw"))
    prepare_dataset(listing, folder / "out", size=32, encoder=FakeEncoder(), items_per_shard=2)
    return folder


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    """A dataset beside files that are none of its own."""
    import shutil

    for name in ("victim.tar", "victim.index.json"):
        (tmp_path / name).write_text("mine")
    return Path(shutil.copytree(made / "out", tmp_path / "out"))


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize("name", [*ELSEWHERE, "victim", "train-1.tar", 7, None, ["x"], "x" * 300])
def test_a_manifest_that_names_outside_files_is_refused_and_changes_nothing(
    name: Any, out: Path, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "../victim.tar":
        name = str(out.parent / "victim.tar")  # by its absolute path
    manifest = json.loads((out / "dataset.json").read_text())
    manifest["shards"][0]["name"] = name
    (out / "dataset.json").write_text(json.dumps(manifest))
    with pytest.raises(XmdptError, match=r"dataset\.json"):
        PairDataset(out)
    report = check_dataset(LocalStore(out))
    assert "manifest-broken" in {finding.kind for finding in report.findings}
    repaired = repair_dataset(LocalStore(out), report)
    assert repaired.removed == []
    assert run(["prepare", "--check", str(out), "--repair"]) == 1
    assert run(["prepare", "--check", str(out), "--repair", "--root", str(made / "raw")]) != 0
    assert [(out.parent / f"victim.{end}").read_text() for end in ("tar", "index.json")] == [
        "mine",
        "mine",
    ]
    capsys.readouterr()


@pytest.mark.parametrize("field", ["name", "key", "view"])
def test_an_index_that_names_outside_files_is_ignored(field: str, out: Path) -> None:
    path = out / "train-000000.index.json"
    index = json.loads(path.read_text())
    if field == "name":
        index["name"] = "../victim.tar"
    elif field == "key":
        index["samples"][0]["key"] = "../../victim"
    else:
        views = index["samples"][0]["views"]
        views["../victim"] = views.pop(next(iter(views)))
    path.write_text(json.dumps(index))
    assert read_index(LocalStore(out), "train-000000.tar") is None
    if field != "name":
        with pytest.raises(XmdptError, match="index"):
            PairDataset(out)
    report = check_dataset(LocalStore(out))
    repair_dataset(LocalStore(out), report)
    assert (out.parent / "victim.index.json").read_text() == "mine"
    assert json.loads(path.read_text())["name"] == "train-000000.tar"  # made from its shard


@pytest.mark.parametrize("name", ELSEWHERE)
def test_no_store_reaches_outside_its_folder(name: str, tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "victim.tar").write_text("mine")
    local, remote = LocalStore(inside), RemoteStore("memory://bucket/inside")
    calls: list[Any] = [
        lambda store: store.size(name),
        lambda store: store.read(name),
        lambda store: store.read_range(name, 0, 1),
        lambda store: store.write(name, b"x"),
        lambda store: store.scratch(name),
        lambda store: store.put(tmp_path / "victim.tar", name),
        lambda store: store.remove(name),
    ]
    for call in calls:
        with pytest.raises(XmdptError, match="no name that xmdpt writes"):
            call(local)
        if name:  # of a remote store it is the folder itself
            with pytest.raises(XmdptError, match="no name that xmdpt writes"):
                call(remote)
    assert (tmp_path / "victim.tar").read_text() == "mine"


def test_a_checkpoint_holds_only_its_own_files(tmp_path: Path) -> None:
    folder = tmp_path / "step_0000001"
    folder.mkdir()
    state = {"step": 1, "files": {"../victim": {"bytes": 4, "sha256": ""}}}
    (folder / "state.json").write_text(json.dumps(state))
    assert "../victim" in checkpoint.verify(folder)
    others = tmp_path / "step_of_mine"  # called alike, and not by us
    others.mkdir()
    (others / "state.json").write_text("{}")
    (tmp_path / "step_0000009").symlink_to(others, target_is_directory=True)
    assert checkpoint.latest(tmp_path) == folder


def test_a_record_of_samples_names_files_in_its_folder(tmp_path: Path) -> None:
    for name in ("../x.png", "/x.png", "a/../../x.png"):
        for field in ("files", "complete"):
            (tmp_path / "samples.json").write_text(json.dumps({field: [name]}))
            with pytest.raises(XmdptError, match="which is not an image of xmdpt"):
                read_record(tmp_path)
    (tmp_path / "samples.json").write_text(json.dumps({"files": ["a: b/c?.png"]}))
    assert read_record(tmp_path)["files"] == ["a: b/c?.png"]


def test_a_list_cannot_name_folders_above() -> None:
    assert match_name("WOMEN/../id_00000002/02_1_front.jpg") is None
    assert match_name("fashionWOMEN..id0000000202_1front.jpg") is None
    assert match_name("WOMEN/Tees_Tanks/id_00000002/02_1_front.jpg") is not None


def test_plain_names() -> None:
    assert all(is_plain(name) for name in ("a", "a.b", ".lock", "Zoë (2).tar", "a:b"))
    assert not any(is_plain(name) for name in [*ELSEWHERE, None, 3, b"a", "x" * 256])
    assert is_below("a/b.png")
    assert not any(is_below(name) for name in ("/a", "a//b", "a/..", "", "../a", None))
    assert plain("train-000000.tar", "here", SHARD) == "train-000000.tar"
    with pytest.raises(XmdptError, match=r"here names 'x\\x1b\[2J'"):  # escaped
        plain("x\x1b[2J", "here", SHARD)
