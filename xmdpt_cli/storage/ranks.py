"""Several processes, on one machine or many, that prepare one dataset.

They share only the output folder: each rank writes a small file there, its heartbeat, which the
ranks that wait for it check.
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
_POLL_FOLDER, _POLL_REMOTE = 0.2, 5.0  # seconds between two reads of the other ranks
_PATIENCE = 1200.0  # seconds without a beat: longer than one encoder call on a slow processor


@dataclass(frozen=True)
class World:
    """Rank of this process and number of processes."""

    rank: int = 0
    size: int = 1

    @classmethod
    def from_environment(cls) -> World:
        """From RANK and WORLD_SIZE; a single process if they are not set."""
        return cls(*rank_and_size())


class ProcessGroup:
    """The ranks that prepare one dataset: this rank's heartbeat, and waiting for other ranks.

    A single process writes nothing. ``patience``: seconds without a heartbeat of another rank.
    """

    def __init__(self, store: Store, world: World, patience: float = _PATIENCE) -> None:
        self.store, self.world, self.patience = store, world, patience
        self._token, self._count, self._last = uuid.uuid4().hex, 0, -_BEAT_EVERY
        self._poll = _POLL_REMOTE if store.folder is None else _POLL_FOLDER
        # heartbeats of an earlier, interrupted run do not count
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
        """Write this rank's heartbeat, at most every ten seconds, or its failure at once."""
        now = time.monotonic()
        if self.world.size == 1 or (failure is None and now - self._last < _BEAT_EVERY):
            return
        self._last, self._count = now, self._count + 1
        content = {"token": self._token, "beat": self._count, "failure": failure}
        self.store.write(_name(self.world.rank), json.dumps(content).encode())

    def wait(self, ready: Callable[[], T | None], what: str) -> T:
        """Return ``ready()`` as soon as it is not None.

        Raises XmdptError if a rank reports a failure or its heartbeat stops for too long.
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
                            f"no heartbeat of rank {rank} for {self.patience:.0f} seconds while "
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
        """Remove this rank's heartbeat."""
        if self.world.size > 1:
            self.store.remove(_name(self.world.rank))


class _Beat(TypedDict):
    """The content of a heartbeat."""

    failure: str | None


def _name(rank: int) -> str:
    return f"{BEAT}{rank}.json"
