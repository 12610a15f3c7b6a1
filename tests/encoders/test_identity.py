"""Comparison of two records of an encoder."""

from __future__ import annotations

from typing import Any

import pytest

from xmdpt_cli.encoders.identity import encoder_difference
from xmdpt_cli.model import XMDPT
from xmdpt_cli.model.checkpoint import published_metadata

PUBLISHED = published_metadata(XMDPT(depth=4, width=32, heads=2))["encoders"]


def on_hub(part: str, **more: Any) -> dict[str, Any]:
    """The record of an encoder from the hub."""
    return {**PUBLISHED[part], "revision": "abc", "sha256": "1" * 64, "dtype": "bfloat16", **more}


def local(part: str, **more: Any) -> dict[str, Any]:
    return on_hub(part, **{"kind": "local", "id": "/weights", "revision": None, **more})


@pytest.mark.parametrize("part", ["vae", "source", "pose"])
def test_a_published_model_takes_its_networks_from_hub_or_folder(part: str) -> None:
    assert encoder_difference(PUBLISHED[part], on_hub(part)) is None
    assert encoder_difference(PUBLISHED[part], local(part)) is None


@pytest.mark.parametrize(
    ("part", "there", "message"),
    [
        ("source", on_hub("source", id="facebook/dinov2-base"), "giant, not facebook/dinov2-base"),
        ("source", local("source", width=768), "width 1536, not 768"),
        ("pose", local("pose", length=1370), "length 257, not 1370"),
        ("pose", local("pose", kind="toy", toy=True), "a toy"),
        ("vae", local("vae", factor=4), "factor 8, not 4"),
        ("vae", local("vae", channels=16), "channels 4, not 16"),
        ("vae", local("vae", scale=0.13025), "scale 0.18215, not 0.13025"),  # SDXL's VAE
        ("vae", local("source"), "factor 8, not None"),
    ],
)
def test_another_network_is_refused_by_name(part: str, there: dict[str, Any], message: str) -> None:
    assert message in str(encoder_difference(PUBLISHED[part], there))


def test_known_sha256_decides_alone() -> None:
    """The records of a model trained here have a sha256: another file of the same id differs."""
    made = on_hub("vae", id="a/vae")
    assert encoder_difference(made, local("vae", id="/a/copy")) is None
    assert encoder_difference(made, on_hub("vae", id="a/vae", sha256="2" * 64)) is not None


def test_toys_of_one_name_differ_by_their_weights() -> None:
    toys = [on_hub("vae", id="toy-vae", toy=True, sha256=digit * 64) for digit in "ab"]
    assert encoder_difference(toys[0], toys[0]) is None
    message = encoder_difference(*toys)
    assert message == f"toy-vae (sha256 {'a' * 12}), not toy-vae (sha256 {'b' * 12})"


def test_exact_comparison_includes_types_and_tables() -> None:
    """A dataset is repaired to the same bytes: the number type and the position table count too."""
    made = on_hub("source", position_table="hub")
    assert encoder_difference(made, local("source", position_table="hub"), exact=True) is None
    for changed, named in (
        ({"dtype": "float32"}, "dtype bfloat16, not float32"),
        ({"position_table": "stored"}, "position_table hub, not stored"),
        ({"sha256": "2" * 64}, f"sha256 {'1' * 12}, not {'2' * 12}"),
    ):
        other = on_hub("source", **{"position_table": "hub", **changed})
        assert named in str(encoder_difference(made, other, exact=True))
        assert "sha256" in changed or encoder_difference(made, other) is None
