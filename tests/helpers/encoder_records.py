"""Records of the three encoders for datasets and models of tests."""

from __future__ import annotations

from typing import Any


def encoder_records(name: str = "fake", **vae: Any) -> dict[str, Any]:
    """All keys that ``Encoders.describe`` writes; ``vae`` replaces some of the VAE's."""
    known = {"kind": "toy", "id": name, "revision": None, "sha256": name, "dtype": "float32"}
    known["toy"] = True
    dino = {**known, "input_size": 224, "length": 257, "width": 8}
    return {
        "vae": {**known, "scale": 1.0, "factor": 8, "channels": 3, **vae},
        "source": dino,
        "pose": dino,
        "toy": True,
    }
