"""Batches: the right tensors, in an order that is a function of seed, step and rank."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from contextlib import closing
from dataclasses import fields
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_dataset import FakeEncoder, make_dataset

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.data.loader import Batch, TrainLoader, eval_batches, load_pairs
from xmdpt_cli.data.prefetch import prefetch
from xmdpt_cli.data.sampler import LoaderConfig, PairIndices
from xmdpt_cli.datasets.find import find_dataset
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.images import resize_square
from xmdpt_cli.pose.drawing import draw_pose, draw_pose_map
from xmdpt_cli.pose.keypoints import from_fractions
from xmdpt_cli.prepare.pipeline import prepare_dataset

SIZE = 32
PAIRS = 30


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loader")
    listing = find_dataset(make_dataset(folder / "raw"))
    prepare_dataset(listing, folder / "out", size=SIZE, encoder=FakeEncoder(), items_per_shard=2)
    return folder


@pytest.fixture
def dataset(prepared: Path) -> PairDataset:
    return PairDataset(prepared / "out")


def equal(one: Batch, other: Batch) -> bool:
    for field in fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        same = torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
        if not same:
            return False
    return True


def test_pairs_in_published_order(prepared: Path, dataset: PairDataset) -> None:
    listed = find_dataset(prepared / "raw").pairs("train")
    assert [(p.key, p.source, p.target, p.position) for p in dataset.pairs] == [
        (g.key, p.source, p.target, p.position) for g, p in listed
    ]
    assert len(dataset) == PAIRS
    assert dataset.resolution == SIZE
    assert len(dataset.views()) == 15
    assert len(PairDataset(prepared / "out", "test")) == 2


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("flip", [False, True])
def test_features_are_those_of_the_right_view(
    prepared: Path, dataset: PairDataset, swap: bool, flip: bool
) -> None:
    item, pair = find_dataset(prepared / "raw").pairs("train")[17]
    source, target = (pair.target, pair.source) if swap else (pair.source, pair.target)
    step = -1 if flip else 1

    def encoded(view: str) -> dict[str, torch.Tensor]:
        image = resize_square(item.views[view].load(), SIZE)[:, ::step]
        pose = draw_pose(from_fractions(item.keypoints[view], SIZE), SIZE)[:, ::step]
        return {k: t[0] for k, t in FakeEncoder().encode(image[None], pose[None]).items()}

    want = {
        "target_moments": encoded(target)["moments"].float(),
        "source_moments": encoded(source)["moments"].float(),
        "pose_tokens": encoded(target)["pose_tokens"],
        "source_tokens": encoded(source)["source_tokens"],
    }
    batch = load_pairs(dataset, PairIndices.listed([17], swap, flip), pose_maps=True, joints=True)
    assert batch.joints is not None
    for view, joints in zip((target, source), batch.joints[0], strict=True):
        stored = torch.from_numpy(item.keypoints[view]).float()  # fractions
        if flip:
            stored[:, 0] = 1 - stored[:, 0]
        torch.testing.assert_close(joints, stored, equal_nan=True)
    for name, tensor in want.items():
        assert getattr(batch, name).dtype == tensor.dtype
        assert torch.equal(getattr(batch, name)[0], tensor), name
    for view, rendered in ((target, batch.pose_map), (source, batch.source_pose_map)):
        pose = draw_pose_map(from_fractions(item.keypoints[view], SIZE), SIZE)[:, ::step]
        assert rendered is not None
        np.testing.assert_array_equal(rendered[0].numpy(), pose)
    assert batch.pairs == [f"{item.key}/{source}>{target}"]
    assert batch.flipped == [flip]


def test_dtypes(dataset: PairDataset) -> None:
    batch = TrainLoader(dataset, LoaderConfig(7, seed=0, pose_maps=True)).batch(0)
    assert batch.target_moments.shape == batch.source_moments.shape == (7, 6, 4, 4)
    assert batch.target_moments.dtype == batch.source_moments.dtype == torch.float32
    assert batch.pose_tokens.dtype == batch.source_tokens.dtype == torch.bfloat16
    assert batch.pose_map is not None
    assert batch.pose_map.shape == (7, SIZE, SIZE, 3)
    assert batch.pose_map.dtype == torch.uint8
    assert TrainLoader(dataset, LoaderConfig(7, seed=0)).batch(0).pose_map is None


def test_a_batch_depends_on_seed_step_and_rank_alone(prepared: Path, dataset: PairDataset) -> None:
    loader = TrainLoader(dataset, LoaderConfig(8, seed=3))
    seen = [loader.batch(step) for step in range(9)]
    # a new process that starts at step 5, and steps in another order
    again = TrainLoader(PairDataset(prepared / "out"), LoaderConfig(8, seed=3))
    for step in (5, 8, 0, 6):
        assert equal(again.batch(step), seen[step])
    assert not equal(TrainLoader(dataset, LoaderConfig(8, seed=4)).batch(0), seen[0])
    assert not equal(seen[0], seen[1])


def test_every_epoch_has_every_pair_once(dataset: PairDataset) -> None:
    loader = TrainLoader(dataset, LoaderConfig(8, seed=0, swap=False, flip=False))
    everything = [pair.name() for pair in dataset.pairs]
    names = [name for step in range(15) for name in loader.batch(step).pairs]  # 4 epochs
    epochs = [names[i : i + PAIRS] for i in range(0, 4 * PAIRS, PAIRS)]
    for epoch in epochs:
        assert sorted(epoch) == sorted(everything)
        assert epoch != everything
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_ranks_are_disjoint_and_share_the_epoch(dataset: PairDataset) -> None:
    # unswapped, because the list holds both directions and names would meet by swapping
    ranks = [
        TrainLoader(dataset, LoaderConfig(5, 1, rank=rank, world_size=2, swap=False))
        for rank in (0, 1)
    ]
    names: list[str] = []
    for step in range(3):  # one epoch
        parts = [loader.batch(step).pairs for loader in ranks]
        assert not set(parts[0]) & set(parts[1])
        names += parts[0] + parts[1]
    assert sorted(names) == sorted(pair.name() for pair in dataset.pairs)


def test_the_global_batch_does_not_depend_on_the_world_size(dataset: PairDataset) -> None:
    alone = TrainLoader(dataset, LoaderConfig(10, seed=1))
    ranks = [
        TrainLoader(dataset, LoaderConfig(5, seed=1, rank=rank, world_size=2)) for rank in (0, 1)
    ]
    for step in (0, 4):
        parts, whole = [loader.batch(step) for loader in ranks], alone.batch(step)
        assert parts[0].pairs + parts[1].pairs == whole.pairs
        tensors = [part.source_tokens for part in parts]
        assert torch.equal(torch.cat(tensors), whole.source_tokens)


def test_swap_and_flip_happen_to_half_of_the_pairs(dataset: PairDataset) -> None:
    plain = TrainLoader(dataset, LoaderConfig(100, seed=0, swap=False, flip=False))
    loader = TrainLoader(dataset, LoaderConfig(100, seed=0))
    swapped = flipped = both = 0
    for step in range(20):
        batch, unchanged = loader.batch(step), plain.batch(step)
        assert unchanged.flipped == [False] * 100
        for name, original, flip in zip(batch.pairs, unchanged.pairs, batch.flipped, strict=True):
            key, views = original.split("/")
            assert name in (original, f"{key}/{'>'.join(reversed(views.split('>')))}")
            swapped += name != original
            flipped += flip
            both += flip and name != original
    # 2000 draws: mean 1000, standard deviation 22 (500 and 19 for both); five of them
    assert abs(swapped - 1000) < 112
    assert abs(flipped - 1000) < 112
    assert abs(both - 500) < 97


def test_a_batch_is_swapped_together(dataset: PairDataset) -> None:
    """Published; and however it is cut over ranks and parts, it is the same batch."""
    plain = TrainLoader(dataset, LoaderConfig(8, seed=0))
    whole = TrainLoader(dataset, LoaderConfig(8, seed=0, swap_batch=8))
    ranks = [
        TrainLoader(dataset, LoaderConfig(2, seed=0, rank=r, world_size=2, swap_batch=8))
        for r in (0, 1)
    ]
    swapped = []
    for step in range(200):
        indices, own = whole.sampler.indices(step), plain.sampler.indices(step)
        assert len(set(indices.swap.tolist())) == 1
        assert np.array_equal(indices.pairs, own.pairs)
        assert np.array_equal(indices.flip, own.flip)
        parts = [ranks[r].sampler.indices(2 * step + part).swap for part in (0, 1) for r in (0, 1)]
        assert np.array_equal(np.concatenate(parts), indices.swap)
        swapped.append(bool(indices.swap[0]))
    assert abs(sum(swapped) - 100) < 36  # standard deviation 7
    off = TrainLoader(dataset, LoaderConfig(8, seed=0, swap=False, swap_batch=8))
    assert not any(off.sampler.indices(step).swap.any() for step in range(20))


def test_batches_larger_than_the_dataset(prepared: Path) -> None:
    small = PairDataset(prepared / "out", "test")
    batch = TrainLoader(small, LoaderConfig(7, seed=0, swap=False)).batch(2)
    assert len(batch.pairs) == len(batch.target_moments) == 7
    assert set(batch.pairs) == {pair.name() for pair in small.pairs}
    assert max(Counter(batch.pairs).values()) == 4


def test_prefetch_gives_the_same_batches(dataset: PairDataset) -> None:
    loader = TrainLoader(dataset, LoaderConfig(8, seed=0, pose_maps=True))
    with closing(prefetch(loader, start_step=4, depth=2)) as batches:
        for step, batch in zip(range(4, 20), batches, strict=False):
            assert equal(batch, loader.batch(step)), step


def test_prefetched_batches_stay_for_two_more(dataset: PairDataset) -> None:
    class Recording(TrainLoader):
        def batch(self, step: int, out: Batch | None = None) -> Batch:
            overwritten.append(out)
            if step == 3:
                at_step_3.set()
            return super().batch(step, out)

    overwritten: list[Batch | None] = []
    at_step_3 = threading.Event()
    loader = Recording(dataset, LoaderConfig(8, seed=0))
    with closing(prefetch(loader, depth=1)) as batches:
        kept = list(islice(batches, 2))
        # one more waits in the queue, and the one after is being read: none into what is kept
        assert at_step_3.wait(timeout=10)
        assert overwritten == [None] * 4
        names = list(kept[0].pairs)
        for _ in range(4):
            next(batches)
    # later its memory serves again, at step 4 or 5
    reused = next(step for step, out in enumerate(overwritten) if out is kept[0])
    assert torch.equal(kept[0].target_moments, loader.batch(reused).target_moments)
    assert kept[0].pairs == names


def test_prefetch_raises_errors_of_the_thread(dataset: PairDataset) -> None:
    class Failing(TrainLoader):
        def batch(self, step: int, out: Batch | None = None) -> Batch:
            if step == 2:
                raise XmdptError("disk gone")
            return super().batch(step, out)

    batches = prefetch(Failing(dataset, LoaderConfig(4, seed=0)))
    next(batches)
    next(batches)
    with pytest.raises(XmdptError, match="disk gone"):
        next(batches)


def test_eval_batches(prepared: Path) -> None:
    dataset = PairDataset(prepared / "out")
    batches = list(eval_batches(dataset, 8, limit=20, pose_maps=True))
    assert [len(batch.pairs) for batch in batches] == [8, 8, 4]
    names = [name for batch in batches for name in batch.pairs]
    assert names == [pair.name() for pair in dataset.pairs[:20]]
    item, pair = find_dataset(prepared / "raw").pairs("train")[9]
    batch = batches[1]
    for view, images, points in (
        (pair.source, batch.source_images, batch.source_keypoints),
        (pair.target, batch.target_images, batch.target_keypoints),
    ):
        np.testing.assert_array_equal(
            images[1].numpy(), resize_square(item.views[view].load(), SIZE)
        )
        want = from_fractions(item.keypoints[view], SIZE)
        np.testing.assert_array_equal(points[1].numpy(), want)
    assert batch.flipped == [False] * 8
    assert batch.pose_map is not None
    np.testing.assert_array_equal(
        batch.pose_map[1].numpy(), draw_pose_map(batch.target_keypoints[1].numpy(), SIZE)
    )
    assert sum(len(batch.pairs) for batch in eval_batches(dataset, 7)) == PAIRS


def test_other_folders_are_refused(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(XmdptError, match="does not exist"):
        PairDataset(tmp_path / "nowhere")
    with pytest.raises(XmdptError, match="holds no prepared dataset") as error:
        PairDataset(tmp_path)
    assert "prepare" in error.value.hint
    with pytest.raises(ConfigError, match="no such split"):
        PairDataset(prepared / "out", "val")
    copy = tmp_path / "copy"
    shutil.copytree(prepared / "out", copy)
    (copy / "train-000002.tar").unlink()
    with pytest.raises(XmdptError, match=r"train-000002\.tar is missing") as error:
        PairDataset(copy)
    command = f"xmdpt prepare --check {copy} --repair --root ROOT, where"
    assert error.value.hint.startswith(command)
    (copy / "dataset.json").unlink()
    with pytest.raises(XmdptError, match="interrupted") as error:
        PairDataset(copy)
    assert "same prepare command again" in error.value.hint
    (copy / "dataset.json").write_text('{"format": "xmdpt-dataset", "version": 99}')
    with pytest.raises(XmdptError, match="version 99"):
        PairDataset(copy)
    (copy / "dataset.json").write_text("[]")
    with pytest.raises(XmdptError, match="its content should be an object"):
        PairDataset(copy)


def test_impossible_loaders(dataset: PairDataset) -> None:
    for batch_size, rank, world in ((0, 0, 1), (4, 1, 1), (4, -1, 1)):
        with pytest.raises(ConfigError, match="impossible loader"):
            TrainLoader(dataset, LoaderConfig(batch_size, seed=0, rank=rank, world_size=world))


def test_a_missing_tensor_is_an_error(dataset: PairDataset) -> None:
    key, view = dataset.views()[0]
    with pytest.raises(XmdptError, match=r"holds no 'depth' \(it holds moments, moments_flip"):
        dataset.tensor(key, view, "depth")
