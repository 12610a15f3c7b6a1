"""Sampling with a tiny decoder: what decodes, what encodes, what is refused, what is published."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from xmdpt_cli.encoders.identity import VAERecord
from xmdpt_cli.encoders.tiny_decoder import TinyDecoder
from xmdpt_cli.encoders.vae import VAE
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.model.checkpoint import load_model, save_model
from xmdpt_cli.sampling.pipeline import XMDPTPipeline


@pytest.fixture(scope="module")
def latents(model_of: Callable[[str], Path]) -> VAERecord:
    record: VAERecord = load_model(model_of("vector"))[1]["encoders"]["vae"]
    return record


@pytest.fixture(scope="module")
def tiny(latents: VAERecord, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "vae-tiny"
    TinyDecoder.untrained(latents, width=8).save(folder)
    return folder


def generate(pipe: XMDPTPipeline, files: Path, **more: Any) -> Image.Image:
    return pipe(files / "person.png", files / "pose.json", steps=2, seed=1, square=True, **more)[0]


def test_it_decodes_the_latents_that_the_vae_decodes(
    model_of: Callable[[str], Path], tiny: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source is encoded by the VAE beside the model, so both start from the same latents."""
    seen: dict[str, list[torch.Tensor]] = {"VAE": [], "TinyDecoder": []}

    def noted(decode: Any) -> Any:
        def inner(self: Any, latents: torch.Tensor) -> Any:
            seen[type(self).__name__].append(latents)
            return decode(self, latents)

        return inner

    monkeypatch.setattr(VAE, "decode", noted(VAE.decode))
    full = XMDPTPipeline.from_pretrained(model_of("vector"))
    fast = XMDPTPipeline.from_pretrained(model_of("vector"), vae=tiny)
    one = generate(full, files)
    monkeypatch.setattr(TinyDecoder, "decode", noted(TinyDecoder.decode))
    seen["TinyDecoder"].clear()
    other = generate(fast, files)
    (latents,) = seen["TinyDecoder"]
    assert torch.equal(latents, seen["VAE"][0])
    signed = TinyDecoder.load(tiny).net.decoder(latents)[0].permute(1, 2, 0)
    expected = ((signed + 1) * 127.5).round().clamp(0, 255).numpy()
    assert np.abs(np.asarray(other) - expected).max() <= 1
    assert not np.array_equal(np.asarray(one), np.asarray(other))
    settings = json.loads(other.info["xmdpt"])
    assert settings["vae"] == TinyDecoder.load(tiny).describe()["sha256"]
    with pytest.raises(XmdptError, match="no tiny decoder beside it"):
        generate(XMDPTPipeline.from_pretrained(model_of("vector"), vae="tiny"), files)


def test_a_decoder_of_other_latents_is_refused_by_name(
    model_of: Callable[[str], Path], latents: VAERecord, files: Path, tmp_path: Path
) -> None:
    other: VAERecord = {**latents, "sha256": "0" * 64}
    TinyDecoder.untrained(other, width=8).save(tmp_path / "other")
    pipe = XMDPTPipeline.from_pretrained(model_of("vector"), vae=tmp_path / "other")
    with pytest.raises(XmdptError, match="another VAE than those of the model") as err:
        generate(pipe, files)
    assert "sha256 000000000000" in err.value.message
    assert "finetune-vae --decoder tiny" in err.value.hint


def test_a_published_model_carries_it_for_previews_and_on_request(
    model_of: Callable[[str], Path], tiny: Path, files: Path, tmp_path: Path
) -> None:
    pipe = XMDPTPipeline.from_pretrained(model_of("vector"), vae=tiny)
    pipe.save_pretrained(tmp_path / "mine")
    card = (tmp_path / "mine/README.md").read_text()
    assert "Tiny decoder: `vae-tiny/`" in card
    assert '`vae="tiny"`' in card
    again = XMDPTPipeline.from_pretrained(tmp_path / "mine")
    previews: list[np.ndarray] = []
    kept = generate(
        again, files, callback=lambda done, steps, preview: previews.append(np.asarray(preview()))
    )
    assert isinstance(again.encoders.decoder, VAE)  # asked for nothing
    fast = generate(XMDPTPipeline.from_pretrained(tmp_path / "mine", vae="tiny"), files)
    assert np.array_equal(np.asarray(fast), np.asarray(generate(pipe, files)))
    # the last preview is of the final latents: as the tiny decoder decodes them
    assert np.abs(previews[-1].astype(int) - np.asarray(fast).astype(int)).max() <= 1
    assert not np.array_equal(previews[-1], np.asarray(kept))


def test_a_missing_vae_of_the_source_is_named(
    model_of: Callable[[str], Path], tiny: Path, files: Path, tmp_path: Path
) -> None:
    """The tiny decoder does not encode the source."""
    model, metadata = load_model(model_of("vector"))
    save_model(tmp_path / "alone", model, {k: v for k, v in metadata.items() if k != "data"})
    pipe = XMDPTPipeline.from_pretrained(tmp_path / "alone", vae=tiny)
    with pytest.raises(XmdptError, match="VAE") as error:
        generate(pipe, files)
    assert "--vae" in f"{error.value.message}{error.value.hint}"
