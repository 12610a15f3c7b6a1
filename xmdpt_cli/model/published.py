"""Published X-MDPT checkpoints <-> our models.

The published file (``ema_0.9999_300000.pt``) is a plain state dict in float32. Training codes also
leave it inside a dict with other things, or with the prefixes of DDP and torch.compile on its
names. Our parameters have the published names behind the part that holds them
(``tdnet.blocks.0.attn.qkv.weight``).
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import atomic_write, writing
from xmdpt_cli.model.checkpoint import settings_of
from xmdpt_cli.model.config import CONDITION_PARTS, PREDICTORS
from xmdpt_cli.model.layers import relative_position_index
from xmdpt_cli.model.xmdpt import XMDPT
from xmdpt_cli.utils.weights_files import check_state_dict, check_whole, read_tensors

_TABLE = "relative_position_bias_table"
_INDEX = "relative_position_index"  # a buffer that follows from the grid
# one tensor of each part: a file without one of them is no published checkpoint
_NEEDED = (
    "x_embedder.proj.weight",
    "pos_embed",
    f"blocks.0.attn.rel_pos_bias.{_TABLE}",
    "mlp_dino_pose.0.weight",
    "mlp_dino_img.0.weight",
    "conv1d_pose.0.weight",
    "conv1d_global.0.weight",
    "conv1d_local.0.weight",
)


def published_name(name: str) -> str:
    """Our parameter's published name: ``tdnet.pos_embed`` -> ``pos_embed``."""
    return name.partition(".")[2]


def _first_names() -> set[str]:
    """The first parts of all published names."""
    with torch.device("meta"):
        names = XMDPT.from_size("tiny").state_dict()
    return {published_name(name).partition(".")[0] for name in names}


def published_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights, or gradients, of an ``XMDPT`` under their published names."""
    return {published_name(name): tensor for name, tensor in tensors.items()}


def from_published(
    state_dict_or_path: Mapping[str, Any] | str | Path, mask_ratio: float = 0.3
) -> XMDPT:
    """Build an XMDPT from a published checkpoint.

    Depth, width, heads, grid and patch are read off the shapes. A checkpoint for inference, without
    MIPNet's blocks, gives a model without them.

    Args:
        state_dict_or_path: A state dict, also inside another dict, or its file (``plain_state``).
        mask_ratio: What the model was trained with, which no weight holds (published: 0.30).

    Raises:
        XmdptError: The file is not a checkpoint, or a tensor is missing, unexpected or of another
            shape.
    """
    state = plain_state(state_dict_or_path).tensors
    indices = {key: value for key, value in state.items() if key.endswith(_INDEX)}
    state = {key: value for key, value in state.items() if key not in indices}
    if missing := [key for key in _NEEDED if key not in state]:
        foreign = sorted(key for key in state if key.partition(".")[0] not in _first_names())
        has = f"; it has {foreign[0]!r}" if foreign else ""
        raise XmdptError(
            f"not a published X-MDPT checkpoint: no {', '.join(map(repr, missing[:3]))} in it{has}",
            "take the published ema_*.pt file of X-MDPT",
        )
    trained = any(key.startswith("sideblocks") for key in state)
    if not trained:
        state.pop("mask_token", None)  # not used without MIPNet
    try:
        sizes = settings_of({name: tuple(tensor.shape) for name, tensor in state.items()})
    except (ValueError, IndexError) as err:  # tensors with fewer axes
        raise XmdptError(f"published checkpoint does not fit: {err}") from None
    predictor = "self-cross" if trained else "none"
    model = XMDPT(**sizes, predictor=predictor, mask_ratio=mask_ratio)
    own = {published_name(name): name for name in model.state_dict()}
    _compare(state, published_tensors(model.state_dict()))
    grid = relative_position_index(model.tdnet.grid)
    if wrong := [key for key, index in indices.items() if not _is_index(index, grid)]:
        raise XmdptError(f"published checkpoint does not fit: {wrong[0]} is not that of its grid")
    model.load_state_dict({own[name]: tensor for name, tensor in state.items()})
    return model


def is_published(path: str | Path) -> bool:
    """Whether a file is a published checkpoint, by the names in it."""
    try:
        return all(key in plain_state(path).tensors for key in _NEEDED)
    except XmdptError:
        return False


def to_published(model: XMDPT, metadata: Mapping[str, Any] | None = None) -> dict[str, Tensor]:
    """The inverse: every tensor of the published code's state dict, float32, on the CPU, and its
    index buffers (T, T) int64, which are one tensor under all their names.

    Raises XmdptError that names the settings the published code does not have; with ``metadata``
    (of the model's folder) also the schedule and the prediction, if they are not the published.
    """
    if unlike := _unlike_published(model, metadata or {}):
        raise XmdptError(
            f"the published code cannot hold this model: {'; '.join(unlike)}",
            "it holds what the paper/... presets train",
        )
    index = relative_position_index(model.tdnet.grid)
    out = {}
    for name, tensor in published_tensors(model.state_dict()).items():
        out[name] = tensor.detach().to("cpu", torch.float32).clone().contiguous()
        if name.endswith(_TABLE):
            out[name.removesuffix(_TABLE) + _INDEX] = index
    return out


def _unlike_published(model: XMDPT, metadata: Mapping[str, Any]) -> list[str]:
    """The settings of the model that the published code does not have."""
    net, canet, order = model.tdnet, model.canet, () if model.mipnet is None else model.mipnet.order
    found = []
    if model.conditioning != "vector":
        found.append(f"conditioning {model.conditioning!r}")
    if model.guidance_embed is not None:
        found.append("a guidance scale as an input (a distilled model)")
    first = net.blocks[0].attn
    if first.rel_pos_bias is None:
        found.append("positions 'rope'")
    if first.qk_norm is not None:
        found.append("qk_norm")
    if net.backbone == "mdtv2":
        found.append("backbone 'mdtv2'")
    if (decoding := len(net.blocks) - net.encoder_depth) != 2:
        found.append(f"decode_layers {decoding}")
    if order != PREDICTORS["self-cross"]:
        found.append(f"predictor {'-'.join(order) or 'none'!r}")
    if set(canet.parts) != set(CONDITION_PARTS):
        found.append(f"condition_parts {'+'.join(canet.parts)!r}")
    if canet.aggregation != "add":
        found.append(f"aggregation {canet.aggregation!r}")
    if model.repa_projector is not None:
        found.append("the projector of repa_width")
    resolution, latents = metadata.get("resolution"), model.latent_shape[-1]
    if resolution is not None and resolution != 8 * latents:  # the factor of the published VAE
        found.append(f"latents of {latents} x {latents} for {resolution} px")
    for key, published in (("schedule", "linear"), ("prediction", "epsilon")):
        if metadata.get(key, published) != published:
            found.append(f"{key} {metadata[key]!r}")
    return found


def _compare(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """XmdptError unless names and shapes are the published ones."""
    check_state_dict(found, expected, "published checkpoint does not fit: it")
    for name, tensor in found.items():
        if not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise XmdptError(f"published checkpoint does not fit: {name} is {kind}, not float32")


def _is_index(index: Tensor, grid: Tensor) -> bool:
    """Whether a buffer numbers the grid's (T, T) pairs (BEiT's own: behind a class token)."""
    if index.shape == (len(grid) + 1, len(grid) + 1):
        index = index[1:, 1:]
    return index.shape == grid.shape and torch.equal(index.long(), grid)


# files

#: keys below which a state dict is looked for; the average first: it gives better images
WRAPPERS = ("ema", "model", "state_dict", "model_state_dict")
_AGAIN = "the file is incomplete or no checkpoint: download or copy ema_*.pt again"
#: what DDP and torch.compile put into names; no published name has such a part
_WRAPPED = ("module", "_orig_mod")


@dataclass(frozen=True)
class PlainState:
    """A state dict, and messages about the changes that were made to get it."""

    tensors: dict[str, Tensor]
    notes: list[str]


def plain_state(source: Mapping[str, Any] | str | Path) -> PlainState:
    """The state dict in a checkpoint or its file (.pt, or .safetensors): names without prefixes,
    numbers in float32.

    Pickles are opened with ``weights_only``, so that no code in them runs. Raises XmdptError if the
    file is not a checkpoint, is an optimizer's, or holds other objects than tensors.
    """
    name = "this checkpoint" if isinstance(source, Mapping) else str(source)
    loaded = source if isinstance(source, Mapping) else _read(Path(source))
    if not isinstance(loaded, Mapping):
        raise _no_state(name, f"it holds a {type(loaded).__name__}")
    if "param_groups" in loaded and "state" in loaded:
        raise XmdptError(f"{name} is an optimizer's state, not a model's", _instead_of(name))
    notes = []
    inner = [key for key in WRAPPERS if isinstance(loaded.get(key), Mapping)]
    if inner:
        others = [str(key) for key in loaded if key != inner[0]]
        left = f" (left out: {', '.join(others[:5])})" if others else ""
        notes.append(f"took {inner[0]!r} out of the checkpoint{left}")
        loaded = loaded[inner[0]]
    for key, value in loaded.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise _no_state(name, f"{key!r} is no name of a tensor")
    if not loaded:
        raise _no_state(name, "it is empty")
    tensors, prefixes = _without_prefixes(loaded, name)
    if prefixes:
        notes.append(f"stripped {' and '.join(repr(p + '.') for p in prefixes)} from the names")
    kinds = {v.dtype for v in tensors.values() if v.is_floating_point()} - {torch.float32}
    if kinds:
        notes.append(f"made float32 of {', '.join(sorted(str(k)[6:] for k in kinds))}")
    floats = {k: v.float() if v.dtype in kinds else v for k, v in tensors.items()}
    return PlainState(floats, notes)


def save_published(path: str | Path, state: Mapping[str, Tensor]) -> None:
    """Write ``to_published``'s state dict by torch.save, as the published file was; atomically.
    Raises XmdptError if it cannot be written."""
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as part:
            try:
                with open(part, "wb") as file:
                    torch.save(dict(state), file)
                    file.flush()
                    os.fsync(file.fileno())
            except RuntimeError as err:  # torch's error for a full disk
                raise OSError(errno.ENOSPC, f"the disk is full ({err})") from err


def steps_in_name(path: str | Path) -> int | None:
    """``ema_0.9999_300000.pt`` -> 300000; None if the name has no number."""
    found = re.fullmatch(r"(?:ema_[\d.]+_|ema_?|model_?)(\d+)", Path(path).stem)
    return int(found[1]) if found else None


def _without_prefixes(
    state: Mapping[str, Tensor], name: str
) -> tuple[dict[str, Tensor], list[str]]:
    """The state dict without the parts that wrappers add to names, and the parts found."""
    out: dict[str, Tensor] = {}
    seen = set()
    for key, value in state.items():
        parts = key.split(".")
        seen |= set(parts) & set(_WRAPPED)
        plain = ".".join(part for part in parts if part not in _WRAPPED)
        if plain in out:
            raise _no_state(name, f"two tensors are called {plain!r}")
        out[plain] = value
    return out, sorted(seen)


def _read(path: Path) -> Any:
    if path.is_dir():
        files = sorted(path.glob("ema_*.pt")) or sorted(path.glob("*.pt"))
        hint = f"name the file in it: {files[-1]}" if files else "name the published ema_*.pt file"
        raise XmdptError(f"{path} is a folder, not a checkpoint", hint)
    if not path.is_file():
        raise XmdptError(f"no such checkpoint: {path}", "name the published ema_*.pt file")
    check_whole(path, "download or copy the published ema_*.pt file again")
    if path.suffix != ".safetensors":
        return read_tensors(path, _AGAIN, "torch.save(checkpoint['ema'], 'ema.pt')")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as err:
        raise XmdptError(f"cannot read {path}: {err}", _AGAIN) from None


def _no_state(name: str, why: str) -> XmdptError:
    return XmdptError(f"not a plain state dict: {name}: {why}", "take the published ema_*.pt file")


def _instead_of(name: str) -> str:
    """A hint: the file to take, the average of the same step if it is in the same folder."""
    step = re.search(r"(\d+)$", Path(name).stem)
    beside = sorted(Path(name).parent.glob("ema_*.pt"))
    same = [p for p in beside if step and p.stem.endswith(f"_{step[1]}")]
    if same or beside:
        return f"take {(same or beside)[-1]}"
    return f"take the ema_*.pt file of {f'step {step[1]}' if step else 'the same step'}"
