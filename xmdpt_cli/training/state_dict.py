"""Whole, unsharded state of models and optimizers by parameter name, for any number of ranks.

A thin layer over torch.distributed.checkpoint.state_dict, which works the same for a single
process, DDP and FSDP2. All functions are collectives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.training.distributed import Distributed
from xmdpt_cli.utils.weights_files import check_state_dict

Optimizers = list[torch.optim.Optimizer]


@dataclass
class OptimizerState:
    """State of one or several optimizers, keyed "exp_avg.tdnet.position"."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)  # state that is no tensor
    counters: list[dict[str, float]] = field(default_factory=list)  # of each parameter group


def model_state(model: nn.Module) -> dict[str, Tensor]:
    """All weights and buffers, on the CPU of rank 0; empty on the other ranks."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return _contiguous(get_model_state_dict(model, options=options))


def check_model_state(model: nn.Module, file: Path) -> None:
    """XmdptError if ``file`` does not hold the weights and buffers of ``model``, by its header; no
    collective."""
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    with safe_open(file, framework="pt") as opened:
        found = {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118
    check_state_dict(found, wanted, f"{file} is of another model: it", "choose another --out")


def load_model_state(model: nn.Module, file: Path, dist: Distributed) -> None:
    """Load what ``model_state`` returned, in place, from a checked file that rank 0 reads."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    several = dist.world_size > 1
    options = StateDictOptions(full_state_dict=several, broadcast_from_rank0=several)
    tensors: dict[str, Any] = _read_on_main(file, dist)
    set_model_state_dict(model, tensors, options=options)


def optimizer_state(model: nn.Module, optimizers: Optimizers) -> OptimizerState:
    """The optimizers' state, on the CPU of rank 0; empty on the other ranks.

    Settings such as the learning rate are left out: they follow from the run's configuration.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    found: dict[str, Any] = get_optimizer_state_dict(model, optimizers, options=options)
    state = found.get("state", {})
    flat = {f"{key}.{name}": value for name in state for key, value in state[name].items()}
    return OptimizerState(
        _contiguous({key: v for key, v in flat.items() if isinstance(v, Tensor)}),
        {key: v for key, v in flat.items() if not isinstance(v, Tensor)},
        [
            {key: v for key, v in group.items() if key not in ("params", *optimizer.defaults)}
            for optimizer in optimizers
            for group in optimizer.param_groups
        ],
    )


def load_optimizer_state(
    model: nn.Module, optimizers: Optimizers, file: Path, found: OptimizerState, dist: Distributed
) -> None:
    """Load the tensors of ``optimizer_state`` from ``file``, the rest from ``found``, in place.

    Rank 0 reads. The model is checked already; XmdptError if a state is of another parameter.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

    several = dist.world_size > 1
    options = StateDictOptions(full_state_dict=several, broadcast_from_rank0=several)
    found.tensors = _read_on_main(file, dist)
    whole = dist.only_on_main(lambda: _by_name(model, optimizers, file, found)) or {}
    set_optimizer_state_dict(model, optimizers, whole, options=options)


def _by_name(
    model: nn.Module, optimizers: Optimizers, file: Path, found: OptimizerState
) -> dict[str, Any]:
    """The optimizers' state dict in torch's form, with names in place of parameters' numbers."""
    # torch silently leaves out the state of frozen parameters
    assert all(p.requires_grad for o in optimizers for g in o.param_groups for p in g["params"])
    names = {parameter: name for name, parameter in model.named_parameters()}
    state: dict[str, dict[str, Any]] = {name: {} for name in names.values()}
    for key, value in {**found.tensors, **found.numbers}.items():
        kind, _, name = key.partition(".")
        if name not in state:
            raise _other_model(file, name)
        state[name][kind] = value
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    if len(groups) != len(found.counters):
        raise _other_model(file, f"{len(found.counters)} parameter groups, here {len(groups)}")
    return {
        "state": {name: of for name, of in state.items() if of},
        "param_groups": [
            {**group, **counters, "params": [names[p] for p in group["params"]]}
            for group, counters in zip(groups, found.counters, strict=True)
        ],
    }


def _read_on_main(file: Path, dist: Distributed) -> dict[str, Tensor]:
    """The tensors of ``file`` on rank 0, empty on the others."""
    if not dist.is_main:
        return {}
    with safe_open(file, framework="pt") as opened:
        # copies: a tensor in a mapped file may be unaligned, and is then rounded differently
        return {key: opened.get_tensor(key).clone() for key in opened.keys()}  # noqa: SIM118


def _contiguous(tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: value.detach().contiguous() for name, value in tensors.items()}


def _other_model(file: Path, what: str) -> XmdptError:
    return XmdptError(f"{file} is of another model: {what}", "choose another --out")
