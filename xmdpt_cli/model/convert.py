"""Published X-MDPT checkpoints <-> our names."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.model.xmdpt import XMDPT

# (published prefix, ours); the first that fits is taken
_PREFIXES = (
    ("pos_embed", "tdnet.position"),
    ("decoder_pos_embed", "tdnet.decoder_position"),
    ("mask_token", "mipnet.mask_token"),
    ("x_embedder.", "tdnet.patch_embed."),
    ("t_embedder.", "tdnet.timestep."),
    ("final_layer.adaLN_modulation.", "tdnet.final.modulation."),
    ("final_layer.", "tdnet.final."),
    ("blocks.", "tdnet.blocks."),
    ("sideblocks.0.", "mipnet.self_block."),
    ("sideblocks_cross.0.", "mipnet.cross_block."),
    ("mlp_dino_pose.", "canet.pose_mlp."),
    ("mlp_dino_img.", "canet.source_mlp."),
    ("conv1d_pose.", "canet.pose_conv."),
    ("conv1d_global.", "canet.global_conv."),
    ("conv1d_local.", "canet.local_conv."),
    ("mlp_final.", "canet.final."),
)
_INNER = ((".adaLN_modulation.", ".modulation."), (".attn.", ".attention."))
# a bias table a block (rows, H); ours hold the blocks' tables in one (blocks * H, rows)
_TABLE = ".attn.rel_pos_bias.relative_position_bias_table"


def our_name(published: str) -> str | None:
    """Our parameter name for a published one; None where there is none (index buffers too)."""
    if published.endswith(_TABLE):
        return "mipnet.bias.table" if published.startswith("side") else "tdnet.bias.table"
    for prefix, ours in _PREFIXES:
        if published.startswith(prefix):
            name = ours + published[len(prefix) :]
            for old, new in _INNER:
                name = name.replace(old, new)
            return name
    return None


def our_tensors(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published tensors (weights, or gradients) under our names; KeyError for a foreign one."""
    out: dict[str, Tensor] = {}
    tables: dict[str, dict[int, Tensor]] = {}
    for key, value in published.items():
        name = our_name(key)
        if name is None:
            raise KeyError(key)
        if key.endswith(_TABLE):
            tables.setdefault(name, {})[_place(key)] = value.t()
        else:
            out[name] = value
    for name, parts in tables.items():
        out[name] = torch.cat([parts[i] for i in sorted(parts)])
    return out


def published_tensors(ours: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """The inverse of ``our_tensors``: ours under the published ``names``."""
    out: dict[str, Tensor] = {}
    tables = [key for key in names if key.endswith(_TABLE)]
    for key in names:
        name = our_name(key)
        if name is None:
            raise KeyError(key)
        value = ours[name]
        if key in tables:
            blocks = sum(our_name(other) == name for other in tables)
            value = value.chunk(blocks)[_place(key)].t()
        out[key] = value
    return out


def _place(table: str) -> int:
    """Which block of ours a published table belongs to."""
    if table.startswith("blocks."):
        return int(table.split(".")[1])
    return int(table.startswith("sideblocks_cross."))


def from_published(
    state_dict_or_path: Mapping[str, Tensor] | str | Path, mask_ratio: float = 0.3
) -> XMDPT:
    """Build an XMDPT from a published checkpoint (a plain fp32 state dict, or its file).

    Depth, width, heads, grid and patch are read off the shapes. ``mask_ratio`` is no weight and
    must be told (0.30 published). Pickles are opened with ``weights_only``. Raises XmdptError for
    a file that is none, for keys that do not belong and for keys that are missing.
    """
    state = _read(state_dict_or_path)
    state = {k: v for k, v in state.items() if not k.endswith(".relative_position_index")}
    for needed in ("x_embedder.proj.weight", "pos_embed", "mlp_dino_pose.0.weight"):
        if needed not in state:
            raise XmdptError(f"not a published X-MDPT checkpoint: no {needed!r} in it")
    unknown = sorted(key for key in state if our_name(key) is None)
    model = XMDPT(**_sizes(state), mask_ratio=mask_ratio)
    ours = our_tensors({k: v.float() for k, v in state.items() if k not in unknown})
    expected = model.state_dict()
    missing = sorted(set(expected) - set(ours))
    unknown += sorted(set(ours) - set(expected))
    if missing or unknown:
        raise XmdptError(
            f"published checkpoint does not fit: {len(missing)} keys missing {missing[:3]}, "
            f"{len(unknown)} unknown {unknown[:3]}"
        )
    wrong = [k for k, v in ours.items() if v.shape != expected[k].shape]
    if wrong:
        raise XmdptError(f"published checkpoint does not fit: wrong shape of {wrong[:3]}")
    model.load_state_dict(ours)
    return model


def _sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    width, channels, patch, _ = state["x_embedder.proj.weight"].shape
    blocks = {int(m[1]) for k in state if (m := re.match(r"blocks\.(\d+)\.", k))}
    table = state["blocks.0.attn.rel_pos_bias.relative_position_bias_table"]
    grid = math.isqrt(state["pos_embed"].shape[1])
    return {
        "depth": len(blocks),
        "width": width,
        "heads": table.shape[1],
        "latent_size": grid * patch,
        "latent_channels": channels,
        "patch": patch,
        "pose_length": state["conv1d_pose.0.weight"].shape[1],
        "pose_width": state["mlp_dino_pose.0.weight"].shape[1],
        "source_length": state["conv1d_global.0.weight"].shape[1],
        "source_width": state["mlp_dino_img.0.weight"].shape[1],
    }


def _read(source: Mapping[str, Tensor] | str | Path) -> dict[str, Tensor]:
    if isinstance(source, Mapping):
        return dict(source)
    path = Path(source)
    if not path.is_file():
        raise XmdptError(f"no such checkpoint: {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as err:  # a pickle that wants to run code, a truncated file, not a checkpoint
        reason = str(err).splitlines()[0] if str(err) else type(err).__name__
        raise XmdptError(
            f"cannot read checkpoint {path}: {reason}",
            "only plain tensors are loaded (weights_only); take the published ema_*.pt file",
        ) from err
    if not isinstance(loaded, dict) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise XmdptError(f"not a plain state dict: {path}", "take the published ema_*.pt file")
    return loaded
