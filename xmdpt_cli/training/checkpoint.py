"""Checkpoints: whole or not there, and read back to the bit.

``checkpoints/step_0001000/`` holds model.safetensors, ema.safetensors, optimizer.safetensors and
state.json (written last inside a temporary folder, which is then renamed). ``checkpoints/latest``
names the newest. Random numbers need no saving: each step's follow from the seed and its number.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import write_text


def save(
    folder: Path,
    step: int,
    model: nn.Module,
    ema: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    state: dict[str, Any],
    keep: int,
) -> Path:
    """Write checkpoint ``step`` below ``folder``, then drop all but the ``keep`` newest."""
    final = folder / f"step_{step:07d}"
    part = folder / f".step_{step:07d}.part"
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        save_file(_plain(model.state_dict()), part / "model.safetensors")
        save_file(_plain(ema.state_dict()), part / "ema.safetensors")
        save_file(_optimizer_tensors(model, optimizers), part / "optimizer.safetensors")
        write_text(part / "state.json", json.dumps({"step": step, **state}, indent=2))
    except (OSError, SafetensorError) as err:
        shutil.rmtree(part, ignore_errors=True)
        raise XmdptError(
            f"cannot write checkpoint {final}: {err}",
            "make room or fix the permissions; the same command then goes on from the checkpoint "
            "before it",
        ) from err
    if final.exists():
        shutil.rmtree(final)
    part.rename(final)
    write_text(folder / "latest", final.name)
    for old in sorted(folder.glob("step_*"))[:-keep]:
        shutil.rmtree(old)
    return final


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint, or None (a kill may leave the file ``latest`` one behind)."""
    found = [p for p in sorted(folder.glob("step_*")) if (p / "state.json").is_file()]
    return found[-1] if found else None


def load(
    path: Path, model: nn.Module, ema: nn.Module, optimizers: list[torch.optim.Optimizer]
) -> dict[str, Any]:
    """Fill model, EMA and optimizer from a checkpoint; returns its state.json."""
    try:
        state: dict[str, Any] = json.loads((path / "state.json").read_text())
        model.load_state_dict(load_file(path / "model.safetensors"))
        ema.load_state_dict(load_file(path / "ema.safetensors"))
        _load_optimizers(model, optimizers, load_file(path / "optimizer.safetensors"))
    except Exception as err:
        reason = str(err).splitlines()[0] if str(err) else type(err).__name__
        raise XmdptError(
            f"cannot continue from {path}: {reason}",
            f"remove that folder to go on from the checkpoint before it: rm -r {path}",
        ) from err
    return state


def _plain(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.detach().cpu().contiguous() for k, v in state.items()}


def _optimizer_tensors(
    model: nn.Module, optimizers: list[torch.optim.Optimizer]
) -> dict[str, Tensor]:
    """The optimizers' state under the parameters' names: ``exp_avg.tdnet.position`` and so on."""
    out: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        for optimizer in optimizers:
            for key, value in optimizer.state.get(parameter, {}).items():
                out[f"{key}.{name}"] = torch.as_tensor(value).detach().cpu().clone().contiguous()
    return out


def _load_optimizers(
    model: nn.Module, optimizers: list[torch.optim.Optimizer], tensors: dict[str, Tensor]
) -> None:
    by_name: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        kind, name = key.split(".", 1)
        # a copy: tensors in a mapped file may lie unaligned, and then other code rounds otherwise
        by_name.setdefault(name, {})[kind] = value.clone()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for optimizer in optimizers:
        own = [p for group in optimizer.param_groups for p in group["params"]]
        state = {i: by_name[names[id(p)]] for i, p in enumerate(own) if names[id(p)] in by_name}
        # load_state_dict moves the tensors to the parameters' devices (AdamW's step excepted)
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
