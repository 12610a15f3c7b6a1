"""Batches read ahead on a thread, into buffers that are reused: page-locked for a GPU."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from contextlib import closing
from dataclasses import fields
from functools import partial
from itertools import count
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch

from xmdpt_cli.data.loader import Batch
from xmdpt_cli.utils import prefetch as ahead

_KEPT = 2  # batches that stay valid after the next one was requested


B = TypeVar("B", bound=Batch, covariant=True)


class Loader(Protocol[B]):
    """A source of training batches: ``TrainLoader``, ``StreamLoader``, or the online loader."""

    def batch(self, step: int, out: Batch | None = None) -> B: ...


@runtime_checkable
class Staged(Protocol[B]):
    """A loader in two stages: ``read`` runs ahead on threads, ``encode`` on the device's thread."""

    def read(self, step: int, out: Any = None) -> Any:
        """From the disk: a dataclass of CPU tensors; ``out`` is an old one to overwrite."""
        ...

    def encode(self, read: Any) -> B:
        """Encode a result of ``read`` into a batch."""
        ...


class Wait(Protocol):
    """A point in a device's stream that can be waited for: a CUDA event."""

    def synchronize(self) -> None: ...


def prefetch(
    loader: Loader[B] | Staged[B],
    start_step: int = 0,
    depth: int = 2,
    pin: torch.device | None = None,
) -> Generator[B, None, None]:
    """``loader.batch(start_step)``, the next, and so on without end, read ahead on a thread.

    A batch is overwritten after two more have been requested: copy what must be kept. Close the
    generator (or drop it) to stop the thread; its errors are raised here.

    ``pin``: a GPU. The buffers are page-locked, for ``tensor.to(pin, non_blocking=True)`` on that
    device's current stream in the consuming thread. Such a copy may still be running when the call
    returns, and two batches later: Python runs ahead of the device. So with each request for a
    batch an event is recorded in that stream, after all copies of the batch before. The reading
    thread waits for the event before it overwrites the buffer. At most depth + 4 buffers are in
    use; the wait also limits how far Python runs ahead of the device.
    """
    read = loader.read if isinstance(loader, Staged) else loader.batch
    if pin is not None and pin.index is None and torch.cuda.is_available():
        pin = torch.device("cuda", torch.cuda.current_device())  # of this thread
    # a new thread has device 0
    choose = partial(torch.cuda.set_device, pin) if pin and torch.cuda.is_available() else None
    free: deque[tuple[Any, Wait | None]] = deque()

    def read_step(step: int) -> Any:
        buffer, copied = free.popleft() if free else (None, None)
        if copied is not None:
            copied.synchronize()
        batch = read(step, buffer)
        return batch if pin is None else _pinned(batch)

    given: deque[tuple[Any, Wait | None]] = deque()
    steps = ahead.prefetch(read_step, count(start_step), depth=depth, initializer=choose)
    with closing(steps):
        for batch in steps:
            if len(given) >= _KEPT:
                free.append(given.popleft())
            yield loader.encode(batch) if isinstance(loader, Staged) else batch
            given.append((batch, None if pin is None else record(pin)))


def record(device: torch.device) -> Wait:
    """Recorded behind all work of the device's current stream, which need not be the current
    device's; waiting for it lets other threads run."""
    event = torch.cuda.Event(blocking=True)
    event.record(torch.cuda.current_stream(device))
    return event


def _pinned(read: Any) -> Any:
    """Its tensors moved to page-locked memory, which later batches fill again.

    Tensors in tuples too (a step's random numbers, new in each batch): a copy from memory that is
    not page-locked, or that first has to be made contiguous, waits for the device.
    """
    for field in fields(read):
        setattr(read, field.name, _locked(getattr(read, field.name)))
    return read


def _locked(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value if value.is_pinned() else value.contiguous().pin_memory()
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(_locked, value))
    return value
