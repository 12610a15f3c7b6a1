"""Training a tiny decoder on a dataset's latents: loss, result, resuming, and errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio
from vae_data import WEIGHTS, make_dataset, tensors

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.encoders.tiny_decoder import TinyDecoder
from xmdpt_cli.encoders.vae import VAE, posterior_mean
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.toy.encoders import toy_vae
from xmdpt_cli.vae_training.config import VaeConfig, settle
from xmdpt_cli.vae_training.examples import VaeBatch
from xmdpt_cli.vae_training.finetune import FineTuned, finetune
from xmdpt_cli.vae_training.loss import vae_losses
from xmdpt_cli.vae_training.plan import lpips_networks, make_plan
from xmdpt_cli.vae_training.tiny import start_tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("tiny-training"))


def run(data: Path, out: Path, start: str | None = None, **changes: Any) -> FineTuned:
    progress = changes.pop("progress", lambda *_, **__: None)
    made = {"steps": 6, "batch_size": 2, "lpips": 0.0, "seed": 1, "checkpoint_every": 2}
    config = VaeConfig(**{**made, "log_every": 2, "decoder": "tiny", **changes})
    vae, dataset = VAE.load(data.parent / "vae"), PairDataset(data, "train")
    tiny, _ = start_tiny(dataset, vae, start, seed=config.seed)
    plan = make_plan(config, data, vae, tiny=tiny)
    perceptual, lpips, notes = lpips_networks(config, None, True, "cpu")
    return finetune(plan, out, perceptual=perceptual, lpips=lpips, notes=notes, progress=progress)


@pytest.fixture(scope="module")
def trained(data: Path) -> Path:
    changes = {"steps": 60, "learning_rate": 4e-3, "face_weight": 3.0}
    run(data, data.parent / "trained", **changes)
    return data.parent / "trained"


def test_the_loss_has_the_photographs_and_the_full_decoders_images_as_targets() -> None:
    """Against its formula: shares of two weighted L1 and L2 distances."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 16, 16, 3), generator=rng, dtype=torch.uint8)
    vae = toy_vae(16)
    vae.net.register_to_config(scaling_factor=0.45)
    tiny = TinyDecoder.untrained({**vae.describe()}, width=8)  # type: ignore[typeddict-item]
    moments = vae.encode_moments(images)
    noise = torch.randn(2, 4, 4, 4, generator=rng)
    head = torch.rand(2, 1, 16, 16, generator=rng)
    batch = VaeBatch(images, noise, moments, head)
    config = VaeConfig(
        decoder="tiny", l1=0.7, mse=1.3, lpips=0.0, face_weight=3.0, foreground_weight=1.0,
        full_share=0.3,
    )  # fmt: skip
    terms = vae_losses(vae, batch, config, decoder=tiny)

    mean, log_variance = moments.double().chunk(2, dim=1)
    latents = (mean + (log_variance / 2).exp() * noise).float()
    with torch.no_grad():
        full = vae.net.decode(latents).sample.double()
        small = tiny.net.decoder(0.45 * latents).double()
    photographs = images.permute(0, 3, 1, 2).double() / 127.5 - 1
    weight, expected = 1 + 2 * head, 0.0
    for share, target in ((0.7, photographs), (0.3, full)):
        error = (small - target).abs()
        expected += share * float((weight * (0.7 * error + 1.3 * error**2)).mean())
    assert terms["loss"].item() == pytest.approx(expected, rel=1e-4)
    assert terms["l1"].item() == pytest.approx(float((small - photographs).abs().mean()), rel=1e-4)
    assert terms["l1_full"].item() == pytest.approx(float((small - full).abs().mean()), rel=1e-4)


def test_it_learns_the_latents_and_is_reported_beside_the_full_decoder(
    data: Path, trained: Path
) -> None:
    made, vae = TinyDecoder.load(trained), VAE.load(data.parent / "vae")
    report = json.loads((trained / "report.json").read_text())
    rows = report["rows"]
    assert list(rows) == ["full decoder", "tiny decoder", "tiny against full"]
    dataset = PairDataset(data, "test")
    photographs = np.stack([dataset.image(*view) for view in sorted(dataset.views())])
    latents = posterior_mean(vae.encode_moments(photographs), vae.scale)
    full, tiny = vae.decode(latents), made.decode(latents)
    for row, target, images in (
        ("full decoder", photographs, full),
        ("tiny decoder", photographs, tiny),
        ("tiny against full", full, tiny),
    ):
        each = [peak_signal_noise_ratio(a, b) for a, b in zip(target, images, strict=True)]
        # half-precision moments: a few grey values differ by one
        assert rows[row]["psnr"] == pytest.approx(np.mean(each), abs=0.02), row
        assert {"ssim_w51", "ssim_256", "psnr_face", "lpips_alex_v0.1_toy"} <= rows[row].keys()
    # better than the mean colour in every image
    flat = np.broadcast_to(photographs.mean(axis=(0, 1, 2)), photographs[0].shape).astype(np.uint8)
    constant = np.mean([peak_signal_noise_ratio(a, flat) for a in photographs])
    assert rows["tiny decoder"]["psnr"] > constant + 1
    sheet = np.asarray(Image.open(trained / "full_tiny.png"))
    assert sheet.shape[1] > 3 * sheet.shape[0] / 8  # three images and three heads, 6 lines
    logged = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert {"loss", "l1", "mse", "l1_full", "mse_full"} <= logged[0].keys()


def test_the_folder_says_whose_latents_it_decodes(data: Path, trained: Path) -> None:
    made, vae = TinyDecoder.load(trained), VAE.load(data.parent / "vae")
    manifest = PairDataset(data).manifest["encoders"]["vae"]
    assert made.latents["sha256"] == manifest["sha256"] == vae.describe()["sha256"]
    assert made.scale == pytest.approx(0.9)
    assert (made.factor, made.channels) == (vae.factor, vae.channels)
    assert made.net.config.decoder_block_out_channels[0] == 32  # no wider than the full decoder
    record = json.loads((trained / "xmdpt_training.json").read_text())
    assert record["full_decoder"]["sha256"] == vae.describe()["sha256"]
    assert record["sha256"] == made.describe()["sha256"]  # as samples name it
    assert "no encoder: its weights are NaN" in record["what"]
    assert record["encoder"]["before"] == record["encoder"]["after"]
    for name in ("xmdpt_latents.json", "README.md", "config.json"):
        assert str(data.parent) not in (trained / name).read_text()  # the folder may be published


def test_an_interrupted_training_resumes_to_the_same_bytes(data: Path, tmp_path: Path) -> None:
    def stop(stage: str, done: int, total: int, /, **info: Any) -> None:
        if (stage, done) == ("vae", 3):
            raise KeyboardInterrupt

    changes = {"ema": 0.9, "face_weight": 2.0}
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path / "cut", progress=stop, **changes)
    assert not (tmp_path / "cut/config.json").exists()
    run(data, tmp_path / "cut", **changes)
    run(data, tmp_path / "whole", **changes)
    for name in (WEIGHTS, "report.json", "full_tiny.png"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    with pytest.raises(XmdptError, match=r"full_share: 0.5 -> 0.25"):
        run(data, tmp_path / "whole", full_share=0.25, **changes)


def test_it_starts_from_a_network_of_the_same_shape(data: Path, tmp_path: Path) -> None:
    """Its encoder stays; where the shape is another one, or nothing is there, it is an error."""
    start = AutoencoderTiny(
        encoder_block_out_channels=(8,) * 3, decoder_block_out_channels=(8,) * 3,
        num_encoder_blocks=(1, 1, 1), num_decoder_blocks=(1, 1, 1),
    )  # fmt: skip
    start.save_pretrained(tmp_path / "start")
    run(data, tmp_path / "out", str(tmp_path / "start"), steps=2)
    before, after = tensors(tmp_path / "start"), tensors(tmp_path / "out")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith("decoder.")}
    assert "whose encoder it has" in (tmp_path / "out/xmdpt_training.json").read_text()
    AutoencoderTiny().save_pretrained(tmp_path / "published")
    with pytest.raises(ConfigError, match="factor 8; the dataset's have 4 channels and factor 4"):
        run(data, tmp_path / "no", str(tmp_path / "published"))
    with pytest.raises(XmdptError, match="no such tiny decoder folder"):
        run(data, tmp_path / "no", str(tmp_path / "nowhere/x"))
    assert not (tmp_path / "no").exists()


def test_the_published_start_is_used_for_its_latents_or_said_to_be_missing(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, vae = PairDataset(data), VAE.load(data.parent / "vae")
    made, what = start_tiny(dataset, vae, None)
    assert made.start is None
    assert "decodes Stable Diffusion's latents, not these" in what
    latents = dataset.manifest["encoders"]["vae"]
    monkeypatch.setitem(latents, "scale", 0.18215)
    monkeypatch.setitem(latents, "factor", 8)
    made, what = start_tiny(dataset, vae, None)
    assert (made.start, made.factor) == (None, 8)
    assert "random weights (tiny decoder madebyollin/taesd is not on this machine" in what
    assert "`hf download madebyollin/taesd --local-dir DIR`; then name its folder: --start" in what


def test_settings_that_do_not_apply_are_refused() -> None:
    with pytest.raises(ConfigError, match="--all-weights trains a VAE with latents of its own"):
        VaeConfig(decoder="tiny", all_weights=True)
    with pytest.raises(ConfigError, match=r"full_share lies in \[0, 1\]"):
        VaeConfig(decoder="tiny", full_share=1.5)
    assert settle(VaeConfig(), 100).full_share == 0.0
    assert settle(VaeConfig(decoder="tiny", steps=1), 100).learning_rate == 2e-3


def test_without_test_images_there_is_no_report(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data.parent, tmp_path / "copy", ignore=shutil.ignore_patterns("trained", "raw"))
    manifest = json.loads((tmp_path / "copy/data/dataset.json").read_text())
    manifest["shards"] = [s for s in manifest["shards"] if s["split"] == "train"]
    manifest["counts"]["test"] = dict.fromkeys(manifest["counts"]["test"], 0)
    (tmp_path / "copy/data/dataset.json").write_text(json.dumps(manifest))
    done = run(tmp_path / "copy/data", tmp_path / "out", steps=1)
    assert (done.report, done.stats.psnr) == (None, None)
    assert TinyDecoder.load(tmp_path / "out").latents["factor"] == 4
    assert not (tmp_path / "out/report.json").exists()
