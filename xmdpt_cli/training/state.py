"""The state of a run by name: read from model and optimizers, and filled in again from a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.training.distributed import Distributed
from xmdpt_cli.training.sharded import spread

Optimizers = list[torch.optim.Optimizer]


def optimizer_state(
    model: nn.Module, optimizers: Optimizers
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """State under the parameters' names (``exp_avg.tdnet.position``): tensors, plain numbers."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, float] = {}
    for name, parameter in model.named_parameters():
        for optimizer in optimizers:
            for key, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    tensors[f"{key}.{name}"] = value
                elif value is not None:
                    numbers[f"{key}.{name}"] = value
    return tensors, numbers


class Source:
    """One file of a checkpoint: rank 0 reads it, all get what they need of it."""

    def __init__(self, file: Path, dist: Distributed) -> None:
        self.file, self.dist = file, dist
        #: what it holds: each tensor's shape and type
        self.shapes: dict[str, tuple[torch.Size, torch.dtype]] = dist.run_on_main(self._header)
        self._open = safe_open(self.file, framework="pt") if dist.is_main else None

    def _header(self) -> dict[str, tuple[torch.Size, torch.dtype]]:
        with safe_open(self.file, framework="pt") as file:
            # get_tensor maps, it does not read
            found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return {key: (value.shape, value.dtype) for key, value in found.items()}

    def fill(self, key: str, target: Tensor) -> None:
        """Copy (what lies in a mapped file may be unaligned, and then other code rounds)."""
        shape = self.shapes[key][0]
        if shape != target.shape:
            raise other_model(self.file, f"{key} is {tuple(shape)}, here {tuple(target.shape)}")
        spread(self._open.get_tensor(key) if self._open else None, target, self.dist)


def fill_module(source: Source, module: nn.Module) -> None:
    """Weights and buffers, in place. XmdptError if the file is of another model."""
    targets = module.state_dict()
    differs = sorted(source.shapes.keys() ^ targets.keys())
    if differs:
        raise other_model(source.file, ", ".join(differs))
    for key, target in targets.items():
        source.fill(key, target)


def fill_optimizers(
    source: Source, model: nn.Module, optimizers: Optimizers, numbers: Mapping[str, float]
) -> None:
    """What ``optimizer_state`` gave, back in place. XmdptError if it is of another model."""
    parameters = dict(model.named_parameters())
    by_name: dict[str, dict[str, Any]] = {name: {} for name in parameters}
    for key in sorted(source.shapes.keys() | numbers.keys()):
        kind, _, name = key.partition(".")
        if name not in parameters:
            raise other_model(source.file, name)
        if key in numbers:
            by_name[name][kind] = numbers[key]
            continue
        shape, dtype = source.shapes[key]
        parameter = parameters[name]
        if shape == parameter.shape:  # in parts where the parameter is
            value = torch.empty_like(parameter, dtype=dtype, requires_grad=False)
        else:
            value = torch.empty(shape, dtype=dtype)
        source.fill(key, value)
        by_name[name][kind] = value
    names = {id(parameter): name for name, parameter in parameters.items()}
    for optimizer in optimizers:
        own = [p for group in optimizer.param_groups for p in group["params"]]
        state = {i: by_name[names[id(p)]] for i, p in enumerate(own) if by_name[names[id(p)]]}
        # load_state_dict moves the tensors to the parameters' devices (AdamW's step excepted)
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})


def other_model(file: Path, what: str) -> XmdptError:
    return XmdptError(f"{file} is of another model: {what}", "choose another --out")
