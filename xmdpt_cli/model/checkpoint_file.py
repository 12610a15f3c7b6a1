"""What people have when they have "the checkpoint": a state dict, found in it and made plain.

The published file (``ema_0.9999_300000.pt``) is a plain state dict. Training codes also leave it
inside a dict with other things, or with the prefixes of DDP and torch.compile on its names.
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
from xmdpt_cli.utils.weights_files import check_whole, read_tensors

#: keys below which a state dict is looked for; the average first: it draws better pictures
WRAPPERS = ("ema", "model", "state_dict", "model_state_dict")
_AGAIN = "it is not whole, or no checkpoint: fetch or copy the published ema_*.pt file again"
#: what DDP and torch.compile put into names; no published name has such a part
_WRAPPED = ("module", "_orig_mod")


@dataclass(frozen=True)
class PlainState:
    """A state dict, and in words what was done to get it."""

    tensors: dict[str, Tensor]
    notes: list[str]


def plain_state(source: Mapping[str, Any] | str | Path) -> PlainState:
    """The state dict in a checkpoint or its file (.pt, or .safetensors): names without prefixes,
    numbers in float32.

    Pickles are opened with ``weights_only``: nothing in them runs. Raises XmdptError for a file
    that is none, that is an optimizer's, or that holds other things than tensors.
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
    """Write ``to_published``'s state dict as the published file is: by torch.save, whole or not at
    all. Raises XmdptError if it cannot be."""
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as part:
            try:
                with open(part, "wb") as file:
                    torch.save(dict(state), file)
                    file.flush()
                    os.fsync(file.fileno())
            except RuntimeError as err:  # torch's word for a disk that takes no more
                raise OSError(errno.ENOSPC, f"the disk takes no more ({err})") from err


def steps_in_name(path: str | Path) -> int | None:
    """``ema_0.9999_300000.pt`` -> 300000; None where the name does not say."""
    found = re.fullmatch(r"(?:ema_[\d.]+_|ema_?|model_?)(\d+)", Path(path).stem)
    return int(found[1]) if found else None


def _without_prefixes(
    state: Mapping[str, Tensor], name: str
) -> tuple[dict[str, Tensor], list[str]]:
    """The names without what wrappers put into them, and which of these there were."""
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
        raise XmdptError(f"no such checkpoint: {path}")
    check_whole(path, "fetch or copy the published ema_*.pt file again")
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
    """Which file to take: the average of the same step, if it lies beside."""
    step = re.search(r"(\d+)$", Path(name).stem)
    beside = sorted(Path(name).parent.glob("ema_*.pt"))
    same = [p for p in beside if step and p.stem.endswith(f"_{step[1]}")]
    if same or beside:
        return f"take {(same or beside)[-1]}"
    return f"take the ema_*.pt file of {f'step {step[1]}' if step else 'the same step'}"
