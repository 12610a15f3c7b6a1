"""From stored bytes into the tensors of a batch, one copy each, converting where dtypes differ."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from xmdpt_cli.data.fp8 import dequantise_tokens
from xmdpt_cli.data.reader import TORCH_DTYPES
from xmdpt_cli.data.table import Column, Ints

# read(row, offset, into): fill ``into`` with bytes of the shard of that view (row of the table)
Read = Callable[[int, int, NDArray[np.uint8]], None]


_ALONE = 32_768  # elements from which torch splits a conversion over its threads


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
        # as it is: straight into place; else into a room of its own, converted by ``settle``
        self._stored = out
        if scales is None and out.dtype != TORCH_DTYPES[plain.dtype]:
            self._stored = torch.empty(out.shape, dtype=TORCH_DTYPES[plain.dtype])
        self._bytes = self._stored.view(torch.uint8).numpy().reshape(len(rows), -1)

    def copy(self, number: int, read: Read) -> None:
        """Read row ``number``."""
        row, column = self.rows[number], self.column
        if self._scales is None:
            read(row, self._offsets[number], self._bytes[number])
            return
        bits = np.empty(column.shape, np.int8)
        scale = np.empty(column.shape[0], np.float32)
        read(row, self._offsets[number], bits.view(np.uint8).reshape(-1))
        read(row, self._scales[number], scale.view(np.uint8))
        dequantise_tokens(torch.from_numpy(bits), torch.from_numpy(scale), self.out[number])

    def settle(self, numbers: range) -> None:
        """Bring the rows that ``copy`` has read, neighbours, into ``out``."""
        if self._stored is self.out:
            return
        # torch's own threads, which would start for more at a time, are for the networks
        rows = max(1, (_ALONE - 1) // max(1, self.out[0].numel()))
        for low in range(numbers.start, numbers.stop, rows):
            high = min(low + rows, numbers.stop)
            self.out[low:high].copy_(self._stored[low:high])
