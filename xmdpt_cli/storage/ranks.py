"""Several processes, on one machine or many, that prepare one dataset.

They share nothing but the output folder: each leaves a small file there now and then, a beat, and
a rank that waits for another checks its heartbeat.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from typing_extensions import TypedDict

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.storage.stores import Store
from xmdpt_cli.utils import records
from xmdpt_cli.utils.processes import rank_and_size

T = TypeVar("T")

BEAT = ".rank-"  # .rank-1.json
_BEAT_EVERY = 10.0  # seconds
_PATIENCE = 1200.0  # seconds without a beat: longer than one encoder call on a slow processor


@dataclass(frozen=True)
class World:
    """Which of how many processes this is."""

    rank: int = 0
    size: int = 1

    @classmethod
    def from_environment(cls) -> World:
        """RANK and WORLD_SIZE, as torchrun and accelerate set them; alone without them."""
        return cls(*rank_and_size())


class Meeting:
    """This rank's beat, and waiting for the others. Alone, nothing is written."""

    def __init__(self, store: Store, world: World, patience: float = _PATIENCE) -> None:
        self.store, self.world, self.patience = store, world, patience
        self._token, self._count, self._last = uuid.uuid4().hex, 0, -_BEAT_EVERY
        self._poll = 0.2 if store.folder is not None else 5.0
        # what an earlier, interrupted run left is no sign of life, nor of failure
        self._stale = {rank: self._read(rank) for rank in self._others()}
        self.beat()

    def _others(self) -> list[int]:
        return [rank for rank in range(self.world.size) if rank != self.world.rank]

    def _read(self, rank: int) -> str:
        try:
            return self.store.read(_name(rank)).decode()
        except FileNotFoundError:
            return ""

    def beat(self, failure: str | None = None) -> None:
        """Write this rank's heartbeat, at most every ten seconds; or that it has failed."""
        now = time.monotonic()
        if self.world.size == 1 or (failure is None and now - self._last < _BEAT_EVERY):
            return
        self._last, self._count = now, self._count + 1
        content = {"token": self._token, "beat": self._count, "failure": failure}
        self.store.write(_name(self.world.rank), json.dumps(content).encode())

    def wait(self, ready: Callable[[], T | None], what: str) -> T:
        """``ready()`` as soon as it is not None.

        Raises XmdptError if a rank says that it failed, or is not heard of for too long.
        """
        seen = {rank: ("", time.monotonic()) for rank in self._others()}
        while True:
            result = ready()
            if result is not None:
                return result
            self.beat()
            for rank, (before, since) in seen.items():
                text = self._read(rank)
                if text in ("", self._stale[rank], before):
                    if time.monotonic() - since > self.patience:
                        raise XmdptError(
                            f"rank {rank} was not heard of for {self.patience:.0f} seconds while "
                            f"rank {self.world.rank} waited for {what}",
                            "start all ranks again with the same command: what is done is kept",
                        )
                    continue
                seen[rank] = (text, time.monotonic())
                failure = records.parse(_Beat, text, _name(rank))["failure"]
                if failure is not None:
                    raise XmdptError(f"rank {rank} failed: {failure}")
            time.sleep(self._poll)

    def close(self) -> None:
        """Take this rank's beat away."""
        if self.world.size > 1:
            self.store.remove(_name(self.world.rank))


class _Beat(TypedDict):
    """What a rank leaves for the others."""

    failure: str | None


def _name(rank: int) -> str:
    return f"{BEAT}{rank}.json"
