"""VAE training: start values, determinism, resuming, and weights that do not change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from skimage.metrics import peak_signal_noise_ratio
from vae_data import WEIGHTS, blobs

from xmdpt_cli.encoders.vae import VAE, posterior_mean, to_signed
from xmdpt_cli.encoders.weights import Origin
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.toy.encoders import toy_vae
from xmdpt_cli.vae_training.config import VaeConfig
from xmdpt_cli.vae_training.loop import reconstruction_psnr, train_vae
from xmdpt_cli.vae_training.loss import foreground


def train(out: Path, **changes: Any) -> Any:
    """A run of a few steps on 32 px."""
    settings = {"steps": 6, "batch_size": 2, "learning_rate": 1e-3, "seed": 1, "lpips": 0.0}
    settings |= {"all_weights": True, "latent_noise": 0.0, **changes}
    vae = settings.pop("vae", None) or toy_vae(32)
    images = settings.pop("images", blobs(5, 32))
    more = {k: settings.pop(k) for k in ("held_out", "progress") if k in settings}
    return vae, train_vae(vae, images, VaeConfig(**settings), out=out, **more)


def state_bytes(part: torch.nn.Module) -> bytes:
    return b"".join(value.numpy().tobytes() for value in part.state_dict().values())


@pytest.mark.parametrize("size", [64, 256])
def test_toy_passes_images_through_untrained(size: int) -> None:
    images = blobs(4, size)
    vae = toy_vae(size)
    untouched = VAE(AutoencoderKL.from_config(vae.net.config), Origin("toy", "default"))
    assert reconstruction_psnr(vae, images) > 18.0
    assert reconstruction_psnr(untouched, images) < 12.0
    assert vae.factor == (4 if size == 64 else 8)


def test_reconstruction_psnr_equals_scikit_image() -> None:
    images, vae = blobs(3, 32), toy_vae(32)
    decoded = vae.decode(posterior_mean(vae.encode_moments(images), vae.scale))
    each = [peak_signal_noise_ratio(a, b) for a, b in zip(images, decoded, strict=True)]
    assert reconstruction_psnr(vae, images) == pytest.approx(np.mean(each), abs=1e-9)


def test_training_improves_and_reports(tmp_path: Path) -> None:
    held_out = blobs(4, 32, seed=9)
    seen: list[tuple[str, int, int]] = []
    vae, stats = train(
        tmp_path / "toy",
        images=blobs(40, 32),
        steps=60,
        batch_size=4,
        held_out=held_out,
        progress=lambda stage, done, total, **info: seen.append((stage, done, total)),
    )
    assert stats.loss_last < stats.loss_first
    assert stats.psnr > stats.psnr_before + 1.0
    assert stats.psnr == reconstruction_psnr(VAE.load(tmp_path / "toy"), held_out)
    assert seen == [("vae", step, 60) for step in range(1, 61)]
    assert vae.describe() == VAE.load(tmp_path / "toy").describe()
    assert vae.describe()["toy"] is True
    assert not any(parameter.requires_grad for parameter in vae.net.parameters())


def test_latents_of_a_toy_have_unit_deviation(tmp_path: Path) -> None:
    images = blobs(20, 32)
    train(tmp_path / "toy", images=images)
    vae = VAE.load(tmp_path / "toy")
    latents = posterior_mean(vae.encode_moments(images), vae.scale)
    assert float(latents.std()) == pytest.approx(1.0, abs=1e-3)


def test_latent_noise_makes_the_decoder_robust(tmp_path: Path) -> None:
    images = blobs(24, 32)
    scores = {}
    for noise in (0.0, 1.0):
        vae, _ = train(tmp_path / str(noise), images=images, steps=120, latent_noise=noise)
        latents = posterior_mean(vae.encode_moments(images), vae.scale)  # unit deviation
        wrong = latents + torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
        scores[noise] = peak_signal_noise_ratio(images, vae.decode(wrong), data_range=255)
    assert scores[1.0] > scores[0.0] + 1.0, scores  # dB


def test_decoder_training_keeps_the_encoder(tmp_path: Path) -> None:
    vae = toy_vae(32)
    vae.net.register_to_config(scaling_factor=0.18215)
    vae.origin = Origin("local", "like a real one")
    before = {name: state_bytes(part) for name, part in vae.net.named_children()}
    moments = vae.encode_moments(blobs(2, 32))
    train(tmp_path / "tuned", vae=vae, all_weights=False)
    tuned = VAE.load(tmp_path / "tuned")
    for name in ("encoder", "quant_conv"):
        assert state_bytes(getattr(tuned.net, name)) == before[name]
    for name in ("decoder", "post_quant_conv"):
        assert state_bytes(getattr(tuned.net, name)) != before[name]
    assert torch.equal(tuned.encode_moments(blobs(2, 32)), moments)
    assert tuned.scale == 0.18215
    assert vae.describe() == tuned.describe()
    assert tuned.describe()["toy"] is False


def test_the_seed_decides_the_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(tmp_path / name, seed=seed)
    a, b, c = ((tmp_path / name / WEIGHTS).read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_an_interrupted_run_continues_to_the_same_bytes(tmp_path: Path) -> None:
    def interrupt(stage: str, done: int, total: int, /, **info: Any) -> None:
        if done == 5:
            raise KeyboardInterrupt

    _, whole = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", checkpoint_every=2, progress=interrupt)
    assert not (tmp_path / "cut" / "config.json").exists()
    with pytest.raises(XmdptError, match="what differs: seed: 1 -> 2"):
        train(tmp_path / "cut", seed=2)
    seen: list[int] = []
    _, continued = train(
        tmp_path / "cut", progress=lambda stage, done, total, **info: seen.append(done)
    )
    assert seen == [6]  # an interrupt saves what is done
    assert continued.loss_last == whole.loss_last
    assert (tmp_path / "cut" / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()
    left = sorted(path.name for path in (tmp_path / "cut").iterdir())
    assert left == sorted(
        [WEIGHTS, "config.json", "config.toml", "metrics.jsonl", "run.json", "xmdpt_toy.json",
         "xmdpt_training.json"]
    )  # fmt: skip


def test_a_finished_training_is_neither_repeated_nor_overwritten(tmp_path: Path) -> None:
    _, stats = train(tmp_path / "toy")
    seen: list[int] = []
    again, repeated = train(
        tmp_path / "toy", progress=lambda stage, done, total, **info: seen.append(done)
    )
    assert seen == []
    assert repeated == stats
    assert again.describe() == VAE.load(tmp_path / "toy").describe()
    with pytest.raises(XmdptError, match="what differs: the images"):
        train(tmp_path / "toy", images=blobs(5, 32, seed=4))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious.txt").write_text("mine")
    with pytest.raises(XmdptError, match="holds no VAE training"):
        train(tmp_path / "mine")
    json.loads((tmp_path / "toy" / "xmdpt_training.json").read_text())


def test_invalid_trainings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(XmdptError, match="no images"):
        train(tmp_path / "toy", images=blobs(0, 32))
    with pytest.raises(XmdptError, match="diverged: loss nan") as err:
        train(tmp_path / "toy", learning_rate=1e30)
    assert "lower learning rate" in err.value.hint
    assert not (tmp_path / "toy" / "config.json").exists()
    with pytest.raises(XmdptError, match="float32"):
        train(tmp_path / "half", vae=VAE(toy_vae(32).net.bfloat16(), Origin("toy", "half")))
    assert not (tmp_path / "half").exists()


def test_foreground_is_what_differs_from_the_border() -> None:
    image = np.full((1, 8, 8, 3), 200, dtype=np.uint8)
    image[0, 2:5, 3:8] = 10, 200, 200  # reaches the right border
    image[0, 6, 1] = 203  # a touch of compression noise
    expected = np.zeros((8, 8), dtype=np.float32)
    expected[2:5, 3:8] = 1
    assert np.array_equal(foreground(to_signed(image))[0, 0].numpy(), expected)
