"""Online encoding: equal to the cache without crops, and the published crops."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_data import CONFIG, same, weights
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

from xmdpt_cli.data.broken_shards import BrokenShards
from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.data.loader import Batch, TrainLoader
from xmdpt_cli.data.pair_images import Crop, crop_image, crop_keypoints, sample_crop
from xmdpt_cli.data.prefetch import prefetch
from xmdpt_cli.data.sampler import LoaderConfig
from xmdpt_cli.datasets.find import find_dataset
from xmdpt_cli.encoders.bundle import Encoders
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.pose.drawing import draw_pose, draw_pose_map
from xmdpt_cli.prepare.pipeline import prepare_dataset
from xmdpt_cli.toy.encoders import toy_encoders, toy_vae
from xmdpt_cli.toy.synthetic import make_synthetic
from xmdpt_cli.training.loop import train
from xmdpt_cli.training.online import OnlineLoader, find_encoders

SIZE, N, SEED = 32, 6, 3


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("online")
    make_synthetic(root / "raw", people_train=6, people_test=1, views=3, height=64, workers=1)
    encoders = toy_encoders(SIZE)
    encoders.save(root / "data" / "encoders")
    prepare_dataset(
        find_dataset(root / "raw"), root / "data", size=SIZE, encoder=encoders, items_per_shard=2
    )
    return root / "data"


@pytest.fixture(scope="module")
def dataset(data: Path) -> PairDataset:
    return PairDataset(data)


@pytest.fixture(scope="module")
def encoders(dataset: PairDataset, data: Path) -> Encoders:
    return find_encoders(dataset.manifest, data)


def loader(
    dataset: PairDataset,
    encoders: Encoders,
    size: int = N,
    crops: bool = True,
    broken: BrokenShards | None = None,
    **more: Any,
) -> OnlineLoader:
    return OnlineLoader(dataset, encoders, LoaderConfig(size, SEED, **more), broken, crops)


def equal(one: Batch, other: Batch) -> bool:
    pairs = [(getattr(one, f.name), getattr(other, f.name)) for f in fields(one)]
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


# the features


@pytest.mark.parametrize(("rank", "world"), [(0, 1), (1, 2)])
def test_online_features_without_crops_equal_the_cache(
    dataset: PairDataset, encoders: Encoders, rank: int, world: int
) -> None:
    both = {"rank": rank, "world_size": world, "pose_maps": True, "target_tokens": True}
    both["joints"] = True
    online = loader(dataset, encoders, crops=False, **both)
    cached = TrainLoader(dataset, LoaderConfig(N, SEED, **both))
    for step in (0, 5, 7):  # over the end of an epoch, swapped and mirrored pairs among them
        have, want = online.batch(step), cached.batch(step)
        assert (have.pairs, have.flipped, have.skipped) == (want.pairs, want.flipped, 0)
        assert have.target_moments.dtype == have.source_moments.dtype == torch.float32
        assert have.pose_tokens.dtype == have.source_tokens.dtype == torch.bfloat16
        for name, precision in (  # float16 has 11 bits, bfloat16 8
            ("target_moments", 2**-11), ("source_moments", 2**-11),
            ("pose_tokens", 2**-8), ("source_tokens", 2**-8), ("target_tokens", 2**-8),
        ):  # fmt: skip
            found, stored = getattr(have, name).float(), getattr(want, name).float()
            torch.testing.assert_close(found, stored, rtol=precision, atol=2e-5, msg=name)
        torch.testing.assert_close(have.joints, want.joints, equal_nan=True)
        assert have.pose_map is not None
        assert want.pose_map is not None
        assert torch.equal(have.pose_map, want.pose_map)
        assert torch.equal(have.source_pose_map, want.source_pose_map)  # type: ignore[arg-type]
    assert True in have.flipped


def test_crops_change_only_the_features(dataset: PairDataset, encoders: Encoders) -> None:
    fresh, plain = loader(dataset, encoders), loader(dataset, encoders, crops=False)
    for step in range(3):
        have, want = fresh.batch(step), plain.batch(step)
        assert (have.pairs, have.flipped) == (want.pairs, want.flipped)
        assert not torch.equal(have.source_tokens, want.source_tokens)
        assert not torch.equal(have.pose_tokens, want.pose_tokens)
    # another epoch, another crop (at 32 px half of them are none)
    views = [fresh.read(step) for step in range(12)]
    first, again = ({p: v.images[i] for v in part for i, p in enumerate(v.pairs)}
                    for part in (views[:6], views[6:]))  # fmt: skip
    both = first.keys() & again.keys()
    assert both
    assert sum(not torch.equal(first[pair], again[pair]) for pair in both) > len(both) / 4


def test_images_and_poses_use_the_same_crop(dataset: PairDataset, encoders: Encoders) -> None:
    online = loader(dataset, encoders, pose_maps=True)
    indices, images = online.sampler.indices(4), online.read(4)
    assert images.pose_map is not None
    assert images.source_pose_map is not None
    sources, targets = dataset.rows(indices.pairs, indices.swap)
    for i, number in enumerate(indices.numbers.tolist()):
        step = -1 if indices.flip[i] else 1
        for role, row, place in (("target", targets[i], i), ("source", sources[i], N + i)):
            crop = sample_crop(SEED, number, role, SIZE)
            image = crop_image(dataset.image_of(int(row)), crop)[:, ::step]
            np.testing.assert_array_equal(images.images[place].numpy(), image)
            points = crop_keypoints(dataset.keypoints_of(int(row)), crop, SIZE)
            rendered = draw_pose_map(points, SIZE)[:, ::step]
            if role == "target":
                pose = draw_pose(points, SIZE)[:, ::step]
                np.testing.assert_array_equal(images.poses[i].numpy(), pose)
                np.testing.assert_array_equal(images.pose_map[i].numpy(), rendered)
            else:
                np.testing.assert_array_equal(images.source_pose_map[i].numpy(), rendered)
    assert indices.flip.any()
    assert indices.swap.any()


def test_batches_depend_only_on_seed_and_step(dataset: PairDataset, encoders: Encoders) -> None:
    whole = [loader(dataset, encoders, 2 * N).read(step) for step in range(2)]
    ranks = [loader(dataset, encoders, N, rank=rank, world_size=2) for rank in range(2)]
    parts = loader(dataset, encoders, N)  # twice as many steps: accumulated
    for step in range(2):
        spread = [rank.read(step) for rank in ranks]
        split = [parts.read(2 * step + half) for half in range(2)]
        for views in (spread, split):
            assert [name for one in views for name in one.pairs] == whole[step].pairs
            targets = torch.cat([one.images[:N] for one in views])
            sources = torch.cat([one.images[N:] for one in views])
            assert torch.equal(torch.cat([targets, sources]), whole[step].images)
            assert torch.equal(torch.cat([one.poses for one in views]), whole[step].poses)
    again = loader(dataset, encoders, 2 * N)  # a run that resumes at step 1
    assert torch.equal(again.read(1).images, whole[1].images)
    other = OnlineLoader(dataset, encoders, LoaderConfig(2 * N, SEED + 1))
    assert not torch.equal(other.read(1).images, whole[1].images)


def test_prefetching_in_two_stages_equals_reading(dataset: PairDataset, encoders: Encoders) -> None:
    online = loader(dataset, encoders, pose_maps=True)
    want = [online.batch(step) for step in range(2, 10)]
    with closing(prefetch(online, 2)) as batches:
        for have, wanted in zip(batches, want, strict=False):
            assert equal(have, wanted)


def test_autocast_of_the_model_does_not_reach_the_encoders(
    dataset: PairDataset, encoders: Encoders
) -> None:
    online = loader(dataset, encoders)
    want = online.batch(0)
    with torch.autocast("cpu", torch.bfloat16):
        have = online.batch(0)
    assert equal(have, want)
    assert not have.target_moments.requires_grad


# the crops


def test_crops_equal_torchvision() -> None:
    rng = np.random.Generator(np.random.PCG64(0))
    image = rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)
    for number in range(5):
        crop = sample_crop(0, number, "source", 256)
        large = transforms.resize(
            Image.fromarray(image), [crop.side] * 2, InterpolationMode.BICUBIC
        )
        want = np.asarray(transforms.crop(large, crop.top, crop.left, 256, 256))
        np.testing.assert_array_equal(crop_image(image, crop), want)
    assert crop_image(image, Crop(256)) is image


def test_keypoints_follow_the_crop() -> None:
    yy, xx = np.mgrid[:256, :256]
    rng = np.random.Generator(np.random.PCG64(1))
    for number in range(20):
        x, y = rng.uniform(40, 216, 2)
        spot = 255 * np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / 18)
        image = np.repeat(spot.astype(np.uint8)[:, :, None], 3, axis=2)
        crop = sample_crop(0, number, "target", 256)
        seen = crop_image(image, crop)[:, :, 0].astype(float)
        centre = np.array([(seen * xx).sum(), (seen * yy).sum()]) / seen.sum()
        points = np.full((18, 2), np.nan)
        points[3] = x, y
        moved = crop_keypoints(points, crop, 256)
        assert np.abs(moved[3] - centre).max() < 0.1
        assert np.isnan(np.delete(moved, 3, axis=0)).all()


def test_the_distribution_of_crops() -> None:
    sampled = {
        role: [sample_crop(7, number, role, 256) for number in range(4000)]
        for role in ("source", "target")
    }
    sides = np.array([crop.side for crop in sampled["source"]])
    assert (sides.min(), sides.max()) == (256, 268)  # int(256 * 1.05) = 268
    counts = np.bincount(sides)[256:]
    assert counts[:12].min() > 230  # 312 expected of each but the last, deviation 17
    for name in ("left", "top"):
        corners = np.array([getattr(crop, name) for crop in sampled["source"]])
        assert (corners >= 0).all()
        assert (corners <= sides - 256).all()
        here = corners[sides == 263]
        assert set(here) == set(range(8))
        assert abs(here.mean() - 3.5) < 0.7  # deviation 0.13
    # the two images of a pair, and the two axes, are independent
    other = np.array([crop.side for crop in sampled["target"]])
    assert abs(np.corrcoef(sides, other)[0, 1]) < 0.08  # five deviations
    wide = [(c.left, c.top) for c in sampled["source"] if c.side == 268 or c.side == 267]
    assert abs(np.corrcoef(np.array(wide).T)[0, 1]) < 0.3


# broken shards


@pytest.mark.parametrize("damage", ["gone", "a byte of an image"])
def test_a_broken_shard_is_skipped(
    data: Path, encoders: Encoders, tmp_path: Path, damage: str
) -> None:
    folder = shutil.copytree(data, tmp_path / "data")
    dataset = PairDataset(folder)
    warned: list[str] = []
    online = loader(dataset, encoders, broken=BrokenShards(dataset, SEED, warned.append))
    whole = loader(PairDataset(data), encoders)
    assert equal(online.batch(0), whole.batch(0))
    broken = folder / "train-000001.tar"
    if damage == "gone":
        broken.unlink()
    else:
        rows = np.flatnonzero(dataset.table.shard == 1)
        content = bytearray(broken.read_bytes())
        for row in rows:
            offset, length = dataset.table.members[row, 0]
            content[offset + length // 2] ^= 0xFF
        broken.write_bytes(content)
    batches = [online.batch(step) for step in range(6)]  # one epoch: 36 pairs, 12 in each shard
    assert sum(batch.skipped for batch in batches) == 12
    assert len(warned) == 1
    assert "train-000001.tar" in warned[0]
    for step, batch in enumerate(batches):
        want = whole.batch(step)
        same = [a == b for a, b in zip(batch.pairs, want.pairs, strict=True)]
        assert same.count(False) == batch.skipped
        assert torch.equal(batch.source_tokens[same], want.source_tokens[same])


# in a run

ONLINE = replace(CONFIG, online=True)


@pytest.mark.parametrize("conditioning", ["vector", "tokens"])
def test_a_resumed_run_equals_an_uninterrupted_run(
    data: Path, tmp_path: Path, conditioning: str
) -> None:
    config = replace(ONLINE, conditioning=conditioning)
    train(config, data, tmp_path / "whole")
    train(replace(config, steps=2), data, tmp_path / "parts")
    train(config, data, tmp_path / "parts")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    train(replace(config, online=False), data, tmp_path / "cached")
    assert not same(weights(tmp_path / "whole"), weights(tmp_path / "cached"))
    with pytest.raises(XmdptError, match="online: False -> True"):
        train(config, data, tmp_path / "cached")


def test_accumulation_uses_the_same_crops(data: Path, tmp_path: Path) -> None:
    """The same sum in another order: weights differ by rounding, after six steps of AdamW."""
    train(ONLINE, data, tmp_path / "whole")
    train(replace(ONLINE, accumulate=2), data, tmp_path / "parts")
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=0, atol=2e-4, msg=name)


@pytest.mark.parametrize("online", [True, False])
def test_a_run_continues_after_a_lost_shard(data: Path, tmp_path: Path, online: bool) -> None:
    folder = shutil.copytree(data, tmp_path / "data")
    config = replace(ONLINE, online=online, steps=24)
    warned: list[str] = []

    def breaking(stage: str, done: int, total: int, /, **info: Any) -> None:
        if done == 3:
            (folder / "train-000001.tar").unlink(missing_ok=True)

    done = train(config, folder, tmp_path / "run", progress=breaking, warn=warned.append)
    assert (done.steps, len(warned)) == (24, 1)
    assert "train-000001.tar no longer exists" in warned[0]
    assert done.skipped > 10  # a third of the 96 pairs, from some step on
    # the same command resumes, and so does the count
    again = train(replace(config, steps=30), folder, tmp_path / "run", warn=warned.append)
    assert (again.steps, len(warned)) == (30, 2)
    assert again.skipped > done.skipped
    last = tmp_path / "run" / "checkpoints" / "step_0000030" / "state.json"
    assert json.loads(last.read_text())["skipped"] == again.skipped
    # twice the same from the same checkpoint, with the same shard broken
    for copy in ("one", "two"):
        shutil.copytree(tmp_path / "run", tmp_path / copy)
        train(replace(config, steps=34), folder, tmp_path / copy, warn=warned.append)
    assert same(weights(tmp_path / "one"), weights(tmp_path / "two"))
    with pytest.raises(XmdptError, match="missing or cut short"):  # a new run needs it
        train(config, folder, tmp_path / "new")


# which encoders


def test_online_encoders_are_those_of_the_dataset(
    dataset: PairDataset, data: Path, encoders: Encoders, tmp_path: Path
) -> None:
    named = dataset.manifest["encoders"]
    assert {k: v["sha256"] for k, v in encoders.describe().items() if k != "toy"} == {
        part: named[part]["sha256"] for part in ("vae", "source", "pose")
    }
    copied = shutil.copytree(data / "encoders" / "vae", tmp_path / "vae")
    elsewhere = find_encoders(dataset.manifest, data, vae=str(copied))
    assert elsewhere.vae.describe()["sha256"] == named["vae"]["sha256"]
    other = toy_vae(SIZE, seed=9)
    other.save(tmp_path / "other")
    with pytest.raises(XmdptError, match="is not the vae encoder that made") as error:
        find_encoders(dataset.manifest, data, vae=str(tmp_path / "other"))
    assert named["vae"]["sha256"][:12] in error.value.message
    assert "--vae" in error.value.hint
    with pytest.raises(XmdptError, match="is not the pose encoder"):
        find_encoders(dataset.manifest, data, pose=str(data / "encoders" / "dino_source"))


def test_missing_encoders_are_named(dataset: PairDataset, data: Path, tmp_path: Path) -> None:
    with pytest.raises(XmdptError, match=r"toy encoder .* is not beside it") as error:
        find_encoders(dataset.manifest, tmp_path)
    assert "--vae DIR" in error.value.hint
    manifest = json.loads(json.dumps(dataset.manifest))
    manifest["encoders"]["source"] |= {"kind": "hub", "id": "facebook/dinov2-giant"}
    with pytest.raises(XmdptError, match=r"DINOv2 facebook/dinov2-giant .*is not on this machine"):
        find_encoders(manifest, data)
    with pytest.raises(XmdptError, match="does not say which vae encoder"):
        find_encoders({"encoders": {"name": "random numbers"}}, data)


def test_online_encoders_use_the_types_of_the_dataset(dataset: PairDataset, data: Path) -> None:
    """A dataset whose DINOv2 tokens were computed in bfloat16 is continued in bfloat16."""
    manifest = json.loads(json.dumps(dataset.manifest))
    found = find_encoders(manifest, data)
    assert found.vae.dtype == found.source.dtype == torch.float32
    net = found.source.net.bfloat16()
    from xmdpt_cli.encoders.weights import state_sha256

    manifest["encoders"]["source"] |= {"dtype": "bfloat16", "sha256": state_sha256(net)}
    mixed = find_encoders(manifest, data)
    assert mixed.source.dtype == torch.bfloat16
    assert mixed.vae.dtype == mixed.pose.dtype == torch.float32
    batch = OnlineLoader(dataset, replace(mixed), LoaderConfig(N, SEED)).batch(0)
    assert batch.source_tokens.isfinite().all()
