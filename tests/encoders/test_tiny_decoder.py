"""The tiny decoder against diffusers: sizes, scaling, the folder, and latents it does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderTiny,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)

from xmdpt_cli.bench.flops import flops
from xmdpt_cli.encoders.identity import VAERecord
from xmdpt_cli.encoders.places import LATENTS
from xmdpt_cli.encoders.tiny_decoder import (
    TinyDecoder,
    is_tiny,
    load_decoder,
    tiny_network,
)
from xmdpt_cli.encoders.vae import VAE
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.toy.encoders import toy_vae


def record(**changes: Any) -> VAERecord:
    made = {
        "kind": "local", "id": "sd-vae", "revision": None, "sha256": "a" * 64, "dtype": "float32",
        "toy": False, "scale": 0.18215, "factor": 8, "channels": 4,
    }  # fmt: skip
    return VAERecord(**{**made, **changes})  # type: ignore[typeddict-item]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tiny") / "vae-tiny"
    TinyDecoder.untrained(record(), width=8).save(out)
    return out


def test_the_published_form_has_the_published_size_and_cost() -> None:
    """TAESD's decoder: 1.22 M parameters; 35.3 GFLOP for an image of 256 px."""
    with torch.device("meta"):
        net, published = tiny_network(4, 8), AutoencoderTiny()
        latents = torch.empty(1, 4, 32, 32)
    shapes = {name: value.shape for name, value in published.decoder.state_dict().items()}
    assert {name: value.shape for name, value in net.decoder.state_dict().items()} == shapes
    assert sum(p.numel() for p in net.decoder.parameters()) == 1_222_531
    assert flops(lambda: net.decode(latents)) == pytest.approx(35.3e9, rel=0.005)


@pytest.mark.parametrize(("channels", "factor"), [(4, 8), (4, 4), (16, 8), (3, 1)])
def test_it_has_the_geometry_of_the_latents(channels: int, factor: int) -> None:
    made = TinyDecoder.untrained(record(channels=channels, factor=factor), width=8)
    assert (made.channels, made.factor, made.scale) == (channels, factor, 0.18215)
    assert made.decode(torch.randn(2, channels, 4, 6)).shape == (2, 4 * factor, 6 * factor, 3)
    with pytest.raises(ConfigError, match="power of 2, not by 6"):
        tiny_network(4, 6)


@pytest.mark.parametrize("scale", [0.18215, 0.45])
def test_scaled_latents_are_the_networks_input(scale: float) -> None:
    made = TinyDecoder.untrained(record(scale=scale), width=8)
    latents = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        signed = made.net.decoder(latents)  # in [-1, 1]
    expected = ((signed + 1) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 1).numpy()
    made.chunk_pixels = 2 * 32 * 32  # two images at once
    assert np.array_equal(made.decode(latents), expected.astype(np.uint8))


def test_diffusers_alone_loads_the_folder(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    latents = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    capfd.readouterr()
    net, info = AutoencoderTiny.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    assert capfd.readouterr().err == ""  # no warning about config.json
    with torch.no_grad():
        theirs = net.decode(latents).sample[0].add(1).mul(127.5).clamp(0, 255)
    ours = load_decoder(folder, record(), "the model").decode(latents)[0]
    assert np.abs(theirs.permute(1, 2, 0).numpy() - ours).max() < 0.51


def test_a_stable_diffusion_pipeline_decodes_with_it(folder: Path) -> None:
    """diffusers divides by the config's scaling_factor, which must be 1 for scaled latents."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=4,
        block_out_channels=(4, 4),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        mid_block_type=None,
        norm_num_groups=2,
        cross_attention_dim=8,
    )
    pipe: Any = StableDiffusionPipeline(
        vae=AutoencoderTiny.from_pretrained(folder),
        unet=unet,
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        text_encoder=None,
        tokenizer=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    assert pipe.vae_scale_factor == 8
    made = {
        kind: pipe(
            prompt_embeds=torch.zeros(1, 2, 8),
            latents=torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0)),
            height=32,
            width=32,
            guidance_scale=1.0,
            num_inference_steps=2,
            output_type=kind,
        ).images
        for kind in ("latent", "np")
    }
    ours = TinyDecoder.load(folder).decode(made["latent"])
    assert np.abs(255 * made["np"] - ours).max() < 0.51


def test_without_a_start_its_encoder_is_not_usable(folder: Path) -> None:
    image = torch.zeros(1, 3, 32, 32)
    encoded = AutoencoderTiny.from_pretrained(folder).encode(image).latents
    assert encoded.shape == (1, 4, 4, 4)
    assert encoded.isnan().all()
    assert "has no encoder" in (folder / "README.md").read_text()


def test_a_start_keeps_its_weights_and_its_encoder(tmp_path: Path) -> None:
    """A folder of the published architecture, thin, as diffusers saves it."""
    start = AutoencoderTiny(
        encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4
    )
    start.save_pretrained(tmp_path / "taesd")
    made = TinyDecoder.untrained(record(), tmp_path / "taesd")
    made.save(tmp_path / "out")
    written = AutoencoderTiny.from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(value, written[name]) for name, value in start.state_dict().items())
    assert "The encoder is that of `taesd`, unchanged." in (tmp_path / "out/README.md").read_text()
    assert str(tmp_path) not in "".join(
        path.read_text() for path in (tmp_path / "out").iterdir() if path.suffix != ".safetensors"
    )
    with pytest.raises(ConfigError, match="4 channels and factor 8; the dataset's have 4 channels"):
        TinyDecoder.untrained(record(factor=4), tmp_path / "taesd")
    with pytest.raises(XmdptError, match=f"does not record which VAE's latents.*{LATENTS}") as err:
        TinyDecoder.load(tmp_path / "taesd")
    assert f"--start {tmp_path / 'taesd'}" in err.value.hint


def test_it_comes_back_as_it_was_saved(folder: Path, tmp_path: Path) -> None:
    made = load_decoder(folder, record(), "the model")
    assert isinstance(made, TinyDecoder)
    assert made.describe()["decoder"] == "tiny"
    made.save(tmp_path / "again")
    again = TinyDecoder.load(tmp_path / "again")
    assert (again.latents, again.start) == (record(), None)
    assert again.describe()["sha256"] == made.describe()["sha256"]
    toy_vae(32).save(tmp_path / "vae")
    assert isinstance(load_decoder(tmp_path / "vae", record(), "the model"), VAE)
    assert not is_tiny(tmp_path / "vae")
    with pytest.raises(XmdptError, match=r"_class_name = 'AutoencoderTiny'"):
        VAE.load(folder)
    toy = TinyDecoder.untrained(record(toy=True), width=8)
    toy.save(tmp_path / "toy")
    assert TinyDecoder.load(tmp_path / "toy").origin.toy
    assert "**Toy**" in (tmp_path / "toy/README.md").read_text()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"sha256": "b" * 64}, "sha256 bbbbbbbbbbbb"),
        ({"sha256": None, "scale": 0.13025}, "scale 0.13025, not 0.18215"),
        ({"sha256": None, "channels": 16}, "channels 16, not 4"),
        ({"sha256": None, "factor": 4}, "factor 4, not 8"),
        ({"sha256": None, "toy": True}, "one of them is a toy"),
    ],
)
def test_latents_of_another_vae_are_refused_by_name(
    folder: Path, changes: dict[str, Any], named: str
) -> None:
    load_decoder(folder, record(sha256=None), "the model")  # a converted model records no sha256
    with pytest.raises(XmdptError, match="another VAE than those of the model") as error:
        load_decoder(folder, record(**changes), "the model")
    assert named in error.value.message
    assert str(folder) in error.value.message
    assert "finetune-vae --decoder tiny" in error.value.hint


def test_a_broken_record_is_named(folder: Path, tmp_path: Path) -> None:
    TinyDecoder.load(folder).save(tmp_path / "a")
    (tmp_path / "a" / LATENTS).write_text(json.dumps({"start": None}))
    with pytest.raises(XmdptError, match=LATENTS):
        TinyDecoder.load(tmp_path / "a")
