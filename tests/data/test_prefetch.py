"""Reused buffers must not be overwritten while a device still copies from them.

There is no device here: ``Stream`` is one whose work is done as late as it can be.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing

import pytest
import torch

from xmdpt_cli.data import prefetch as ahead
from xmdpt_cli.data.loader import Batch
from xmdpt_cli.data.prefetch import prefetch
from xmdpt_cli.training.step_noise import StepBatch, StepNoise, with_step_noise

STEPS = 30
GPU = torch.device("cuda", 1)


class Stream:
    """Work in order, none of it done before it is waited for."""

    def __init__(self) -> None:
        self.work: list[Callable[[], object]] = []
        self.done = 0
        self.lock = threading.Lock()

    def until(self, count: int) -> None:
        with self.lock:
            for job in self.work[self.done : count]:
                job()
            self.done = max(self.done, count)


class Counting:
    """Batches full of their step's number; ``rooms`` are all the tensors it ever filled."""

    def __init__(self) -> None:
        self.rooms: set[int] = set()

    def batch(self, step: int, out: Batch | None = None) -> Batch:
        room = torch.empty(5) if out is None else out.target_moments
        room.fill_(step)
        self.rooms.add(room.data_ptr())
        return Batch(room, room, room, room, [str(step)], [])


def run(monkeypatch: pytest.MonkeyPatch, *, waits: bool, depth: int) -> tuple[list[float], int]:
    """What arrives on the device, and how many buffers were in use."""
    stream, loader = Stream(), Counting()

    class Event:
        def __init__(self, device: torch.device) -> None:
            assert device == GPU
            self.place = len(stream.work)

        def synchronize(self) -> None:
            if waits:
                stream.until(self.place)

    monkeypatch.setattr(ahead, "record", Event)
    monkeypatch.setattr(ahead, "_pinned", lambda batch: batch)
    arrived = torch.full((STEPS, 5), -1.0)
    with closing(prefetch(loader, depth=depth, pin=GPU)) as batches:
        for step, batch in zip(range(STEPS), batches, strict=False):
            into, room = arrived[step], batch.target_moments
            stream.work.append(lambda into=into, room=room: into.copy_(room))  # type: ignore[misc]
    stream.until(len(stream.work))
    return arrived[:, 0].tolist(), len(loader.rooms)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_a_buffer_is_not_overwritten_before_it_is_copied(
    monkeypatch: pytest.MonkeyPatch, depth: int
) -> None:
    arrived, rooms = run(monkeypatch, waits=True, depth=depth)
    assert arrived == list(range(STEPS))
    assert rooms <= depth + 4
    # and the stream above does show it where nobody waits
    assert run(monkeypatch, waits=False, depth=depth)[0] != list(range(STEPS))


def locking(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Page-locked memory without a GPU: what was locked."""
    locked: list[torch.Tensor] = []

    def lock(tensor: torch.Tensor) -> torch.Tensor:
        locked.append(tensor)
        return tensor

    class Now:
        def __init__(self, device: torch.device) -> None: ...

        def synchronize(self) -> None: ...

    def is_locked(tensor: torch.Tensor) -> bool:
        return any(tensor is known for known in locked)

    monkeypatch.setattr(ahead, "record", Now)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lock)
    monkeypatch.setattr(torch.Tensor, "is_pinned", is_locked)
    return locked


def test_only_new_buffers_are_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    locked, loader = locking(monkeypatch), Counting()
    with closing(prefetch(loader, pin=GPU)) as batches:
        for _ in range(STEPS):
            next(batches)
    assert len(locked) == len(loader.rooms)  # a batch's four tensors are one here
    assert len(loader.rooms) <= 6


def test_a_steps_random_numbers_are_locked_in_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are new in each: from memory that is not page-locked, or not contiguous, the copy to a
    GPU would wait for the step before."""
    locked, counting = locking(monkeypatch), Counting()

    class Drawing:
        def batch(self, step: int, out: Batch | None = None) -> StepBatch:
            return with_step_noise(
                counting.batch(step, out), StepNoise.sample(0, [step, step + 1], (4, 2, 2), 4)
            )

    with closing(prefetch(Drawing(), pin=GPU)) as batches:
        for step, batch in zip(range(STEPS), batches, strict=False):
            assert batch.step_noise is not None
            assert all(part.is_pinned() and part.is_contiguous() for part in batch.step_noise)
            expected = StepNoise.sample(0, [step, step + 1], (4, 2, 2), 4)
            assert all(map(torch.equal, batch.step_noise, expected))
    assert len(locked) > 5 * STEPS


def test_the_reading_thread_uses_the_callers_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """``cuda`` is the caller's current device; a new thread would take the first."""
    chosen: list[torch.device] = []
    locking(monkeypatch)
    monkeypatch.setattr(ahead, "record", chosen.append)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    with closing(prefetch(Counting(), pin=torch.device("cuda"))) as batches:
        next(batches)
        next(batches)
    assert chosen == [GPU, GPU]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_copies_to_a_gpu() -> None:
    loader = Counting()
    slow = torch.randn(4096, 4096, device="cuda")
    arrived = []
    with closing(prefetch(loader, pin=torch.device("cuda"))) as batches:
        for _, batch in zip(range(STEPS), batches, strict=False):
            assert batch.target_moments.is_pinned()
            slow = torch.tanh(slow @ slow)  # the copy waits behind this
            arrived.append(batch.target_moments.to("cuda", non_blocking=True))
    assert [int(tensor[0]) for tensor in arrived] == list(range(STEPS))
