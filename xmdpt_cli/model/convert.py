"""Convert published checkpoints to model folders, and model folders to published checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.files import check_writable, content
from xmdpt_cli.model.checkpoint import (
    is_model_folder,
    load_model,
    published_metadata,
    save_model,
)
from xmdpt_cli.model.published import (
    from_published,
    is_published,
    plain_state,
    save_published,
    steps_in_name,
    to_published,
)
from xmdpt_cli.model.xmdpt import XMDPT


@dataclass(frozen=True)
class Converted:
    """A converted model, and whether it was written (False: ``out`` contained it already)."""

    model: XMDPT
    metadata: dict[str, Any]
    notes: list[str]
    written: bool


def convert_to_folder(
    source: Path, out: Path, mask_ratio: float = 0.3, *, replace: bool = False
) -> Converted:
    """Convert the published checkpoint ``source`` to the model folder ``out``.

    ``mask_ratio``: that of the training, which the checkpoint lacks. ``replace``: replace another
    model in ``out``. Raises XmdptError if ``out`` contains something else.
    """
    if is_model_folder(source) or is_model_folder(source / "model"):
        raise ConfigError(
            f"{source} is already a model folder", "to write a published file: --to published"
        )
    free = not out.exists() or (out.is_dir() and not content(out))
    _check_kind(out, "model folder", free or is_model_folder(out))
    check_writable(out / "model.safetensors")
    state = plain_state(source)
    model = from_published(state.tensors, mask_ratio)
    metadata = published_metadata(model, trained_steps=steps_in_name(source))
    notes = list(state.notes)
    if model.mipnet is None:
        notes.append("the checkpoint has no MIPNet: the model can sample, but cannot be trained")
    write = free or replace
    if write:
        save_model(out, model, metadata)
    elif not _same_model(out, model, metadata):
        raise _other(out, "model folder")
    return Converted(model, metadata, notes, write)


def convert_to_published(source: Path, out: Path, *, replace: bool = False) -> Converted:
    """Convert the model folder ``source`` to the published checkpoint ``out``, a .pt file.

    ``replace``: replace another checkpoint in ``out``. Raises XmdptError if ``out`` is something
    else, or if the published code cannot hold the model.
    """
    if out.suffix not in (".pt", ".pth"):
        raise ConfigError(f"--out must be a .pt file with --to published, not {out}")
    free, what = not out.exists(), "published checkpoint"
    _check_kind(out, what, free or is_published(out))
    check_writable(out)
    model, metadata = load_model(source)
    state = to_published(model, metadata)
    write = free or replace
    if write:
        save_published(out, state)
    elif not _equal(plain_state(out).tensors, state):
        raise _other(out, what)
    return Converted(model, metadata, [], write)


def _check_kind(out: Path, what: str, fits: bool) -> None:
    if not fits:
        raise XmdptError(f"{out} exists and is not a {what}", "choose another --out")


def _other(out: Path, what: str) -> XmdptError:
    """The error if ``out`` contains another model than the one that would be written."""
    return XmdptError(
        f"{out} is already a {what}", "choose another --out, or --force to replace it"
    )


def _same_model(out: Path, model: XMDPT, metadata: Mapping[str, Any]) -> bool:
    try:
        existing, known = load_model(out)
    except XmdptError:  # broken: --force replaces it
        return False
    same = all(known.get(key) == value for key, value in metadata.items())
    same = same and existing.mask_ratio == model.mask_ratio
    return same and _equal(existing.state_dict(), model.state_dict())


def _equal(existing: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> bool:
    """Whether both have the same tensors under the same names."""
    return existing.keys() == wanted.keys() and all(
        existing[name].shape == tensor.shape and bool((existing[name] == tensor).all())
        for name, tensor in wanted.items()
    )
