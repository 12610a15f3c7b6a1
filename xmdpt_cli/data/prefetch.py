"""Batches read ahead on a thread, into rooms that serve again: on page-locked memory for a GPU."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator
from dataclasses import fields
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch

from xmdpt_cli.data.collate import Batch

_KEPT = 2  # batches that stay as they are after one more was asked for


B = TypeVar("B", bound=Batch, covariant=True)


class Loader(Protocol[B]):
    """What gives training its batches: ``TrainLoader``, ``stream.StreamLoader``, or online."""

    def batch(self, step: int, out: Batch | None = None) -> B: ...


@runtime_checkable
class Staged(Protocol[B]):
    """A loader in two halves: what threads do ahead, and what the device's own thread does."""

    def read(self, step: int, out: Any = None) -> Any:
        """From the disk: a dataclass of CPU tensors; ``out`` is an old one to overwrite."""
        ...

    def encode(self, read: Any) -> B:
        """What ``read`` gave -> the batch."""
        ...


class Wait(Protocol):
    """A place in a device's work that can be waited for: a CUDA event."""

    def synchronize(self) -> None: ...


def prefetch(
    loader: Loader[B] | Staged[B],
    start_step: int = 0,
    depth: int = 2,
    pin: torch.device | None = None,
) -> Generator[B, None, None]:
    """``loader.batch(start_step)``, the next, and so on without end, read ahead on a thread.

    A batch is overwritten after two more have been asked for: copy what is to be kept. Close the
    generator (or let it go) to stop the thread; its errors are raised here.

    ``pin``: a GPU. The rooms are page-locked, for ``tensor.to(pin, non_blocking=True)`` on that
    device's current stream in the thread that asks for batches. Such a copy may still be under
    way when its call is back, and when two more batches have been asked for: Python runs ahead of
    the device. So when the next batch is asked for, an event is recorded in that stream: behind
    every copy of the batch before. The reading thread waits for the event before it overwrites
    the room. At most depth + 4 rooms are in use: in the queue, being read, at the caller, and
    waited for; the wait is also what keeps Python from running ahead of the device without end.
    """
    read = loader.read if isinstance(loader, Staged) else loader.batch
    ready: queue.Queue[Any] = queue.Queue(maxsize=depth)
    old: queue.SimpleQueue[tuple[Any, Wait | None]] = queue.SimpleQueue()
    stop = threading.Event()
    if pin is not None and pin.index is None and torch.cuda.is_available():
        pin = torch.device("cuda", torch.cuda.current_device())  # of this thread

    def put(item: Any) -> None:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def work() -> None:
        step = start_step
        try:
            if pin is not None and torch.cuda.is_available():  # a new thread has device 0
                torch.cuda.set_device(pin)
            while not stop.is_set():
                if old.empty():
                    fresh = read(step)
                    put(fresh if pin is None else _pinned(fresh))
                else:
                    out, copied = old.get()
                    if copied is not None:
                        copied.synchronize()
                    fresh = read(step, out)
                    put(fresh if pin is None else _pinned(fresh))
                step += 1
        except BaseException as err:
            put(err)

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    given: list[tuple[Any, Wait | None]] = []
    try:
        while True:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            if len(given) > _KEPT - 1:
                old.put(given.pop(0))
            yield loader.encode(item) if isinstance(loader, Staged) else item
            given.append((item, None if pin is None else record(pin)))
    finally:
        stop.set()
        thread.join()


def record(device: torch.device) -> Wait:
    """Recorded behind all work of the device's current stream, which need not be the current
    device's; waiting for it lets other threads run."""
    event = torch.cuda.Event(blocking=True)
    event.record(torch.cuda.current_stream(device))
    return event


def _pinned(read: Any) -> Any:
    """Its tensors moved to page-locked memory, which the rooms' later readers fill.

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
