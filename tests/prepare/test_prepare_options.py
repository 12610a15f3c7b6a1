"""Options of preparation: several sizes at once, 8-bit tokens, OpenPose, strictness."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_dataset import VIEWS, FakeEncoder, make_dataset, tree_name
from hashes import hashes
from numpy.typing import NDArray
from safetensors.torch import load as load_safetensors

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.data.loader import load_pairs
from xmdpt_cli.data.sampler import PairIndices
from xmdpt_cli.datasets.find import find_dataset
from xmdpt_cli.datasets.listing import Listing
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.pose.drawing import draw_pose
from xmdpt_cli.prepare.networks import find_networks
from xmdpt_cli.prepare.pipeline import prepare_dataset, prepare_datasets
from xmdpt_cli.storage.stores import LocalStore

OPTIONS: dict[str, Any] = {"items_per_shard": 2, "batch_size": 4}


def prepare(listing: Listing, out: Path, **options: Any) -> dict[str, Any]:
    return prepare_dataset(listing, out, size=32, encoder=FakeEncoder(), **{**OPTIONS, **options})


def test_two_sizes_in_one_pass_are_the_bytes_of_two_passes(tmp_path: Path) -> None:
    listing = find_dataset(make_dataset(tmp_path / "raw"))
    outs = {size: tmp_path / "both" / str(size) for size in (32, 48)}
    encoders = {size: FakeEncoder() for size in outs}
    manifests = prepare_datasets(listing, outs, encoders, **OPTIONS)
    for size, out in outs.items():
        alone = tmp_path / f"alone-{size}"
        manifest = prepare_dataset(listing, alone, size=size, encoder=FakeEncoder(), **OPTIONS)
        assert manifests[size] == manifest
        assert hashes(out) == hashes(alone)


def test_only_the_size_that_lost_a_shard_is_made_again(tmp_path: Path) -> None:
    listing = find_dataset(make_dataset(tmp_path / "raw"))
    outs = {size: tmp_path / str(size) for size in (32, 48)}
    prepare_datasets(listing, outs, dict.fromkeys(outs, FakeEncoder()), **OPTIONS)
    before = hashes(outs[48])
    (outs[48] / "test-000000.tar").unlink()
    encoders = {size: FakeEncoder() for size in outs}
    prepare_datasets(listing, outs, encoders, **OPTIONS)
    assert encoders[32].calls == []
    assert encoders[48].calls == [4, 4]  # two items of two views, both orientations
    assert hashes(outs[48]) == before


def test_each_size_needs_its_own_folder(tmp_path: Path) -> None:
    listing = find_dataset(make_dataset(tmp_path / "raw", train=1, test=0))
    encoders = {32: FakeEncoder(), 48: FakeEncoder()}
    with pytest.raises(ConfigError, match="same folder"):
        prepare_datasets(listing, {32: tmp_path / "out", 48: tmp_path / "out"}, encoders)


def test_tokens_in_8_bits_are_nearly_the_same(tmp_path: Path) -> None:
    listing = find_dataset(make_dataset(tmp_path / "raw"))
    manifest = prepare(listing, tmp_path / "fp8", tokens="fp8")
    assert manifest["tokens"] == "fp8"
    prepare(listing, tmp_path / "bf16")
    exact, small = (PairDataset(tmp_path / name) for name in ("bf16", "fp8"))
    for flip in (False, True):
        indices = PairIndices.listed([5], flip=flip)
        want, got = (load_pairs(dataset, indices) for dataset in (exact, small))
        assert torch.equal(got.target_moments, want.target_moments)
        for one, other in (
            (got.pose_tokens, want.pose_tokens),
            (got.source_tokens, want.source_tokens),
        ):
            assert one.dtype == other.dtype
            # e4m3 has 3 bits behind the point: half a step is 1/16 of the value
            torch.testing.assert_close(one.float(), other.float(), rtol=0.07, atol=0.5)
    with pytest.raises(XmdptError, match=r"tokens \(fp8 there, bf16 now\)"):
        prepare(listing, tmp_path / "fp8")
    with pytest.raises(ConfigError, match="bf16 or fp8"):
        prepare(listing, tmp_path / "other", tokens="int4")


class Detector:
    """Sees a person everywhere but in images whose mean is ``blind``: a nose and a neck."""

    def __init__(self, blind: Sequence[float] = ()) -> None:
        self.blind = [round(value, 6) for value in blind]
        self.calls: list[int] = []
        self.shapes: set[tuple[int, ...]] = set()

    def keypoints_batch(
        self, images: Sequence[NDArray[np.uint8]]
    ) -> list[NDArray[np.float64] | None]:
        self.calls.append(len(images))
        self.shapes |= {image.shape for image in images}
        found: list[NDArray[np.float64] | None] = []
        for image in images:
            if round(float(image.mean()), 6) in self.blind:
                found.append(None)
                continue
            height, width, _ = image.shape
            points = np.full((18, 2), np.nan)
            points[:2] = [[width * 0.5, height * 0.25], [width * 0.5, height * 0.5]]
            found.append(points)
        return found

    def describe(self) -> dict[str, Any]:
        return {"kind": "test", "id": "detector"}


def without_keypoints(root: Path) -> Listing:
    return find_dataset(root, detect=True)


def test_openpose_finds_missing_keypoints(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "raw")
    listing, detector = without_keypoints(root), Detector()
    assert listing.without_keypoints() == 19
    manifest = prepare(listing, tmp_path / "out", detector=detector)
    assert manifest["poses"] == {"kind": "test", "id": "detector"}
    assert sum(detector.calls) == 19
    assert max(detector.calls) <= 6  # four and the rest of an item
    assert detector.shapes == {(128, 88, 3)}  # the photograph as it is, not squashed
    data = PairDataset(tmp_path / "out")
    key, view = data.views()[0]
    want = np.full((18, 2), np.nan)
    want[:2] = [[16, 8], [16, 16]]
    np.testing.assert_allclose(data.keypoints(key, view), want)
    pose = draw_pose(want, 32)
    tokens = FakeEncoder().encode(pose[None], pose[None])["pose_tokens"][0]
    stored = data.tensor(key, view, "pose_tokens")
    torch.testing.assert_close(stored, tokens, rtol=0, atol=0)


def test_an_image_without_a_person_is_left_out_with_its_pairs(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "raw")
    listing = without_keypoints(root)
    item = listing.split("train")[0]
    mean = float(np.asarray(item.views[VIEWS[1]].load()).mean())
    manifest = prepare(listing, tmp_path / "out", detector=Detector(blind=[mean]))
    assert manifest["skipped"] == [[item.views[VIEWS[1]].name, "OpenPose finds no person"]]
    assert manifest["counts"]["train"] == {"items": 5, "images": 14, "pairs": 26}


def test_openpose_is_required_and_recorded(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "raw")
    with pytest.raises(ConfigError, match="19 images have no keypoints"):
        prepare(without_keypoints(root), tmp_path / "out")
    prepare(without_keypoints(root), tmp_path / "out", detector=Detector())
    with pytest.raises(XmdptError, match="poses"):
        prepare(find_dataset(root), tmp_path / "out")  # published keypoints now


def test_the_error_names_the_first_image_without_keypoints(tmp_path: Path) -> None:
    listing = find_dataset(make_dataset(tmp_path / "raw"))
    item = listing.split("train")[0]
    del item.keypoints[VIEWS[1]], item.keypoints[VIEWS[2]]
    first = min(item.views[view].name for view in VIEWS[1:])
    with pytest.raises(XmdptError, match=f"2 of 19 images.* first being {re.escape(first)}"):
        find_networks(listing, None, str(tmp_path / "no-openpose"))


def test_a_killed_run_with_openpose_ends_with_the_same_bytes(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "raw")
    prepare(without_keypoints(root), tmp_path / "whole", detector=Detector())

    class Interrupted(Detector):
        def keypoints_batch(self, images: Sequence[NDArray[np.uint8]]) -> Any:
            if len(self.calls) == 2:
                raise KeyboardInterrupt
            return super().keypoints_batch(images)

    with pytest.raises(KeyboardInterrupt):
        prepare(without_keypoints(root), tmp_path / "out", detector=Interrupted())
    prepare(without_keypoints(root), tmp_path / "out", detector=Detector())
    assert hashes(tmp_path / "out") == hashes(tmp_path / "whole")


def test_strict_stops_at_the_first_broken_image(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "raw")
    broken = root / "img_highres" / tree_name("MEN", 3, VIEWS[0])
    broken.write_bytes(b"")
    with pytest.raises(XmdptError, match=rf"{broken.name}.*empty") as error:
        prepare(find_dataset(root), tmp_path / "out", strict=True)
    assert "--strict" in error.value.hint
    manifest = prepare(find_dataset(root), tmp_path / "out")  # and the same folder goes on
    assert len(manifest["skipped"]) == 1


def test_every_shard_lists_what_it_skipped(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "raw")
    (root / "img_highres" / tree_name("MEN", 3, VIEWS[0])).write_bytes(b"")
    manifest = prepare(find_dataset(root), tmp_path / "out")
    of_shards = {s["name"]: s["skipped"] for s in manifest["shards"] if s["skipped"]}
    assert list(of_shards.values()) == [manifest["skipped"]]


def test_the_original_file_is_recorded(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "raw")
    prepare(find_dataset(root), tmp_path / "out")
    store = LocalStore(tmp_path / "out")
    raw = store.read("train-000000.index.json").decode()
    assert "img_highres/MEN/Tees_Tanks/id_00000001/01_1_front.jpg" in raw
    import tarfile

    with tarfile.open(tmp_path / "out" / "train-000000.tar") as tar:
        names = [name for name in tar.getnames() if name.endswith(".safetensors")]
        member = tar.extractfile(names[0])
        assert member is not None
        assert "moments_flip" in load_safetensors(member.read())
