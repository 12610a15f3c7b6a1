"""Tensors that lie in parts on the ranks (FSDP2's DTensors), and those that do not, alike."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from xmdpt_cli.training.distributed import Distributed


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor (a view); any other tensor as it is."""
    return tensor.to_local() if _is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def full(tensor: Tensor) -> Tensor:
    """The whole of a sharded tensor, a collective; any other tensor as it is."""
    return tensor.full_tensor() if _is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def whole(tensors: Mapping[str, Tensor], dist: Distributed) -> dict[str, Tensor]:
    """On rank 0 all tensors, whole and in memory; on the others, which help to gather, none."""
    found: dict[str, Tensor] = {}
    for key, value in tensors.items():
        gathered = full(value.detach())
        if dist.is_main:
            found[key] = gathered.cpu().contiguous()
    return found


@torch.no_grad()
def spread(source: Tensor | None, target: Tensor, dist: Distributed) -> None:
    """Copy rank 0's whole ``source`` into ``target``: all of it, or each rank its part."""
    assert (source is not None) == dist.is_main
    if dist.world_size == 1:
        assert source is not None
        target.copy_(source)
        return
    everything = torch.empty(target.shape, dtype=target.dtype, device=dist.device)
    if source is not None:
        everything.copy_(source)
    if _is_sharded(target):
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert isinstance(target, DTensor)
        parts = distribute_tensor(everything, target.device_mesh, target.placements)
        local(target).copy_(local(parts))
    else:
        torch.distributed.broadcast(everything, src=0)
        target.copy_(everything)


def _is_sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor, asked without importing them: that takes half as long as torch."""
    return hasattr(tensor, "full_tensor")
