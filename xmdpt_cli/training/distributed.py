"""The processes that train together: torchrun starts them, Accelerate makes them a team.

Accelerate gives rank, device and process groups, and the means of what is logged. It does not
wrap the module: it can shard by FSDP2 on GPUs only and wants to swap the optimizer's parameters
for that, and it takes precision and compilation from its own environment; here they follow from
the run's settings alone, and what runs on GPUs is what the tests run on CPUs. Nor does it
accumulate: counting the micro batches is one line of the loop, and its optimizer wrapper reads
the device.
"""

from __future__ import annotations

import atexit
import gc
import inspect
import re
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch

# Wrapping a module imports it, and for ever after it keeps the group that it finds then (as a
# default argument): imported here it finds none, and ``_leave`` can end the group.
import torch.distributed.nn.functional
from torch import Tensor, nn

from xmdpt_cli.errors import ConfigError, SharedError, XmdptError
from xmdpt_cli.utils import interrupts
from xmdpt_cli.utils.processes import local_rank, rank_and_size

T = TypeVar("T")

#: how long a process waits for the others: writing and reading back a checkpoint must fit
PATIENCE = timedelta(minutes=20)
#: until all processes are there: they start together, within what loading the libraries takes
JOINING = timedelta(minutes=5)
#: seconds for what still goes on at the end of a process
LEAVING = 5.0
SHARDINGS = ("auto", "ddp", "fsdp")


def _leave(accelerator: Any) -> None:
    """At the end of the process: end the group, and its threads with it.

    Gloo's threads let go of what was sent last a little after it was sent, and need Python for
    it. If Python is ending by then the process aborts ("terminate called without an active
    exception"), with all its work done. The threads end with the last reference to the group.
    """
    if not torch.distributed.is_initialized():
        return  # after a second start in this process
    group = weakref.ref(torch.distributed.group.WORLD)

    def end() -> None:
        accelerator.end_training()
        gc.collect()  # what was wrapped refers to the group, often from a cycle

    # After an error something may be half sent: that thread would wait for the other processes
    ending = threading.Thread(target=end, daemon=True)
    ending.start()
    ending.join(LEAVING)
    if group() is not None:  # kept by somebody (FSDP2 does): give the threads time
        time.sleep(0.2)


@dataclass(frozen=True)
class Team:
    """This process among those that train together; ``Team()`` is a process alone.

    Alone, nothing of torch.distributed is touched, and every method is what it says for one.
    What is a collective must be called by all ranks in the same order.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    sharding: str = "none"  # "ddp": a full copy a rank; "fsdp": weights, gradients, state in parts
    accelerator: Any = None

    @classmethod
    def start(
        cls,
        device: str | torch.device = "cpu",
        sharding: str = "auto",
        large: bool = False,
        patience: timedelta = PATIENCE,
    ) -> Team:
        """Join the team that torchrun (or ``accelerate launch``) started, or be alone.

        ``device`` is asked for its kind only where there are several: every process of a machine
        takes a GPU of its own. ``sharding`` "auto" means FSDP2 if the model is ``large``, else
        DDP. A process that waits longer than ``patience`` for the others gives up.
        """
        if sharding not in SHARDINGS:
            raise ConfigError(f"sharding is one of {', '.join(SHARDINGS)}, not {sharding!r}")
        device = torch.device(device)
        rank, world = rank_and_size()
        if world == 1:
            return cls(device=device)
        # without LOCAL_RANK Accelerate would take such a process for one alone
        local, here = local_rank(), torch.cuda.device_count()
        if device.type == "cuda" and local >= here:
            raise ConfigError(
                f"process {local} of this machine finds {here} GPUs",
                f"torchrun --nproc-per-node {here}, or --device cpu",
            )
        from accelerate import Accelerator
        from accelerate.utils import InitProcessGroupKwargs

        # flags and small objects go over the CPU's group: they must not wait for a GPU's work
        backend = "cuda:nccl,cpu:gloo" if device.type == "cuda" else "gloo"
        joining = min(patience, JOINING)
        try:
            with interrupts.unheard():  # while it waits no Python runs
                accelerator = Accelerator(
                    cpu=device.type == "cpu",
                    mixed_precision="no",
                    kwargs_handlers=[InitProcessGroupKwargs(backend=backend, timeout=joining)],
                )
        except (RuntimeError, ValueError) as err:  # DistError is one; a port that is taken
            raise XmdptError(
                f"rank {rank} of {world} waited in vain for the others to join ({_short(err)})",
                "start all ranks again with the same command (a restart by torchrun itself cannot "
                "always join); if it happens again, look at the first error of any rank",
            ) from err
        assert accelerator.num_processes == world
        _set_timeout(patience)
        atexit.register(_leave, accelerator)  # not before: a second start finds the group alive
        if sharding == "auto":
            sharding = "fsdp" if large else "ddp"
        return cls(accelerator.process_index, world, accelerator.device, sharding, accelerator)

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which alone writes, logs and draws bars."""
        return self.rank == 0

    def wrap(self, module: nn.Module, layers: Iterable[nn.Module] = ()) -> nn.Module:
        """``module`` for training: its gradients become the means over all ranks.

        All that is trained must happen inside ``module.forward``. ``layers`` are those of its
        submodules (transformer blocks) whose weights are gathered at a time under FSDP2. Wrap
        before making the optimizer: sharding replaces the parameters. The ranks' weights must be
        equal already under FSDP2; DDP takes rank 0's.
        """
        if self.sharding == "fsdp":
            return self.shard(module, layers)
        if self.world == 1:
            return module
        ddp = nn.parallel.DistributedDataParallel
        renamed = "forward_sync_buffers" in inspect.signature(ddp).parameters  # in torch 2.15
        buffers: dict[str, Any] = {
            "forward_sync_buffers" if renamed else "broadcast_buffers": False
        }
        return ddp(module, gradient_as_bucket_view=True, **buffers)  # our buffers never change

    def shard(self, module: nn.Module, layers: Iterable[nn.Module] = ()) -> nn.Module:
        """Under FSDP2 leave this rank its part of every weight, in place; otherwise nothing."""
        if self.sharding != "fsdp":
            return module
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(self.device.type, (self.world,))
        for part in [*layers, module]:
            # gathered in full precision, like DDP's copy: autocast rounds in both alike
            fully_shard(part, mesh=mesh)
        return module

    def settle(self, module: nn.Module, loss: Callable[[], Tensor]) -> None:
        """One pass whose gradients are thrown away: to be done once, before the first step.

        DDP lays gradients out for sending anew after the first backward of a process, and with
        three ranks or more the layout decides in which order they are added: without this the
        first step after going on would round otherwise than in the undisturbed run.
        """
        if self.sharding == "ddp" and self.world > 2:
            loss().backward()
            module.zero_grad(set_to_none=True)

    def no_sync(self, wrapped: nn.Module) -> AbstractContextManager[None]:
        """Around forward and backward of all micro batches but the last: gradients add up here."""
        inner = getattr(wrapped, "_orig_mod", wrapped)  # of torch.compile
        if isinstance(inner, nn.parallel.DistributedDataParallel):
            return inner.no_sync()
        if self.sharding == "fsdp":
            return _no_reduce(inner)
        return nullcontext()

    def part(self, batch: int, accumulate: int = 1) -> int:
        """Rows of a step's batch that a rank takes at a time; ConfigError if it does not divide."""
        parts = self.world * accumulate
        if batch % parts:
            cut = f" x {accumulate} parts (--accumulate)" if accumulate > 1 else ""
            self.fail(
                ConfigError(
                    f"a batch of {batch} cannot be cut into {self.world} processes{cut}",
                    f"take a --batch-size that {parts} divides, e.g. {-(-batch // parts) * parts}",
                )
            )
        return batch // parts

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over all ranks, in one collective; alone, ``tensor``."""
        if self.world == 1:
            return tensor
        mean: Tensor = self.accelerator.reduce(tensor, "mean")
        return mean

    def average(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its mean over all ranks, in one collective."""
        if self.world == 1:
            return
        flat = self.mean(torch.cat([tensor.reshape(-1) for tensor in tensors]))
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def gather(self, item: T) -> list[T]:
        """Every rank's ``item``, by rank, for all of them."""
        if self.world == 1:
            return [item]
        items: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(items, item)
        return items

    def any(self, flag: bool) -> bool:
        """Whether a rank says so."""
        return self.sum(int(flag)) > 0

    def sum(self, count: int) -> int:
        """The ranks' counts together. All ranks wait for each other here, but for no GPU."""
        if self.world == 1:
            return count
        told = torch.tensor(count)
        torch.distributed.all_reduce(told)
        return int(told)

    def on_first(self, work: Callable[[], T]) -> T:
        """``work()`` on rank 0 alone; its result, or its error, on every rank."""
        if self.world == 1:
            return work()
        told: list[Any] = [None, None]  # the result, the error
        if self.first:
            try:
                told[0] = work()
            except BaseException as err:  # an interrupt too: the others wait for an answer
                told[1] = err if isinstance(err, XmdptError) else XmdptError(f"rank 0: {err!r}")
                torch.distributed.broadcast_object_list(told, src=0)
                raise
        torch.distributed.broadcast_object_list(told, src=0)
        if told[1] is not None:
            self.fail(told[1])
        result: T = told[0]
        return result

    def fail(self, err: XmdptError) -> NoReturn:
        """Raise what all ranks have come to know; rank 0 is to say it for all."""
        raise err if self.first else SharedError(err)

    @contextmanager
    def interruptible(self) -> Iterator[Callable[[], bool]]:
        """Yields what tells whether somebody interrupted a rank: ask on all ranks, every step.

        An interrupt between two collectives would leave the others waiting: it is only noted, and
        all stop after the same step. Alone, it comes as KeyboardInterrupt, as ever.
        """
        if self.world == 1:
            yield lambda: False
            return
        with interrupts.held():
            yield lambda: self.any(interrupts.received() != 0)

    @contextmanager
    def together(self) -> Iterator[None]:
        """What a rank hears when another one is gone or silent becomes an error of one line."""
        try:
            yield
        except RuntimeError as err:
            if self.world == 1 or not _is_lost(err):
                raise
            raise XmdptError(
                f"rank {self.rank} of {self.world} lost another process of the team: {_short(err)}",
                "that one's own error says why; the same command goes on from the last checkpoint",
            ) from err


ALONE = Team()


def _set_timeout(patience: timedelta) -> None:
    """How long the group's operations wait, once it has come together."""
    # public since torch 2.15, before that under another name
    group = torch.distributed.distributed_c10d
    set_timeout = getattr(group, "set_timeout", None) or group._set_pg_timeout
    set_timeout(patience)


def _short(err: Exception) -> str:
    """The first line, without the place in gloo's source and its good wishes."""
    line = re.sub(r"^\[[^]]*\] ", "", str(err)).partition("\n")[0]
    return re.sub(r"[.!]? GLHF.*", "", line) or type(err).__name__


@contextmanager
def _no_reduce(module: nn.Module) -> Iterator[None]:
    from torch.distributed.fsdp import FSDPModule

    assert isinstance(module, FSDPModule)
    module.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        module.set_requires_gradient_sync(True)


def _is_lost(err: RuntimeError) -> bool:
    """Gloo has no error class of its own: it says where in its source it gave up."""
    distributed = isinstance(err, torch.distributed.DistError)
    return distributed or any(word in str(err) for word in ("gloo", "NCCL", "Connection closed"))
