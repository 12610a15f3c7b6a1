"""Preparation: what is in the shards, what is skipped, and that a killed run changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_dataset import FakeEncoder, annotation_row, flat_name, make_dataset, tree_name
from hashes import hashes
from numpy.typing import NDArray
from prepare_child import start
from safetensors.torch import load as load_safetensors

from xmdpt_cli.data.index import read_index
from xmdpt_cli.data.shard_reader import parse_keypoints
from xmdpt_cli.datasets.find import find_dataset
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.images import resize_square
from xmdpt_cli.pose.drawing import draw_pose
from xmdpt_cli.pose.keypoints import from_fractions
from xmdpt_cli.prepare.pipeline import prepare_dataset
from xmdpt_cli.prepare.plan import plan_shards
from xmdpt_cli.storage.stores import LocalStore


def prepare(root: Path, out: Path, encoder: FakeEncoder | None = None, **options: Any) -> Any:
    options = {"size": 32, "items_per_shard": 2, "batch_size": 4, **options}
    return prepare_dataset(find_dataset(root), out, encoder=encoder or FakeEncoder(), **options)


def test_features_of_both_orientations(tmp_path: Path) -> None:
    root, out = make_dataset(tmp_path / "raw"), tmp_path / "out"
    prepare(root, out)
    listing = find_dataset(root)
    item = listing.split("train")[3]  # the second of the second shard
    index = read_index(LocalStore(out), "train-000001.tar")
    assert index is not None
    sample = index.samples[1]
    assert sample.key == item.key
    assert sample.pairs == [(p.source, p.target, p.position) for p in item.pairs]
    store, encoder = LocalStore(out), FakeEncoder()
    for view, place in sample.views.items():
        image = resize_square(item.views[view].load(), 32)
        keypoints = from_fractions(item.keypoints[view], 32)
        pose = draw_pose(keypoints, 32)
        points = store.read_range("train-000001.tar", *place.keypoints)
        np.testing.assert_array_equal(parse_keypoints(points), keypoints)
        stored = load_safetensors(store.read_range("train-000001.tar", *place.features))
        plain = encoder.encode(image[None], pose[None])
        flipped = encoder.encode(image[None, :, ::-1], pose[None, :, ::-1])
        want = {**plain, **{f"{name}_flip": tensor for name, tensor in flipped.items()}}
        assert stored.keys() == want.keys()
        for name, tensor in want.items():
            assert stored[name].dtype == tensor.dtype
            assert torch.equal(stored[name], tensor[0]), name
    assert not torch.equal(stored["moments"], stored["moments_flip"])


def test_manifest(tmp_path: Path) -> None:
    root, out = make_dataset(tmp_path / "raw"), tmp_path / "out"
    seen: list[tuple[str, int, int]] = []
    manifest = prepare(
        root, out, progress=lambda stage, done, total, /, **_: seen.append((stage, done, total))
    )
    assert manifest == json.loads((out / "dataset.json").read_text())
    assert (manifest["format"], manifest["version"]) == ("xmdpt-dataset", 3)
    assert manifest["resolution"] == 32
    assert manifest["toy"] is True
    assert manifest["encoders"]["vae"]["id"] == "fake"
    assert manifest["skipped"] == []
    assert manifest["counts"] == {
        "train": {"items": 5, "images": 15, "pairs": 30},
        "test": {"items": 2, "images": 4, "pairs": 2},
    }
    files = hashes(out)
    assert [shard["name"] for shard in manifest["shards"]] == [
        "train-000000.tar", "train-000001.tar", "train-000002.tar", "test-000000.tar",
    ]  # fmt: skip
    for shard in manifest["shards"]:
        assert shard["sha256"] == files[shard["name"]]
        assert shard["bytes"] == (out / shard["name"]).stat().st_size
    assert [shard["samples"] for shard in manifest["shards"]] == [2, 2, 1, 2]
    assert seen[0] == ("prepare", 0, 19)
    assert seen[-1] == ("prepare", 19, 19)
    assert not list(out.glob("*.part"))


def test_batches_end_with_the_shard(tmp_path: Path) -> None:
    encoder = FakeEncoder()
    prepare(make_dataset(tmp_path / "raw"), tmp_path / "out", encoder)
    # shards of 6, 6, 3 and 4 images, batches of 4, each in two orientations
    assert encoder.calls == [4, 4, 2, 2, 4, 4, 2, 2, 3, 3, 4, 4]


def test_finished_dataset_returns_without_work(tmp_path: Path) -> None:
    root, out = make_dataset(tmp_path / "raw"), tmp_path / "out"
    manifest, encoder = prepare(root, out), FakeEncoder()
    assert prepare(root, out, encoder) == manifest
    assert encoder.calls == []


def test_a_lost_shard_is_made_again(tmp_path: Path) -> None:
    root, out = make_dataset(tmp_path / "raw"), tmp_path / "out"
    prepare(root, out)
    before = hashes(out)
    (out / "train-000001.tar").unlink()
    encoder = FakeEncoder()
    prepare(root, out, encoder)
    assert encoder.calls == [4, 4, 2, 2]
    assert hashes(out) == before


def test_a_killed_run_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    root, out = make_dataset(tmp_path / "raw"), tmp_path / "out"
    prepare(root, tmp_path / "undisturbed")
    child = start(root, out, stall=6)  # in the middle of the second shard
    child.wait_for("here\n")
    child.kill()
    child.wait()
    left = {path.name for path in out.iterdir()}
    assert left == {
        ".lock", "prepare.json", "train-000000.tar", "train-000000.index.json",
        f"train-000001.tar.{child.pid}.part",
    }  # fmt: skip
    encoder = FakeEncoder()
    prepare(root, out, encoder)
    assert encoder.calls == [4, 4, 2, 2, 3, 3, 4, 4]  # the first shard is not made again
    assert hashes(out) == hashes(tmp_path / "undisturbed")


def test_kill_between_tar_and_index(tmp_path: Path) -> None:
    root, out = make_dataset(tmp_path / "raw"), tmp_path / "out"
    prepare(root, out)
    before = hashes(out)
    for name in ("dataset.json", "test-000000.index.json"):
        (out / name).unlink()
    prepare(root, out)
    assert hashes(out) == before


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    root, out = make_dataset(tmp_path / "raw"), tmp_path / "out"
    prepare(root, out)
    before = hashes(out)
    for options, named in (
        ({"size": 64}, r"resolution \(32 there, 64 now\)"),
        ({"limit": 1}, r"limit \(None there, 1 now\)"),
        ({"encoder": FakeEncoder("other")}, r"encoders\.vae\.id \(fake there, other now\)"),
    ):
        with pytest.raises(XmdptError, match=named) as error:
            prepare(root, out, **options)
        assert "--out" in error.value.hint
    make_dataset(tmp_path / "raw", seed=1)  # other keypoints
    with pytest.raises(XmdptError, match=r"dataset\.sha256"):
        prepare(root, out)
    assert hashes(out) == before


def test_batch_size_may_change_on_resume(tmp_path: Path) -> None:
    root, out = make_dataset(tmp_path / "raw"), tmp_path / "out"
    manifest = prepare(root, out)
    assert prepare(root, out, batch_size=1) == manifest


def test_a_moved_dataset_is_the_same(tmp_path: Path) -> None:
    root, out = make_dataset(tmp_path / "raw"), tmp_path / "out"
    manifest = prepare(root, out)
    root.rename(tmp_path / "moved")
    assert prepare(tmp_path / "moved", out) == manifest


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    root, out = make_dataset(tmp_path / "raw"), tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    (out / "film.part").write_text("mine as well")
    with pytest.raises(XmdptError, match="not empty") as error:
        prepare(root, out)
    assert "--out" in error.value.hint
    assert sorted(path.name for path in out.iterdir()) == ["film.part", "thesis.txt"]
    with pytest.raises(XmdptError, match="cannot write into"):
        prepare(root, out / "thesis.txt")


def test_broken_images_are_skipped_with_their_pairs(tmp_path: Path) -> None:
    root, out = make_dataset(tmp_path / "raw"), tmp_path / "out"
    cut = root / "img_highres" / tree_name("MEN", 1, "2_side")
    cut.write_bytes(cut.read_bytes()[:400])
    only_pair = root / "img_highres" / tree_name("MEN", 501, "1_front")
    only_pair.write_bytes(b"")
    (root / "img_highres" / tree_name("WOMEN", 2, "2_side")).unlink()
    manifest = prepare(root, out)
    assert manifest["counts"] == {
        "train": {"items": 5, "images": 13, "pairs": 22},
        "test": {"items": 1, "images": 2, "pairs": 1},
    }
    skipped = dict(map(tuple, manifest["skipped"]))
    assert skipped[tree_name("WOMEN", 2, "2_side")] == "listed image not found"
    assert "broken image: 01_2_side.jpg" in skipped["img_highres/" + tree_name("MEN", 1, "2_side")]
    assert "empty" in skipped["img_highres/" + tree_name("MEN", 501, "1_front")]
    assert "no usable pair" in skipped["img_highres/" + tree_name("MEN", 501, "2_side")]
    assert len(skipped) == 4
    assert str(tmp_path) not in json.dumps(manifest)


def test_only_broken_images_are_an_error(tmp_path: Path) -> None:
    root, out = make_dataset(tmp_path / "raw"), tmp_path / "out"
    for path in (root / "img_highres").rglob("*.jpg"):
        path.write_bytes(b"\xff\xd8 no image")
    with pytest.raises(XmdptError, match="nothing usable is left"):
        prepare(root, out)
    assert not (out / "dataset.json").exists()


def test_empty_pose_is_black_and_finite(tmp_path: Path) -> None:
    root, out = make_dataset(tmp_path / "raw", train=1, test=1), tmp_path / "out"
    lines = (root / "fasion-resize-annotation-train.csv").read_text().splitlines()
    lines[1] = annotation_row(flat_name("MEN", 1, "1_front"), np.full((18, 2), -1))
    (root / "fasion-resize-annotation-train.csv").write_text("\n".join(lines))
    assert prepare(root, out)["skipped"] == []
    index = read_index(LocalStore(out), "train-000000.tar")
    assert index is not None
    place = index.samples[0].views["1_front"]
    store = LocalStore(out)
    stored = load_safetensors(store.read_range("train-000000.tar", *place.features))
    assert not stored["pose_tokens"].any()
    assert np.isnan(parse_keypoints(store.read_range("train-000000.tar", *place.keypoints))).all()


class NotFinite(FakeEncoder):
    def encode(
        self, images: NDArray[np.uint8], poses: NDArray[np.uint8]
    ) -> dict[str, torch.Tensor]:
        features = super().encode(images, poses)
        features["moments"][-1, 0, 0, 0] = float("inf")
        return features


def test_features_that_are_not_finite_stop_the_run(tmp_path: Path) -> None:
    root, out = make_dataset(tmp_path / "raw"), tmp_path / "out"
    with pytest.raises(XmdptError, match=r"moments that are not finite for img_highres/.*\.jpg"):
        prepare(root, out, NotFinite())
    assert not list(out.glob("*.tar*"))


def test_limit_and_plan(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "raw")
    plans = plan_shards(find_dataset(root), items_per_shard=3)
    assert [(p.name, len(p.items)) for p in plans] == [
        ("train-000000.tar", 3), ("train-000001.tar", 2), ("test-000000.tar", 2),
    ]  # fmt: skip
    counts = prepare(root, tmp_path / "out", limit=1)["counts"]
    assert [counts[split]["items"] for split in ("train", "test")] == [1, 1]


@pytest.mark.parametrize("name", ["size", "items_per_shard", "batch_size", "limit"])
def test_impossible_numbers(tmp_path: Path, name: str) -> None:
    shown = "resolution" if name == "size" else name
    with pytest.raises(ConfigError, match=f"{shown} must be at least 1"):
        prepare(make_dataset(tmp_path / "raw"), tmp_path / "out", **{name: 0})
    assert not (tmp_path / "out").exists()


def test_real_sample(shared: Callable[[str], Path], tmp_path: Path) -> None:
    manifest = prepare(shared("deepfashion_sample"), tmp_path, size=64, items_per_shard=16)
    assert manifest["counts"]["train"] == {"items": 48, "images": 96, "pairs": 96}
    assert manifest["counts"]["test"] == {"items": 12, "images": 24, "pairs": 12}
    assert manifest["skipped"] == []
