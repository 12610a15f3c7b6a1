"""Conversions of images between arrays and tensors, and functions over batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.images import ImageArray
from xmdpt_cli.utils.prefetch import prefetch

A = TypeVar("A")
B = TypeVar("B")

#: (H, W, 3), RGB: uint8, or float32 in grey levels of 0 to 255, which a protocol that resizes
#: floats does not round (a cubic leaves that range by a few levels at edges)
Pixels: TypeAlias = "NDArray[np.uint8] | NDArray[np.float32]"


def checked(image: ImageArray, name: str) -> ImageArray:
    """``image`` if it is uint8 (H, W, 3). Otherwise an XmdptError that starts with ``name``:
    floats have no known scale and may hold NaN."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise XmdptError(
            f"{name} is {image.dtype} {image.shape}, not a uint8 array of (H, W, 3)",
            "floats in [0, 1] become images by (x * 255).round().astype(numpy.uint8)",
        )
    return image


def to_arrays(images: Tensor) -> list[ImageArray]:
    """uint8 (N, 3, H, W) on any device -> N arrays (H, W, 3). XmdptError for anything else."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise XmdptError(
            f"metrics take uint8 tensors (N, 3, H, W), not {images.dtype} {tuple(images.shape)}",
            "floats in [0, 1] become images by (x * 255).round().to(torch.uint8)",
        )
    return list(np.ascontiguousarray(images.detach().permute(0, 2, 3, 1).cpu().numpy()))


def to_tensor(images: Iterable[ImageArray]) -> Tensor:
    """Arrays (H, W, 3) of one size -> (N, 3, H, W)."""
    return torch.from_numpy(np.stack(list(images))).permute(0, 3, 1, 2)


def unit(image: Pixels) -> NDArray[np.float32]:
    """float32, 1 is white: the conversion with which all published implementations start."""
    return np.asarray(image, dtype=np.float32) / np.float32(255)


def unit_tensor(image: Pixels) -> Tensor:
    """``unit`` as float32 (1, 3, H, W)."""
    chw = np.ascontiguousarray(np.asarray(image, dtype=np.float32).transpose(2, 0, 1))
    return torch.from_numpy(chw)[None] / 255


def size_of(image: Pixels) -> str:
    """``176x256``: width, then height."""
    return f"{image.shape[1]}x{image.shape[0]}"


def in_threads(function: Callable[..., B], *columns: Iterable[Any]) -> list[B]:
    """``list(map(function, *columns))``, a few at once: NumPy, OpenCV and Pillow release the GIL
    and wait for memory, not for each other."""
    rows = list(zip(*columns, strict=True))
    threads = min(4, torch.get_num_threads(), len(rows))
    if threads < 2:
        return [function(*row) for row in rows]
    return list(prefetch(lambda row: function(*row), rows, threads=threads))


class Once:
    """Calls functions of a batch; inside ``with once.open():`` each only once for each batch.

    The metrics of a collection share resized images and features in this way.
    """

    def __init__(self) -> None:
        self._results: dict[tuple[Any, int], tuple[Any, Any]] | None = None

    @contextmanager
    def open(self) -> Iterator[None]:
        """Results are kept inside, and dropped at the end of the outermost ``with``."""
        if self._results is not None:
            yield
            return
        self._results = {}
        try:
            yield
        finally:
            self._results = None

    def __call__(self, function: Callable[[A], B], batch: A) -> B:
        if self._results is None:
            return function(batch)
        key = (function, id(batch))
        if key not in self._results:  # keeps the batch alive, so that its id is not reused
            self._results[key] = (batch, function(batch))
        result: B = self._results[key][1]
        return result
