"""Read a shard once from its first byte to its last: members, and the sha256 of all."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

from xmdpt_cli.storage.stores import Store

BLOCK = 512  # tar headers and data begin at multiples of this (POSIX ustar)
CHUNK = 8 * 2**20  # bytes a read: few requests where the store is far away


class BrokenTarError(Exception):
    """The tar cannot be read on; the message says where and why."""


@dataclass(frozen=True)
class Member:
    """One file of a tar; ``offset`` is where its content begins."""

    name: str
    offset: int
    data: bytes

    @property
    def place(self) -> tuple[int, int]:
        return self.offset, len(self.data)


class TarWalk:
    """Iterate for the members; afterwards, also after an error, ``finish`` gives the sha256.

    Holds one chunk and one member. OSErrors of the store come through.
    """

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name = store, name
        self.bytes = store.size(name) or 0
        self.offset = 0  # of the next byte to be taken
        self._buffer = b""
        self._at = 0  # in the buffer
        self._read = 0  # bytes read from the store
        self._hash = hashlib.sha256()

    def __iter__(self) -> Iterator[Member]:
        """Raises BrokenTarError for anything that a shard of ours does not hold."""
        while True:
            begin = self.offset
            header = self._take(BLOCK)
            if len(header) < BLOCK:
                raise BrokenTarError(f"ends at byte {self.bytes} without an end mark")
            if not any(header):
                self._expect_end()
                return
            try:
                info = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
            except (tarfile.HeaderError, UnicodeDecodeError) as err:
                raise BrokenTarError(f"no tar header at byte {begin} ({err})") from None
            if not info.isreg():
                raise BrokenTarError(f"{info.name!r} at byte {begin} is no plain file")
            if info.size < 0 or self.offset + info.size > self.bytes:
                raise BrokenTarError(f"{info.name!r} at byte {begin} runs past the end")
            place = self.offset
            data = self._take(info.size)
            self._take(-info.size % BLOCK)
            if len(data) < info.size:
                raise BrokenTarError(f"{info.name!r} at byte {begin} is cut short")
            yield Member(info.name, place, data)

    def finish(self) -> str:
        """Read what is left: the whole file's sha256."""
        while self._fill(1):
            self._at = len(self._buffer)
        return self._hash.hexdigest()

    def _expect_end(self) -> None:
        """Two zero blocks, and zeros up to the end."""
        begin, zeros = self.offset, 0
        while rest := self._take(CHUNK):
            zeros += len(rest)
            if rest.count(0) != len(rest):
                raise BrokenTarError(f"more data after the end mark at byte {begin}")
        if zeros < BLOCK:
            raise BrokenTarError(f"ends at byte {self.bytes} with half an end mark")

    def _take(self, count: int) -> bytes:
        """The next ``count`` bytes; fewer at the end."""
        self._fill(count)
        data = self._buffer[self._at : self._at + count]
        self._at += len(data)
        self.offset += len(data)
        return data

    def _fill(self, count: int) -> bool:
        """Have ``count`` bytes in the buffer, or what is left; whether there is any."""
        missing = count - (len(self._buffer) - self._at)
        if missing > 0:
            pieces = [self._buffer[self._at :]]
            while missing > 0:
                piece = self.store.read_range(self.name, self._read, max(missing, CHUNK))
                if not piece:
                    break
                self._hash.update(piece)
                self._read += len(piece)
                missing -= len(piece)
                pieces.append(piece)
            self._buffer, self._at = b"".join(pieces), 0
        return self._at < len(self._buffer)
