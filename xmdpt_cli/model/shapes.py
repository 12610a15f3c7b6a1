"""What the header of a model's weights tells without loading them: shapes, and settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open


def shapes_in(weights: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor in a safetensors file; only its header is read."""
    with safe_open(weights, framework="pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def settings_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """``XMDPT``'s arguments as far as the shapes of its tensors tell them."""
    found: dict[str, Any] = {}
    blocks = {int(m[1]) for name in shapes if (m := re.match(r"tdnet\.blocks\.(\d+)\.", name))}
    found["depth"] = len(blocks)
    if "tdnet.patch_embed.proj.weight" in shapes:
        found["width"], channels, patch, _ = shapes["tdnet.patch_embed.proj.weight"]
        found |= {"latent_channels": channels, "patch": patch}
        if "tdnet.position" in shapes:
            found["latent_size"] = round(shapes["tdnet.position"][1] ** 0.5) * patch
    if "tdnet.bias.table" in shapes and blocks:
        found["heads"] = shapes["tdnet.bias.table"][0] // len(blocks)
    for part, network in (("pose", "pose"), ("source", "global")):
        if f"canet.{part}_mlp.0.weight" in shapes:
            found[f"{part}_width"] = shapes[f"canet.{part}_mlp.0.weight"][1]
        if f"canet.{network}_conv.0.weight" in shapes:
            found[f"{part}_length"] = shapes[f"canet.{network}_conv.0.weight"][1]
    found["vector"] = any(name.startswith("canet.") for name in shapes)
    joined = any(name.startswith("tdnet.conditions.") for name in shapes)
    return found | {"conditioning": "tokens" if joined else "vector"}
