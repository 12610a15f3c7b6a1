"""Toy encoders: crops of large images, complete small ones, and the estimate of the time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from xmdpt_cli.datasets.find import find_dataset
from xmdpt_cli.toy import train_encoders as toy
from xmdpt_cli.toy.synthetic import make_synthetic
from xmdpt_cli.toy.train_encoders import CROP, Crops, ListedImages, make_toy_encoders, vae_seconds
from xmdpt_cli.vae_training.examples import Images


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("toy") / "raw"
    make_synthetic(out, people_train=2, people_test=1, views=2, seed=0, height=128)
    return out


def test_crops_are_parts_of_the_images(root: Path) -> None:
    images = ListedImages(find_dataset(root), "train", 96)
    crops = Crops(images, seed=0)
    assert len(crops) == 16 * len(images)
    places = set()
    for index in range(32):
        crop, image = crops[index], images[index // 16]
        assert crop.shape == (CROP, CROP, 3)
        found = [
            (y, x)
            for y in range(96 - CROP + 1)
            for x in range(96 - CROP + 1)
            if np.array_equal(image[y : y + CROP, x : x + CROP], crop)
        ]
        assert found
        places.add(found[0])
        np.testing.assert_array_equal(crop, Crops(images, seed=0)[index])
    assert len(places) > 16
    assert any(not np.array_equal(crops[i], Crops(images, seed=1)[i]) for i in range(16))


@pytest.mark.parametrize(("size", "side"), [(64, 64), (80, 64), (32, 32)])
def test_training_uses_crops_of_large_images(
    root: Path, tmp_path: Path, size: int, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Images] = []
    train = toy.train_vae
    monkeypatch.setattr(
        toy, "train_vae", lambda vae, images, *a, **k: seen.append(images) or train(
            vae, images, *a, **k)
    )  # fmt: skip
    made = make_toy_encoders(find_dataset(root), tmp_path / "a", size=size, vae_steps=2)
    assert seen[0][0].shape == (side, side, 3)
    assert made.vae.psnr is not None  # of complete images
    threads = torch.get_num_threads()
    if size > CROP:  # training on crops uses one thread
        torch.set_num_threads(threads + 1)
    again = make_toy_encoders(find_dataset(root), tmp_path / "b", size=size, vae_steps=2)
    assert torch.get_num_threads() == threads + (size > CROP)
    torch.set_num_threads(threads)
    assert again.encoders.describe() == made.encoders.describe()


def test_larger_images_take_more_steps() -> None:
    assert [toy.default_steps(size) for size in (64, 128, 144, 256, 512)] == [
        600, 600, 1200, 1200, 1200
    ]  # fmt: skip


def test_the_time_estimate_keeps_the_random_state() -> None:
    before = torch.random.get_rng_state()
    seconds = vae_seconds(32, 100)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert seconds > 0
