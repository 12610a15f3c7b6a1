"""Published X-MDPT checkpoints <-> our models."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.model.canet import PARTS
from xmdpt_cli.model.checkpoint_file import plain_state
from xmdpt_cli.model.mipnet import PREDICTORS
from xmdpt_cli.model.relative_bias import relative_index
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
_INDEX = ".attn.rel_pos_bias.relative_position_index"  # a buffer that follows from the grid
# one tensor of each part: without it, it is something else
_NEEDED = (
    "x_embedder.proj.weight",
    "pos_embed",
    "blocks.0" + _TABLE,
    "mlp_dino_pose.0.weight",
    "mlp_dino_img.0.weight",
    "conv1d_pose.0.weight",
    "conv1d_global.0.weight",
    "conv1d_local.0.weight",
)


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


def published_names(model: XMDPT) -> list[str]:
    """The published names of a model's tensors, index buffers left out."""
    names = []
    for ours in model.state_dict():
        if ours == "mipnet.bias.table":
            names += [f"{block}.0{_TABLE}" for block in ("sideblocks", "sideblocks_cross")]
        elif ours == "tdnet.bias.table":
            names += [f"blocks.{i}{_TABLE}" for i in range(len(model.tdnet.blocks))]
        else:
            published, prefix = next(pair for pair in _PREFIXES if ours.startswith(pair[1]))
            name = published + ours[len(prefix) :]
            for new, old in _INNER:
                name = name.replace(old, new)
            names.append(name)
    return names


def _place(table: str) -> int:
    """Which block of ours a published table belongs to."""
    if table.startswith("blocks."):
        return int(table.split(".")[1])
    return int(table.startswith("sideblocks_cross."))


def from_published(
    state_dict_or_path: Mapping[str, Any] | str | Path, mask_ratio: float = 0.3
) -> XMDPT:
    """Build an XMDPT from a published checkpoint (a state dict as in ``plain_state``, or its file).

    Depth, width, heads, grid and patch are read off the shapes. A checkpoint for inference, without
    MIPNet's blocks, gives a model without them. ``mask_ratio`` is no weight and must be told (0.30
    published). Raises XmdptError for a file that is none, for keys that do not belong, are missing,
    or have another shape.
    """
    state = plain_state(state_dict_or_path).tensors
    indices = {key: value for key, value in state.items() if key.endswith(_INDEX)}
    state = {key: value for key, value in state.items() if key not in indices}
    if missing := [key for key in _NEEDED if key not in state]:
        foreign = sorted(key for key in state if our_name(key) is None)
        has = f"; it has {foreign[0]!r}" if foreign else ""
        raise XmdptError(
            f"not a published X-MDPT checkpoint: no {', '.join(map(repr, missing[:3]))} in it{has}",
            "take the published ema_*.pt file of X-MDPT",
        )
    trained = any(key.startswith("sideblocks") for key in state)
    if not trained:
        state.pop("mask_token", None)  # nothing would read it
    sizes = {**_sizes(state), "predictor": "self-cross" if trained else "none"}
    model = XMDPT(**sizes, mask_ratio=mask_ratio)
    expected = published_tensors(model.state_dict(), published_names(model))
    _compare(state, expected)
    grid = relative_index(model.tdnet.grid)
    if wrong := [key for key, index in indices.items() if not _is_index(index, grid)]:
        raise XmdptError(f"published checkpoint does not fit: {wrong[0]} is not that of its grid")
    model.load_state_dict(our_tensors(state))
    return model


def is_published(path: str | Path) -> bool:
    """Whether a file is a published checkpoint, by the names in it."""
    try:
        return all(key in plain_state(path).tensors for key in _NEEDED)
    except XmdptError:
        return False


def to_published(model: XMDPT, facts: Mapping[str, Any] | None = None) -> dict[str, Tensor]:
    """The inverse: every tensor of the published code's state dict, float32, on the CPU, and its
    index buffers (T, T) int64, which are one tensor under all their names.

    Raises XmdptError, by name, for what the published code cannot hold; with ``facts`` (of the
    model's folder) also for what it would sample otherwise than the model was trained.
    """
    if unlike := _unlike_published(model, facts or {}):
        raise XmdptError(
            f"the published code cannot hold this model: {'; '.join(unlike)}",
            "it holds what the paper/... presets train",
        )
    names = published_names(model)
    index = relative_index(model.tdnet.grid)
    out = {}
    for name, value in published_tensors(model.state_dict(), names).items():
        out[name] = value.detach().to("cpu", torch.float32).clone().contiguous()
        if name.endswith(_TABLE):
            out[name.removesuffix(_TABLE) + _INDEX] = index
    return out


def _unlike_published(model: XMDPT, facts: Mapping[str, Any]) -> list[str]:
    """What of the model the published code does not have, in words."""
    net, canet, order = model.tdnet, model.canet, () if model.mipnet is None else model.mipnet.order
    found = []
    if model.conditioning != "vector":
        found.append(f"conditioning {model.conditioning!r}")
    if net.long_skips:
        found.append("backbone 'mdtv2'")
    if (decoding := len(net.blocks) - net.encoder_depth) != 2:
        found.append(f"decode_layers {decoding}")
    if order != PREDICTORS["self-cross"]:
        found.append(f"predictor {'-'.join(order) or 'none'!r}")
    if canet is None:
        found.append("no condition vector")
    elif set(canet.parts) != set(PARTS):
        found.append(f"condition_parts {'+'.join(canet.parts)!r}")
    if canet is not None and canet.aggregation != "add":
        found.append(f"aggregation {canet.aggregation!r}")
    if model.align is not None:
        found.append("the projector of align_width")
    for key, published in (("schedule", "linear"), ("prediction", "epsilon")):
        if facts.get(key, published) != published:
            found.append(f"{key} {facts[key]!r}")
    return found


def _compare(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """XmdptError unless names and shapes are the published ones."""
    missing, unknown = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or unknown:
        raise XmdptError(
            f"published checkpoint does not fit: {len(missing)} keys missing {missing[:3]}, "
            f"{len(unknown)} unknown {unknown[:3]}"
        )
    for key, value in found.items():
        if value.shape != expected[key].shape or not value.is_floating_point():
            kind = str(value.dtype).removeprefix("torch.")
            raise XmdptError(
                f"published checkpoint does not fit: {key} is {kind} {tuple(value.shape)}, not "
                f"float32 {tuple(expected[key].shape)}"
            )


def _is_index(index: Tensor, grid: Tensor) -> bool:
    """Whether a buffer numbers the grid's (T, T) pairs (BEiT's own: behind a class token)."""
    if index.shape == (len(grid) + 1, len(grid) + 1):
        index = index[1:, 1:]
    return index.shape == grid.shape and torch.equal(index.long(), grid)


def _sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    try:
        width, channels, patch, _ = state["x_embedder.proj.weight"].shape
        grid = math.isqrt(state["pos_embed"].shape[1])
        return {
            "depth": len({m[1] for key in state if (m := re.match(r"blocks\.(\d+)\.", key))}),
            "width": width,
            "heads": state["blocks.0" + _TABLE].shape[1],
            "latent_size": grid * patch,
            "latent_channels": channels,
            "patch": patch,
            "pose_length": state["conv1d_pose.0.weight"].shape[1],
            "pose_width": state["mlp_dino_pose.0.weight"].shape[1],
            "source_length": state["conv1d_global.0.weight"].shape[1],
            "source_width": state["mlp_dino_img.0.weight"].shape[1],
        }
    except (ValueError, IndexError) as err:  # tensors with fewer axes
        raise XmdptError(f"published checkpoint does not fit: {err}") from None
