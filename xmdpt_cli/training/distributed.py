"""The processes of one command: rank, world size and collectives.

torchrun starts the processes; Accelerate sets up rank, device and process groups, and averages
logged values. It does not wrap the module: it can shard by FSDP2 on GPUs only, wants to replace the
optimizer's parameters for that, and takes precision and compilation from its own environment; here
they follow from the run's settings alone, and what runs on GPUs is what the tests run on CPUs. Nor
does it accumulate gradients: that is one line of the loop, and its optimizer wrapper reads the
device. ``parallel`` wraps the module. The ranks of ``xmdpt prepare`` form no process group; they
communicate through the output folder (``storage.ranks``).
"""

from __future__ import annotations

import atexit
import gc
import re
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch

# Wrapping a module imports it, and it keeps the group that it finds then (as a default argument)
# for good: imported here it finds none, and ``_destroy`` can end the group.
import torch.distributed.nn.functional
from torch import Tensor

from xmdpt_cli.errors import ConfigError, SharedError, XmdptError
from xmdpt_cli.utils import interrupts
from xmdpt_cli.utils.processes import local_rank, rank_and_size

T = TypeVar("T")

#: how long a rank waits in a collective: writing and reading back a checkpoint must fit
TIMEOUT = timedelta(minutes=20)
#: how long it waits for all ranks to join, which includes importing the libraries
JOIN_TIMEOUT = timedelta(minutes=5)
#: seconds that ending the group may take at the end of a process
END_SECONDS = 5.0
SHARDINGS = ("auto", "ddp", "fsdp")


def _destroy(accelerator: Any) -> None:
    """At the end of the process, end the group and its threads.

    Gloo's threads release what was sent last a little after it was sent, and need Python for that.
    If Python is shutting down by then, the process aborts ("terminate called without an active
    exception") although all its work is done. The threads end with the last reference to the group.
    """
    if not torch.distributed.is_initialized():
        return  # after a second ``init`` in this process
    group = weakref.ref(torch.distributed.group.WORLD)

    def end() -> None:
        accelerator.end_training()
        gc.collect()  # wrapped modules refer to the group, often from a cycle

    # after an error something may be half sent: that thread would wait for the other ranks
    ending = threading.Thread(target=end, daemon=True)
    ending.start()
    ending.join(END_SECONDS)
    if group() is not None:  # something still refers to it (FSDP2 does): give the threads time
        time.sleep(0.2)


@dataclass(frozen=True)
class Distributed:
    """This process in its process group; ``Distributed()`` is a single process without a group.

    A single process never touches torch.distributed. Methods marked as collectives must be called
    by all ranks in the same order.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    sharding: str = "none"  # "ddp" or "fsdp" (see ``parallel``); "none" for a single process
    accelerator: Any = None

    @classmethod
    def init(
        cls,
        device: str | torch.device = "cpu",
        sharding: str = "auto",
        large: bool = False,
        timeout: timedelta = TIMEOUT,
    ) -> Distributed:
        """Join the process group that torchrun (or ``accelerate launch``) started, if there is one.

        Only the type of ``device`` matters with several processes: each process of a machine takes
        a GPU of its own. ``sharding`` "auto" means FSDP2 if the model is ``large``, else DDP. A
        collective that waits longer than ``timeout`` for another rank fails.
        """
        if sharding not in SHARDINGS:
            raise ConfigError(f"sharding is one of {', '.join(SHARDINGS)}, not {sharding!r}")
        device = torch.device(device)
        rank, world_size = rank_and_size()
        if world_size == 1:
            return cls(device=device)
        # without LOCAL_RANK, Accelerate would treat the process as a single one
        local, gpus = local_rank(), torch.cuda.device_count()
        if device.type == "cuda" and local >= gpus:
            raise ConfigError(
                f"process {local} of this machine finds {gpus} GPUs",
                f"torchrun --nproc-per-node {gpus}, or --device cpu",
            )
        from accelerate import Accelerator
        from accelerate.utils import InitProcessGroupKwargs

        # flags and small objects use the CPU's group: they must not wait for a GPU's work
        backend = "cuda:nccl,cpu:gloo" if device.type == "cuda" else "gloo"
        try:
            with interrupts.default_signals():  # no Python runs while it waits
                accelerator = Accelerator(
                    cpu=device.type == "cpu",
                    mixed_precision="no",
                    kwargs_handlers=[
                        InitProcessGroupKwargs(backend=backend, timeout=min(timeout, JOIN_TIMEOUT))
                    ],
                )
        except (RuntimeError, ValueError) as err:  # DistError is one; a port that is taken
            raise XmdptError(
                f"rank {rank} of {world_size} timed out waiting for the others to join "
                f"({_first_line(err)})",
                "start all ranks again with the same command (a restart by torchrun itself cannot "
                "always join); if it happens again, look at the first error of any rank",
            ) from err
        assert accelerator.num_processes == world_size
        _set_timeout(timeout)
        atexit.register(_destroy, accelerator)  # not earlier: a second call finds the group alive
        if sharding == "auto":
            sharding = "fsdp" if large else "ddp"
        return cls(accelerator.process_index, world_size, accelerator.device, sharding, accelerator)

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which alone writes files, logs and shows progress bars."""
        return self.rank == 0

    def split_batch(self, batch_size: int, accumulate: int = 1) -> int:
        """Rows of an optimizer step's batch that a rank takes per micro batch; ConfigError if
        ``batch_size`` does not divide."""
        parts = self.world_size * accumulate
        if batch_size % parts:
            cut = f" x {accumulate} parts (--accumulate)" if accumulate > 1 else ""
            larger = -(-batch_size // parts) * parts
            self.fail(
                ConfigError(
                    f"a batch of {batch_size} cannot be cut into {self.world_size} processes{cut}",
                    f"take a --batch-size that {parts} divides, e.g. {larger}",
                )
            )
        return batch_size // parts

    def all_reduce_mean(self, tensor: Tensor) -> Tensor:
        """The mean over all ranks. A collective."""
        if self.world_size == 1:
            return tensor
        mean: Tensor = self.accelerator.reduce(tensor, "mean")
        return mean

    def all_reduce_mean_(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its mean over all ranks, in one collective."""
        if self.world_size == 1:
            return
        flat = self.all_reduce_mean(torch.cat([tensor.reshape(-1) for tensor in tensors]))
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def all_gather(self, item: T) -> list[T]:
        """Every rank's ``item``, ordered by rank, on all ranks. A collective."""
        if self.world_size == 1:
            return [item]
        items: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(items, item)
        return items

    def any_rank(self, flag: bool) -> bool:
        """Whether ``flag`` is true on any rank. A collective."""
        return self.all_reduce_sum(int(flag)) > 0

    def all_reduce_sum(self, count: int) -> int:
        """The sum over all ranks. A collective, which does not wait for a GPU."""
        if self.world_size == 1:
            return count
        total = torch.tensor(count)
        torch.distributed.all_reduce(total)
        return int(total)

    def run_on_main(self, work: Callable[[], T]) -> T:
        """Run ``work()`` on rank 0 only; return its result, or raise its error, on every rank.

        A collective: the others wait. The result is pickled.
        """
        return self._on_main(work, send=True)  # type: ignore[return-value]

    def only_on_main(self, work: Callable[[], T]) -> T | None:
        """Like ``run_on_main``, but the result stays on rank 0; the others return None."""
        return self._on_main(work, send=False)

    def _on_main(self, work: Callable[[], T], send: bool) -> T | None:
        if self.world_size == 1:
            return work()
        result, error = None, None
        if self.is_main:
            try:
                result = work()
            except BaseException as err:  # an interrupt too: the others wait for an answer
                error = err if isinstance(err, XmdptError) else XmdptError(f"rank 0: {err!r}")
                torch.distributed.broadcast_object_list([None, error], src=0)
                raise
        outcome: list[Any] = [result if send else None, None]
        torch.distributed.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            self.fail(outcome[1])
        return outcome[0] if send else result

    def fail(self, err: XmdptError) -> NoReturn:
        """Raise an error on all ranks; only that of rank 0 is printed."""
        raise err if self.is_main else SharedError(err)

    @contextmanager
    def interruptible(self) -> Iterator[Callable[[], bool]]:
        """Yields a function that says whether any rank was interrupted; a collective, to be called
        after every step.

        An interrupt between two collectives would leave the other ranks waiting, so it is only
        recorded, and all ranks stop after the same step. In a single process KeyboardInterrupt is
        raised as usual.
        """
        if self.world_size == 1:
            yield lambda: False
            return
        with interrupts.held():
            yield lambda: self.any_rank(interrupts.received() != 0)

    @contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Raise XmdptError in place of the backend's error when another rank died or hangs."""
        try:
            yield
        except RuntimeError as err:
            if self.world_size == 1 or not _is_lost(err):
                raise
            raise XmdptError(
                f"rank {self.rank} of {self.world_size} lost another process: {_first_line(err)}",
                "that one's own error says why; the same command resumes from the last checkpoint",
            ) from err


SINGLE_PROCESS = Distributed()


def _set_timeout(timeout: timedelta) -> None:
    """Set how long the group's collectives wait, once all ranks have joined."""
    # public since torch 2.15, before that under another name
    group = torch.distributed.distributed_c10d
    set_timeout = getattr(group, "set_timeout", None) or group._set_pg_timeout
    set_timeout(timeout)


def _first_line(err: Exception) -> str:
    """The first line, without the place in gloo's source and its greeting."""
    line = re.sub(r"^\[[^]]*\] ", "", str(err)).partition("\n")[0]
    return re.sub(r"[.!]? GLHF.*", "", line) or type(err).__name__


def _is_lost(err: RuntimeError) -> bool:
    """Gloo has no error class of its own; its message names the place in its source."""
    distributed = isinstance(err, torch.distributed.DistError)
    return distributed or any(word in str(err) for word in ("gloo", "NCCL", "Connection closed"))
