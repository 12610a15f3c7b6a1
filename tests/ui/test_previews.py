"""Previews while an image is generated: at every step with a tiny decoder, else at a few."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from fake_pipeline import FakePipeline
from PIL import Image

from xmdpt_cli.ui.generation import PREVIEWS, generate, preview_steps
from xmdpt_cli.ui.poses import PRESETS


@pytest.mark.parametrize("tiny", [True, False])
def test_a_tiny_decoder_shows_every_step(
    tiny: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (32, 64), "white").save(tmp_path / "person.png")
    pipe = FakePipeline()
    monkeypatch.setattr(type(pipe.encoders), "tiny", object() if tiny else None)
    run = generate(
        pipe,  # type: ignore[arg-type]
        threading.Lock(),
        threading.Event(),
        [tmp_path / "person.png"],
        PRESETS[0].keypoints(),
        steps=20,
    )
    shown = [event.step for event in run if event.preview is not None]
    assert shown == (list(range(1, 20)) if tiny else sorted(preview_steps(20)))
    assert len(preview_steps(20)) == PREVIEWS  # those that stay on the page
