"""From stored bytes into the tensors of a batch, one copy each, converting where dtypes differ."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from xmdpt_cli.data.fp8 import dequantise_tokens
from xmdpt_cli.data.reader import NUMPY_DTYPES, TORCH_DTYPES
from xmdpt_cli.data.table import Column, Ints

# read(row, offset, into): fill ``into`` with bytes of the shard of that view (row of the table)
Read = Callable[[int, int, NDArray[np.uint8]], None]


def loaded_dtype(column: Column) -> torch.dtype:
    """How a stored tensor is read: as stored, but float8 with its scales as bfloat16."""
    return torch.bfloat16 if column.scales is not None else TORCH_DTYPES[column.dtype]


class Field:
    """Copies one stored tensor of N views into ``out`` (N, *shape), row by row.

    ``flip`` (N,) says where the tensor of the mirrored picture is taken. Rows may be copied by
    several threads: copies and conversions let each other run.
    """

    def __init__(
        self,
        out: torch.Tensor,
        rows: Ints,
        plain: Column,
        mirrored: Column | None = None,
        flip: NDArray[np.bool_] | None = None,
    ) -> None:
        assert out.is_contiguous()
        self.out, self.column, self.rows = out, plain, rows.tolist()
        offsets, scales = plain.offsets[rows], plain.scales
        if mirrored is not None and flip is not None:
            offsets = np.where(flip, mirrored.offsets[rows], offsets)
            if scales is not None and mirrored.scales is not None:
                scales = np.where(flip, mirrored.scales[rows], scales[rows])
        elif scales is not None:
            scales = scales[rows]
        self.complete = bool((offsets >= 0).all() and (scales is None or (scales >= 0).all()))
        self._offsets: list[int] = offsets.tolist()
        self._scales: list[int] | None = None if scales is None else scales.tolist()
        self._bytes: NDArray[np.uint8] | None = None
        if out.dtype == TORCH_DTYPES[plain.dtype]:  # as it is: numpy copies bytes fastest
            self._bytes = out.view(torch.uint8).numpy().reshape(len(rows), -1)

    def copy(self, number: int, read: Read) -> None:
        """Fill ``out[number]``."""
        row, column = self.rows[number], self.column
        if self._bytes is not None:
            read(row, self._offsets[number], self._bytes[number])
            return
        stored = np.empty(column.bytes, np.uint8)
        read(row, self._offsets[number], stored)
        if self._scales is not None:
            scale = np.empty(column.shape[0], np.float32)
            read(row, self._scales[number], scale.view(np.uint8))
            bits = stored.view(np.int8).reshape(column.shape)
            dequantise_tokens(torch.from_numpy(bits), torch.from_numpy(scale), self.out[number])
            return
        # torch converts float16 many times faster than numpy
        values = stored.view(NUMPY_DTYPES[column.dtype]).reshape(column.shape)
        if column.dtype == "BF16":
            tensor = torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
        else:
            tensor = torch.from_numpy(values)
        self.out[number].copy_(tensor)
