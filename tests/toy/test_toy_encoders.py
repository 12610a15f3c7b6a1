"""Toy encoders: large images are learned in pieces, small ones whole; the time is told before."""

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


def test_pieces_of_images(root: Path) -> None:
    images = ListedImages(find_dataset(root), "train", 96)
    crops = Crops(images, seed=0)
    assert len(crops) == 16 * len(images)
    places = set()
    for index in range(32):
        piece, whole = crops[index], images[index // 16]
        assert piece.shape == (CROP, CROP, 3)
        found = [
            (y, x)
            for y in range(96 - CROP + 1)
            for x in range(96 - CROP + 1)
            if np.array_equal(whole[y : y + CROP, x : x + CROP], piece)
        ]
        assert found
        places.add(found[0])
        np.testing.assert_array_equal(piece, Crops(images, seed=0)[index])
    assert len(places) > 16
    assert any(not np.array_equal(crops[i], Crops(images, seed=1)[i]) for i in range(16))


@pytest.mark.parametrize(("size", "side"), [(64, 64), (80, 64), (32, 32)])
def test_a_training_step_never_sees_more_than_a_piece(
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
    assert made.vae.psnr is not None  # of whole images
    threads = torch.get_num_threads()
    if size > CROP:  # pieces are learned on one thread, whatever there is
        torch.set_num_threads(threads + 1)
    again = make_toy_encoders(find_dataset(root), tmp_path / "b", size=size, vae_steps=2)
    assert torch.get_num_threads() == threads + (size > CROP)
    torch.set_num_threads(threads)
    assert again.encoders.describe() == made.encoders.describe()


def test_more_steps_where_four_numbers_stand_for_more_pixels() -> None:
    assert [toy.default_steps(size) for size in (64, 128, 144, 256, 512)] == [
        600, 600, 1200, 1200, 1200
    ]  # fmt: skip


def test_the_time_is_measured_without_a_trace() -> None:
    before = torch.random.get_rng_state()
    one = vae_seconds(32, 100)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert one > 0
