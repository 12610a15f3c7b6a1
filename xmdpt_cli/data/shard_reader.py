"""Reads byte ranges of a shard: with ``pread`` on this machine, as range requests behind a URL.

A memory map would be as fast, but a truncated shard or a failing disk under a map kills the process
(SIGBUS); here both raise ``ShardError``. A byte that changed in place is not noticed: only
``xmdpt prepare --check`` compares checksums.
"""

from __future__ import annotations

import io
import os
import threading
import weakref

import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.data.manifest import repair_command
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.pose.keypoints import JOINTS
from xmdpt_cli.storage.stores import Store


class ShardError(XmdptError):
    """One shard, ``shard`` by its file name, cannot be read."""

    def __init__(self, shard: str, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.shard = shard


class ShardReader:
    """One shard; a local file is opened at the first read.

    ``size``: its bytes according to the manifest, for ``check``. ``keep_open``: hold the file open
    between reads. May be used from several threads.
    """

    def __init__(
        self, store: Store, name: str, size: int | None = None, keep_open: bool = True
    ) -> None:
        self.store, self.name, self.size = store, name, size
        self.path = f"{store.url}/{name}"
        self._keep_open = keep_open
        self._file: int | None = None
        self._lock = threading.Lock()

    def check(self) -> None:
        """ShardError if the file is missing or of another size; nothing is checked behind a URL.

        Takes microseconds. The path is checked, not the open file: this run could still read a
        removed file, but not the run that resumes from its checkpoint.
        """
        if self.store.folder is None or self.size is None:
            return
        try:
            size = os.stat(self.store.folder / self.name).st_size
        except OSError as err:
            raise self._unreadable(err) from None
        if size < self.size:
            raise self._short()
        if size > self.size:
            raise self._error(f"{self.path} is longer than its index")

    def read(self, offset: int, into: NDArray[np.uint8]) -> None:
        """Fill ``into`` (1-D, contiguous) from ``offset``; ShardError if the shard is too short."""
        if self.store.folder is None:
            into[...] = np.frombuffer(self.request(offset, len(into)), np.uint8)
            return
        file = self._file if self._file is not None else self._open(self.store.folder / self.name)
        try:
            left = into.data
            while left:  # a read is cut short by signals, and at 2 GB
                count = os.preadv(file, [left], offset)
                if count == 0:
                    raise self._short()
                left, offset = left[count:], offset + count
        except OSError as err:
            raise self._unreadable(err) from None
        finally:
            if file != self._file:
                os.close(file)

    def request(self, offset: int, length: int) -> bytes:
        """A range through the store; ShardError if it cannot be read or is shorter."""
        try:
            data = self.store.read_range(self.name, offset, length)
        except OSError as err:
            raise self._unreadable(err) from None
        except XmdptError as err:
            raise ShardError(self.name, err.message, err.hint) from None
        if len(data) != length:
            raise self._short()
        return data

    def _open(self, path: str | os.PathLike[str]) -> int:
        """The open file: kept in ``_file``, or else closed by the caller."""
        with self._lock:
            if self._file is not None:
                return self._file
            try:
                file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as err:
                raise self._unreadable(err) from None
            if self._keep_open:
                self._file = file
                weakref.finalize(self, os.close, file)
            return file

    def _unreadable(self, err: OSError) -> ShardError:
        if isinstance(err, FileNotFoundError):
            return self._error(f"{self.path} no longer exists")
        return self._error(f"cannot read {self.path}: {err}")

    def _short(self) -> ShardError:
        return self._error(f"{self.path} is shorter than its index states")

    def _error(self, message: str) -> ShardError:
        hint = f"{repair_command(self.store.url)}; or copy the dataset again"
        return ShardError(self.name, message, hint)


def parse_keypoints(data: bytes) -> NDArray[np.float64]:
    """A ``.npy`` member as float64 (18, 2): x, y in pixels, NaN missing; else ValueError."""
    try:
        points = np.load(io.BytesIO(data), allow_pickle=False)
        if (points.dtype, points.shape) != (np.float64, (len(JOINTS), 2)):
            raise ValueError(f"{points.dtype} {points.shape}, not float64 {(len(JOINTS), 2)}")
    except Exception as err:  # numpy parses the header as Python: a dozen types for damage
        raise ValueError(str(err).split("\n")[0] or type(err).__name__) from None
    return points
