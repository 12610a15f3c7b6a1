"""A module trained by several processes: DDP, a full copy on every rank, or FSDP2, a part of every
weight on every rank."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn

from xmdpt_cli.training.distributed import Distributed


def parallelize(
    module: nn.Module, dist: Distributed, layers: Iterable[nn.Module] = ()
) -> nn.Module:
    """Wrap ``module`` so that its gradients become means over all ranks.

    Everything that is trained must be called inside ``module.forward``. ``layers`` are the
    submodules (transformer blocks) whose weights FSDP2 gathers together. Wrap before creating the
    optimizer, since sharding replaces the parameters. Under FSDP2 the weights must already be
    equal on all ranks; DDP broadcasts rank 0's.
    """
    if dist.sharding == "fsdp":
        return shard(module, dist, layers)
    if dist.world_size == 1:
        return module
    ddp = nn.parallel.DistributedDataParallel
    renamed = "forward_sync_buffers" in inspect.signature(ddp).parameters  # in torch 2.15
    buffers: dict[str, Any] = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
    return ddp(module, gradient_as_bucket_view=True, **buffers)  # our buffers are constants


def shard(module: nn.Module, dist: Distributed, layers: Iterable[nn.Module] = ()) -> nn.Module:
    """Under FSDP2, shard the weights of ``module`` in place; otherwise return it unchanged."""
    if dist.sharding != "fsdp":
        return module
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(dist.device.type, (dist.world_size,))
    # gathered in full precision, like DDP's copy: autocast rounds both in the same way
    for layer in layers:
        fully_shard(layer, mesh=mesh)
        if hasattr(layer, "call"):  # ``model.layers.Block.call``, which bypasses ``forward``
            register_fsdp_forward_method(layer, "call")
    fully_shard(module, mesh=mesh)
    return module


def warm_up(module: nn.Module, dist: Distributed, loss: Callable[[], Tensor]) -> None:
    """Run one backward pass and discard its gradients; call once before the first step.

    DDP rebuilds its gradient buckets after a process's first backward pass, and with three or more
    ranks the buckets decide the order in which gradients are summed. Without this pass, the first
    step after resuming would round differently from the uninterrupted run.
    """
    if dist.sharding == "ddp" and dist.world_size > 2:
        loss().backward()
        module.zero_grad(set_to_none=True)


def no_sync(wrapped: nn.Module) -> AbstractContextManager[None]:
    """Accumulate gradients locally: for the forward and backward of all micro batches but the last.

    ``wrapped`` is what ``parallelize`` returned, compiled or not.
    """
    inner = getattr(wrapped, "_orig_mod", wrapped)  # of torch.compile
    if isinstance(inner, nn.parallel.DistributedDataParallel):
        return inner.no_sync()
    if hasattr(inner, "set_requires_gradient_sync"):  # an FSDPModule
        return _no_gradient_sync(inner)
    return nullcontext()


@contextmanager
def _no_gradient_sync(module: Any) -> Iterator[None]:
    module.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        module.set_requires_gradient_sync(True)
