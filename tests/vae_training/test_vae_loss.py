"""The loss of VAE training against its formula, the head's disc, and the batches of steps."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from vae_data import SIZE, blobs, make_dataset

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.encoders.vae import VAE, to_signed
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.metrics.lpips_metric import LpipsNetwork
from xmdpt_cli.pose.head import head_disc, head_map
from xmdpt_cli.toy.encoders import toy_vae
from xmdpt_cli.vae_training.config import VaeConfig, settle
from xmdpt_cli.vae_training.examples import (
    DatasetExamples,
    ImageExamples,
    VaeBatch,
    sample_batch,
)
from xmdpt_cli.vae_training.loss import vae_losses
from xmdpt_cli.vae_training.trainer import VaeTrainer


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("vae-loss"))


def person(**joints: tuple[float, float]) -> np.ndarray:
    names = {"nose": 0, "neck": 1, "wrist": 4, "eye": 14, "right_ear": 16, "left_ear": 17}
    points = np.full((18, 2), np.nan)
    for name, place in joints.items():
        points[names[name]] = place
    return points


def test_the_head_disc_follows_the_joints() -> None:
    front = person(
        nose=(50, 40), right_ear=(40, 40), left_ear=(60, 40), neck=(50, 60), wrist=(9, 9)
    )
    assert head_disc(front) == (50, 40, 15.0)  # half the ears' distance, half as much again
    profile = person(nose=(50, 40), eye=(48, 40), neck=(49, 70))
    assert head_disc(profile) == (49, 40, pytest.approx(21.0))  # 0.7 of the way to the neck
    assert head_disc(person(neck=(50, 60), wrist=(9, 9))) is None  # seen from behind
    assert head_disc(person(nose=(50, 40))) is None  # no spread
    grown = head_disc(2 * front)
    assert grown == (100, 80, 30.0)


def test_the_head_map_is_soft_and_mirrors_with_the_image() -> None:
    front = person(nose=(50, 40), right_ear=(40, 40), left_ear=(60, 40), neck=(50, 60))
    found = head_map(front, 96, 128)
    assert found.shape == (96, 128)
    assert found[40, 50] == found[40, 64] == 1.0  # inside 15 px
    assert found[40, 50 + 18] == pytest.approx(0.6)  # on the way from 15 to 22.5 px
    assert found[40, 50 + 23] == found[80, 50] == 0.0
    mirrored = front.copy()
    mirrored[:, 0] = 127 - mirrored[:, 0]
    assert np.allclose(head_map(mirrored, 96, 128), found[:, ::-1], atol=1e-6)
    assert not head_map(person(), 8, 8).any()


def test_the_loss_equals_its_formula_in_numpy() -> None:
    """In numpy, float64, pixel by pixel, from the decoder's output alone."""
    vae, config = toy_vae(SIZE), VaeConfig(l1=0.7, mse=1.3, lpips=0.0, face_weight=5.0)
    images = blobs(2, SIZE)
    images[:] = np.where(images == images[:, :1, :1], np.uint8(200), images)
    head = np.random.default_rng(0).random((2, 1, SIZE, SIZE), np.float32)
    moments = vae.encode_moments(images)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    batch = VaeBatch(torch.from_numpy(images), noise, moments, torch.from_numpy(head))
    terms = vae_losses(vae, batch, config)

    mean, log_variance = moments.double().chunk(2, dim=1)
    latents = mean + (log_variance / 2).exp() * noise.double()
    with torch.no_grad():
        decoded = vae.net.decode(latents.float()).sample.double().numpy()
    target = images.transpose(0, 3, 1, 2) / 127.5 - 1
    error = np.abs(decoded - target)
    differs = (np.abs(target - (200 / 127.5 - 1)) > 0.06).any(axis=1, keepdims=True)
    weight = np.where(differs, 3.0, 1.0) * (1 + 4 * head)
    expected = (weight * (0.7 * error + 1.3 * error**2)).mean()
    assert terms["loss"].item() == pytest.approx(expected, rel=1e-4)
    assert terms["l1"].item() == pytest.approx(error.mean(), rel=1e-4)
    assert terms["mse"].item() == pytest.approx((error**2).mean(), rel=1e-4)


@pytest.mark.parametrize("all_weights", [False, True])
def test_a_step_runs_on_contiguous_tensors(all_weights: bool) -> None:
    """torch's GroupNorm loses digits on channels-last ones (``tests/encoders/test_vae.py``)."""
    vae = toy_vae(SIZE)
    seen: list[bool] = []

    def record(_: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        seen.append(given[0].is_contiguous())

    for module in vae.net.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.register_forward_pre_hook(record)
    batch = VaeBatch(torch.from_numpy(blobs(2, SIZE)), torch.zeros(2, 4, 8, 8))
    vae_losses(vae, batch, VaeConfig(lpips=0.0, all_weights=all_weights))
    assert len(seen) > 10
    assert all(seen)


def test_lpips_in_the_loss_equals_the_metric_and_has_gradients() -> None:
    a, b = blobs(2, 48, seed=1), blobs(2, 48, seed=2)
    network = LpipsNetwork("toy")
    made = to_signed(a).requires_grad_(True)
    distances = network(made, to_signed(b))
    expected = [network.distance(x, y) for x, y in zip(a, b, strict=True)]
    assert distances.tolist() == pytest.approx(expected, rel=1e-4)
    distances.sum().backward()
    assert made.grad is not None
    assert float(made.grad.abs().sum()) > 0
    small = VaeBatch(torch.from_numpy(blobs(2, 16)), torch.zeros(2, 4, 4, 4))
    with pytest.raises(XmdptError, match="31 px") as error:
        vae_losses(toy_vae(16), small, VaeConfig(lpips=0.5), perceptual=network)
    assert "--lpips 0" in error.value.hint

    vae, config = toy_vae(48), VaeConfig(lpips=0.5)
    batch = VaeBatch(torch.from_numpy(a), torch.zeros(2, 4, 12, 12))
    plain, with_lpips = (vae_losses(vae, batch, config, perceptual=p) for p in (None, network))
    added = with_lpips["loss"] - plain["loss"]
    assert added.item() == pytest.approx(0.5 * with_lpips["lpips"].item(), rel=1e-4)


def test_stored_moments_equal_encoding(data: Path) -> None:
    """Mirrored images too, up to the half precision in which moments are stored."""
    dataset, vae = PairDataset(data), VAE.load(data.parent / "vae")
    stored, encoded = (DatasetExamples(dataset, cached=cached) for cached in (True, False))
    config = VaeConfig(lpips=0.0)
    mirrored = 0
    for step in range(3):
        a, b = (sample_batch(examples, vae, 0, step, 4, 0, 1) for examples in (stored, encoded))
        assert torch.equal(a.images, b.images)
        assert b.moments is None
        exact = vae.encode_moments(a.images.numpy())
        assert a.moments is not None
        torch.testing.assert_close(a.moments, exact, rtol=1e-3, atol=1e-3)
        losses = [vae_losses(vae, batch, config)["loss"].item() for batch in (a, b)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)
        originals = [stored.images[i].tobytes() for i in range(len(stored))]
        mirrored += sum(p.numpy().tobytes() not in originals for p in a.images)
    assert 0 < mirrored < 12


def test_heads_are_mirrored_with_their_images(data: Path) -> None:
    """Images equal to their head maps stay equal after mirroring."""
    examples = DatasetExamples(PairDataset(data), heads=True)

    heads = [examples.head(index) for index in range(len(examples))]

    class Heads(ImageExamples):
        def head(self, index: int) -> np.ndarray | None:
            return heads[index]

    images = [np.repeat(np.uint8(255 * h)[..., None], 3, axis=2) for h in heads if h is not None]
    batch = sample_batch(Heads(images), toy_vae(SIZE), 0, 0, 12, 0, 1)
    assert batch.head is not None
    shown = batch.images[..., 0].float() / 255
    assert float(shown.max()) > 0.9
    torch.testing.assert_close(shown, batch.head[:, 0], atol=1 / 255, rtol=0)


@pytest.mark.parametrize("ranks", [2, 4])
def test_processes_share_one_batch(ranks: int) -> None:
    vae, examples = toy_vae(SIZE), ImageExamples(blobs(7, SIZE))
    for step in range(3):
        whole = sample_batch(examples, vae, 3, step, 8, 0, 1)
        parts = [sample_batch(examples, vae, 3, step, 8, rank, ranks) for rank in range(ranks)]
        assert torch.equal(torch.cat([p.images for p in parts]), whole.images)
        assert torch.equal(torch.cat([p.noise for p in parts]), whole.noise)


def test_an_epoch_shows_every_image_once() -> None:
    images = np.arange(12, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2)
    examples = ImageExamples(images.repeat(3, 3))
    steps = [sample_batch(examples, toy_vae(SIZE), 0, step, 4, 0, 1) for step in range(6)]
    seen = [int(image[0, 0, 0]) for batch in steps for image in batch.images]
    assert sorted(seen[:12]) == sorted(seen[12:]) == list(range(12))
    assert seen[:12] != seen[12:]


def test_the_ema_follows_its_formula_and_replaces_the_weights() -> None:
    vae = toy_vae(SIZE)
    config = settle(VaeConfig(steps=9, lpips=0.0, ema=0.25, learning_rate=1e-3), 5)
    trainer = VaeTrainer(vae, config)
    weight, expected = vae.net.decoder.conv_in.weight, vae.net.decoder.conv_in.weight.clone()
    trainer.trained.requires_grad_(True)
    for step in range(3):
        trainer.step(sample_batch(ImageExamples(blobs(5, SIZE)), vae, 0, step, 2, 0, 1))
        decay = min(0.25, (2 + step) / (11 + step))
        expected = decay * expected + (1 - decay) * weight.detach()
    assert not torch.equal(weight, expected)
    trainer.use_ema()
    torch.testing.assert_close(vae.net.decoder.conv_in.weight.detach(), expected)


def test_settle_fills_in_steps_epochs_and_learning_rate() -> None:
    paper = settle(VaeConfig(batch_size=16), 48_674)  # the training images of DeepFashion
    assert paper.steps == math.ceil(77 * 48_674 / 16)
    assert paper.learning_rate == pytest.approx(7.2e-5)
    assert settle(VaeConfig(steps=100, batch_size=4), 200).epochs == 2.0
    assert settle(VaeConfig(all_weights=True), 10).learning_rate == 2e-3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"face_weight": -1.0}, "face_weight"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"ema": 1.0}, "ema lies in"),
        ({"epochs": 0.0}, "epochs must be positive"),
        ({"precision": "fp8"}, "precision must be one of"),
        ({"l1": 0.0, "mse": 0.0, "lpips": 0.0}, "nothing to train for"),
    ],
)
def test_wrong_settings_are_named(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        VaeConfig(**wrong)  # type: ignore[arg-type]
