"""Rooms that serve again must not be overwritten while a device still copies out of them.

There is no device here: ``Stream`` is one whose work is done as late as it can be.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing

import pytest
import torch

from xmdpt_cli.data import prefetch as ahead
from xmdpt_cli.data.batch import Batch
from xmdpt_cli.data.prefetch import prefetch

STEPS = 30


class Stream:
    """Work in order, none of it done before somebody waits for it."""

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
    """What arrives on the device, and how many rooms were in use."""
    stream, loader = Stream(), Counting()

    class Event:
        def __init__(self) -> None:
            self.place = len(stream.work)

        def synchronize(self) -> None:
            if waits:
                stream.until(self.place)

    monkeypatch.setattr(ahead, "record", Event)
    monkeypatch.setattr(ahead, "_pinned", lambda batch: batch)
    arrived = torch.full((STEPS, 5), -1.0)
    with closing(prefetch(loader, depth=depth, pin=True)) as batches:
        for step, batch in zip(range(STEPS), batches, strict=False):
            into, room = arrived[step], batch.target_moments
            stream.work.append(lambda into=into, room=room: into.copy_(room))  # type: ignore[misc]
    stream.until(len(stream.work))
    return arrived[:, 0].tolist(), len(loader.rooms)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_a_room_is_not_overwritten_before_it_is_copied(
    monkeypatch: pytest.MonkeyPatch, depth: int
) -> None:
    arrived, rooms = run(monkeypatch, waits=True, depth=depth)
    assert arrived == list(range(STEPS))
    assert rooms <= depth + 4
    # and the stream above does show it where nobody waits
    assert run(monkeypatch, waits=False, depth=depth)[0] != list(range(STEPS))


def test_only_new_rooms_are_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    locked: list[int] = []

    def lock(tensor: torch.Tensor) -> torch.Tensor:
        locked.append(1)
        return tensor

    class Now:
        def synchronize(self) -> None: ...

    monkeypatch.setattr(ahead, "record", Now)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lock)
    loader = Counting()
    with closing(prefetch(loader, pin=True)) as batches:
        for _ in range(STEPS):
            next(batches)
    assert len(locked) == 4 * len(loader.rooms)  # a batch has four tensors
    assert len(loader.rooms) <= 6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_copies_to_a_gpu() -> None:
    loader = Counting()
    slow = torch.randn(4096, 4096, device="cuda")
    arrived = []
    with closing(prefetch(loader, pin=True)) as batches:
        for _, batch in zip(range(STEPS), batches, strict=False):
            assert batch.target_moments.is_pinned()
            slow = torch.tanh(slow @ slow)  # the copy waits behind this
            arrived.append(batch.target_moments.to("cuda", non_blocking=True))
    assert [int(tensor[0]) for tensor in arrived] == list(range(STEPS))
