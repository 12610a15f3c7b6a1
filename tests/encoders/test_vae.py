"""The VAE against diffusers' own calls, its origin, and its errors."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from safetensors.torch import load_file, save_file
from sd_vae import sd_vae

from xmdpt_cli.encoders.decoder import to_images
from xmdpt_cli.encoders.vae import VAE, posterior_mean, sample_posterior, to_signed
from xmdpt_cli.errors import XmdptError

WEIGHTS = "diffusion_pytorch_model.safetensors"


def noise_images(count: int = 2, size: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def sd_like(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder with the architecture of sd-vae-ft-mse, thin and random."""
    net = sd_vae(layers_per_block=2, norm_num_groups=4)
    folder = tmp_path_factory.mktemp("sd") / "vae"
    net.save_pretrained(folder)
    return folder


def test_moments_equal_diffusers(sd_like: Path) -> None:
    images = noise_images()
    vae = VAE.load(sd_like)
    assert (vae.scale, vae.factor, vae.channels) == (0.18215, 8, 4)
    net = AutoencoderKL.from_pretrained(sd_like)
    signed = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255.0 * 2.0 - 1.0
    with torch.no_grad():
        expected = net.encode(signed).latent_dist.parameters
    moments = vae.encode_moments(images)
    assert moments.shape == (2, 8, 4, 4)
    assert moments.dtype == torch.float32
    torch.testing.assert_close(moments, expected, rtol=1e-4, atol=1e-5)


def test_decoding_equals_diffusers(sd_like: Path) -> None:
    vae = VAE.load(sd_like)
    latents = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        signed = AutoencoderKL.from_pretrained(sd_like).decode(latents / 0.18215).sample
    expected = (signed / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).mul(255).round()
    decoded = vae.decode(latents)
    assert decoded.dtype == np.uint8
    assert decoded.shape == (2, 32, 32, 3)
    difference = np.abs(decoded.astype(int) - expected.numpy().astype(int))
    assert difference.max() <= 1  # a value may fall on the other side of a half
    assert (difference > 0).mean() < 0.001


def relative(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found - exact).abs().max() / exact.abs().max())


def test_no_digits_are_lost_to_channels_last(sd_like: Path, tmp_path: Path) -> None:
    """torch's GroupNorm on CPUs cancels where a channels-last tensor's mean is far from 0."""
    plain = AutoencoderKL.from_pretrained(sd_like)
    for part in (plain.encoder, plain.decoder):
        part.conv_in.bias.data.fill_(100.0)
    plain.save_pretrained(tmp_path)
    vae, exact, images = VAE.load(tmp_path), plain.double(), noise_images(1, 128)
    plain = AutoencoderKL.from_pretrained(tmp_path)
    signed = to_signed(images)
    assert signed.is_contiguous()
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    last = [x.to(memory_format=torch.channels_last) for x in (signed, latents)]
    with torch.no_grad():
        moments = exact.encode(signed.double()).latent_dist.parameters
        decoded = exact.decode(latents.double()).sample
        lost = plain.encode(last[0]).latent_dist.parameters, plain.decode(last[1]).sample
        kept = vae.net.decode(latents).sample
    for made, true in zip(lost, (moments, decoded), strict=True):
        assert relative(made, true) > 1e-4, "torch loses none any more: see vae.channels_first"
    assert relative(vae.encode_moments(images), moments) < 1e-5
    assert relative(kept, decoded) < 1e-5
    seen: list[bool] = []
    vae.net.decoder.register_forward_pre_hook(lambda _, x: seen.append(x[0].is_contiguous()))
    vae.decode(last[1])
    assert seen == [True]


def test_chunks_do_not_change_the_moments(sd_like: Path) -> None:
    vae, images = VAE.load(sd_like), noise_images(5)
    whole = vae.encode_moments(images)
    latents = posterior_mean(whole, vae.scale)
    decoded = vae.decode(latents)
    vae.chunk_pixels = 2 * 32 * 32
    torch.testing.assert_close(vae.encode_moments(images), whole, rtol=1e-4, atol=1e-5)
    assert np.abs(vae.decode(latents).astype(int) - decoded.astype(int)).max() <= 1
    assert vae.encode_moments(images[:0]).shape == (0, 8, 4, 4)


def test_posterior_helpers_agree_with_diffusers() -> None:
    generator = torch.Generator().manual_seed(0)
    moments = torch.randn(3, 8, 2, 2, generator=generator) * 20.0  # beyond both clips
    posterior = DiagonalGaussianDistribution(moments)
    assert torch.equal(posterior_mean(moments, 0.5), posterior.mode() * 0.5)
    noise = torch.randn(3, 4, 2, 2, generator=generator)
    expected = (posterior.mean + posterior.std * noise) * 0.5
    torch.testing.assert_close(sample_posterior(moments, noise, 0.5), expected)


def test_half_precision_moments_give_float32_latents() -> None:
    moments = torch.zeros(1, 8, 2, 2, dtype=torch.float16)
    assert posterior_mean(moments, 1.0).dtype == torch.float32
    assert sample_posterior(moments, torch.zeros(1, 4, 2, 2), 1.0).dtype == torch.float32


def test_images_are_unchanged_by_conversion_to_floats_and_back() -> None:
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    signed = to_signed(every)
    assert signed.min() == -1.0
    assert signed.max() == 1.0
    assert np.array_equal(to_images(signed), every)
    with pytest.raises(ValueError, match="uint8"):
        to_signed(every.astype(np.float32))


def test_local_folder_is_described_by_its_file(sd_like: Path) -> None:
    described = VAE.load(sd_like).describe()
    digest = hashlib.sha256((sd_like / WEIGHTS).read_bytes()).hexdigest()
    expected = {"kind": "local", "id": str(sd_like), "sha256": digest, "toy": False}
    assert {key: described[key] for key in expected} == expected
    assert json.loads(json.dumps(described)) == described


def test_old_attention_names_of_the_published_file_are_read(sd_like: Path, tmp_path: Path) -> None:
    """sd-vae-ft-mse was saved when diffusers used other names for attention layers."""
    folder = tmp_path / "old"
    shutil.copytree(sd_like, folder)
    renames = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for name, value in load_file(folder / WEIGHTS).items():
        for new, former in renames.items():
            name = name.replace(f".{new}.", f".{former}.")
        old[name] = value
    assert "encoder.mid_block.attentions.0.query.weight" in old
    save_file(old, folder / WEIGHTS, metadata={"format": "pt"})
    images = noise_images()
    moments = VAE.load(folder).encode_moments(images)
    assert torch.equal(moments, VAE.load(sd_like).encode_moments(images))


def test_the_offline_error_names_what_to_fetch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(XmdptError, match="stabilityai/sd-vae-ft-mse is not on this machine") as err:
        VAE.load()
    assert "(HF_HUB_OFFLINE is set)" in err.value.message
    assert "hf download stabilityai/sd-vae-ft-mse --local-dir DIR" in err.value.hint
    assert "--vae DIR" in err.value.hint


def test_wrong_folders_are_named(sd_like: Path, tmp_path: Path) -> None:
    with pytest.raises(XmdptError, match="no such VAE folder"):
        VAE.load(tmp_path / "nowhere")
    with pytest.raises(XmdptError, match=r"no such VAE folder: \./no/where"):
        VAE.load("./no/where")
    with pytest.raises(XmdptError, match=r"no config\.json"):
        VAE.load(tmp_path)
    config = json.loads((sd_like / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(XmdptError, match=f"no {WEIGHTS}"):
        VAE.load(tmp_path)
    (tmp_path / WEIGHTS).write_bytes((sd_like / WEIGHTS).read_bytes()[:1000])
    with pytest.raises(XmdptError, match=r"is cut: it holds 1,000 bytes of"):
        VAE.load(tmp_path)
    state = load_file(sd_like / WEIGHTS)
    del state["decoder.conv_out.bias"]
    save_file(state, tmp_path / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(XmdptError, match=r"lacks 1 tensors, first decoder\.conv_out\.bias"):
        VAE.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "_class_name": "UNet"}))
    with pytest.raises(XmdptError, match="not a VAE"):
        VAE.load(tmp_path)


def test_images_not_divisible_by_the_factor_are_refused(sd_like: Path) -> None:
    with pytest.raises(XmdptError, match="factor 8"):
        VAE.load(sd_like).encode_moments(np.zeros((1, 36, 32, 3), dtype=np.uint8))


def test_decoding_on_a_cpu_is_float32(sd_like: Path) -> None:
    vae = VAE.load(sd_like)
    latents = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = vae.decode(latents)
    vae.decode_dtype = torch.bfloat16
    vae.compile_decoder(8)
    assert np.array_equal(vae.decode(latents), expected)


def test_padded_batches_decode_to_the_same_images(sd_like: Path) -> None:
    vae = VAE.load(sd_like)
    latents = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    expected, decode = vae.decode(latents), vae.net.decode
    sizes: list[int] = []

    def noted(z: torch.Tensor) -> object:
        sizes.append(len(z))
        return decode(z)

    vae.net.decode = noted
    vae._compiled_for = 2  # what compile_decoder sets on a GPU
    vae.chunk_pixels = 2 * 32 * 32
    assert abs(vae.decode(latents).astype(int) - expected.astype(int)).max() <= 1
    assert sizes == [2, 2]
