"""Reading members and tensors of a shard at the places its index gives.

A shard of this machine is read with ``pread``, straight into the memory it is meant for; behind a
URL every read is one request for that range. A memory map was as fast, but a shard that is cut
short, or a disk that fails, under a map kills the process (SIGBUS): here both are errors with a
name. What cannot be seen is a byte that changed in place: only ``xmdpt prepare --check`` compares
checksums.
"""

from __future__ import annotations

import io
import os
import threading
import weakref
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from xmdpt_cli.data.index import TensorPlace, ViewPlace
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.pose.keypoints import JOINTS
from xmdpt_cli.storage.stores import Store

# safetensors' names -> how numpy reads the bytes; where numpy has no such type (bfloat16,
# float8), the bits as unsigned integers.
NUMPY_DTYPES: dict[str, type[np.generic]] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": np.uint16,
    "F8_E4M3": np.uint8,
}
TORCH_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
}


def stored_keypoints(data: bytes) -> NDArray[np.float64]:
    """A ``.npy`` member as float64 (18, 2); ValueError if it is something else."""
    try:
        points = np.load(io.BytesIO(data), allow_pickle=False)
        if (points.dtype, points.shape) != (np.float64, (len(JOINTS), 2)):
            raise ValueError(f"{points.dtype} {points.shape}, not float64 {(len(JOINTS), 2)}")
    except Exception as err:  # numpy parses the header as Python: a dozen types for damage
        raise ValueError(str(err).split("\n")[0] or type(err).__name__) from None
    return points


_AGAIN = "run the same prepare command again, or copy the dataset again"


class ShardError(XmdptError):
    """One shard, ``shard`` by its file name, cannot be read."""

    def __init__(self, shard: str, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.shard = shard


class ShardReader:
    """One shard: a file of this machine, opened at the first read, or ranges behind a URL.

    ``size``: its bytes as the manifest says, for ``check``. ``keep_open``: hold the file open
    between reads.
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
        """ShardError if the file is gone or of another size; behind a URL nothing is asked.

        Microseconds. The path is looked at, not the open file: one that was removed could be read
        to the end of this run, but not by the run that goes on from its checkpoint.
        """
        if self.store.folder is None or self.size is None:
            return
        try:
            size = os.stat(self.store.folder / self.name).st_size
        except OSError as err:
            raise self._unreadable(err) from None
        if size != self.size:
            raise self._short() if size < self.size else self._error("is longer than its index")

    def raw(self, offset: int, length: int) -> NDArray[np.uint8]:
        """``length`` bytes from ``offset``, read-only; ShardError if the shard ends before."""
        if self.store.folder is None:
            return self._request(offset, length)
        found = np.empty(length, np.uint8)
        self.read(offset, found)
        found.flags.writeable = False
        return found

    def read(self, offset: int, into: NDArray[np.uint8]) -> None:
        """Fill ``into`` (one axis, contiguous) from ``offset``; ShardError as ``raw``."""
        if self.store.folder is None:
            into[...] = self._request(offset, len(into))
            return
        file = self._file if self._file is not None else self._opened()
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

    def _opened(self) -> int:
        """The open file: to stay open in ``_file``, else for the caller to close."""
        assert self.store.folder is not None
        with self._lock:
            if self._file is not None:
                return self._file
            try:
                file = os.open(self.store.folder / self.name, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as err:
                raise self._unreadable(err) from None
            if self._keep_open:
                self._file = file
                weakref.finalize(self, os.close, file)
            return file

    def _request(self, offset: int, length: int) -> NDArray[np.uint8]:
        try:
            data = self.store.read_range(self.name, offset, length)
        except OSError as err:
            raise self._unreadable(err) from None
        except XmdptError as err:
            raise ShardError(self.name, err.message, err.hint) from None
        if len(data) != length:
            raise self._short()
        return np.frombuffer(data, dtype=np.uint8)

    def _unreadable(self, err: OSError) -> ShardError:
        if isinstance(err, FileNotFoundError):
            return self._error("is not there any more")
        return ShardError(self.name, f"cannot read {self.path}: {err}", _AGAIN)

    def _short(self) -> ShardError:
        return self._error("is shorter than its index says")

    def _error(self, what: str) -> ShardError:
        return ShardError(self.name, f"{self.path} {what}", _AGAIN)

    def member(self, place: tuple[int, int]) -> bytes:
        """A member's content."""
        return self.raw(*place).tobytes()

    def keypoints(self, view: ViewPlace) -> NDArray[np.float64]:
        """(18, 2), pixels of the prepared size, NaN missing. ShardError if they are none."""
        try:
            return stored_keypoints(self.member(view.keypoints))
        except ValueError as err:
            raise self._error(f"holds damaged keypoints ({err})") from None

    def array(self, place: TensorPlace) -> NDArray[Any]:
        """A tensor, read-only; bfloat16 comes as its bits, uint16."""
        raw = self.raw(place.offset, place.bytes)
        return raw.view(NUMPY_DTYPES[place.dtype]).reshape(place.shape)
