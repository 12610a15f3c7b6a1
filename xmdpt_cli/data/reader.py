"""Reading members and tensors of a shard at the places its index gives.

A shard of this machine is memory mapped and read without copying; behind a URL every read is one
request for that range. Either way a shard that has become shorter is an error, never garbage.
"""

from __future__ import annotations

import io
import math
import mmap
import threading
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from xmdpt_cli.data.index import TensorPlace, ViewPlace
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.stores import Store

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


def tensor_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """How many bytes a stored tensor takes."""
    return math.prod(shape) * np.dtype(NUMPY_DTYPES[dtype]).itemsize


class ShardReader:
    """One shard: memory mapped at the first read, or read range by range behind a URL."""

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name = store, name
        self.path = f"{store.url}/{name}"
        self._map: NDArray[np.uint8] | None = None
        self._lock = threading.Lock()

    def raw(self, offset: int, length: int) -> NDArray[np.uint8]:
        """``length`` bytes from ``offset``, read-only; XmdptError if the shard ends before."""
        if self.store.folder is None:
            found = self._request(offset, length)
        else:
            whole = self._map if self._map is not None else self._mapped()
            found = whole[offset : offset + length]
        if len(found) != length:
            raise XmdptError(
                f"{self.path} is shorter than its index says",
                "run the same prepare command again, or copy the dataset again",
            )
        return found

    def _mapped(self) -> NDArray[np.uint8]:
        assert self.store.folder is not None
        with self._lock:
            if self._map is None:
                try:
                    with (self.store.folder / self.name).open("rb") as stream:
                        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
                except (OSError, ValueError) as err:
                    raise XmdptError(f"cannot read {self.path}: {err}") from None
                self._map = np.frombuffer(mapped, dtype=np.uint8)
            return self._map

    def _request(self, offset: int, length: int) -> NDArray[np.uint8]:
        try:
            return np.frombuffer(self.store.read_range(self.name, offset, length), dtype=np.uint8)
        except FileNotFoundError:
            raise XmdptError(
                f"{self.path} is not there any more", "copy or prepare the dataset again"
            ) from None
        except OSError as err:
            raise XmdptError(f"cannot read {self.path}: {err}") from None

    def member(self, place: tuple[int, int]) -> bytes:
        """A member's content."""
        return self.raw(*place).tobytes()

    def keypoints(self, view: ViewPlace) -> NDArray[np.float64]:
        """(18, 2), pixels of the prepared size, NaN missing."""
        points: NDArray[np.float64] = np.load(io.BytesIO(self.member(view.keypoints)))
        return points

    def array(self, place: TensorPlace) -> NDArray[Any]:
        """A tensor without copying (read-only); bfloat16 comes as its bits, uint16."""
        raw = self.raw(place.offset, tensor_bytes(place.dtype, place.shape))
        return raw.view(NUMPY_DTYPES[place.dtype]).reshape(place.shape)
