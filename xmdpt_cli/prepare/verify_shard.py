"""Verify one shard of a prepared dataset: its file, its index, its content."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.data.index import SamplePlace, ShardIndex, index_name, read_index
from xmdpt_cli.data.manifest import MANIFEST, RUN_AGAIN
from xmdpt_cli.prepare.findings import Finding
from xmdpt_cli.prepare.verify_sample import Member, check_item
from xmdpt_cli.storage.stores import Store
from xmdpt_cli.utils.counts import counted

REMAKE = "--repair --root ROOT makes the shard again from the images it was prepared from"
REBUILD = "--repair rebuilds the index from the shard"
AS_PREPARED = "the shard is as it was prepared: prepare again into a new folder"


CHUNK = 8 * 2**20  # bytes a read: few requests to a remote store


class BrokenTarError(Exception):
    """The rest of the tar cannot be read; the message states where and why."""


class TarWalk:
    """Reads a shard once, from its first to its last byte: iterate over members, then ``finish``.

    Holds one chunk and one member in memory. OSErrors of the store are not caught.
    """

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name = store, name
        self.bytes = store.size(name) or 0
        self.offset = 0  # of the next byte
        self._buffer = b""
        self._at = 0  # position in the buffer
        self._read = 0  # bytes read from the store
        self._hash = hashlib.sha256()

    def __iter__(self) -> Iterator[Member]:
        """Raises BrokenTarError for anything that ``ShardWriter`` does not write."""
        while True:
            begin = self.offset
            header = self._take(tarfile.BLOCKSIZE)
            if len(header) < tarfile.BLOCKSIZE:
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
            self._take(-info.size % tarfile.BLOCKSIZE)
            if len(data) < info.size:
                raise BrokenTarError(f"{info.name!r} at byte {begin} is cut short")
            yield Member(info.name, place, data)

    def finish(self) -> str:
        """Read the rest, also after an error; returns the SHA-256 of the file."""
        while self._fill(1):
            self._at = len(self._buffer)
        return self._hash.hexdigest()

    def _expect_end(self) -> None:
        """BrokenTarError unless two zero blocks follow, and zeros up to the end."""
        begin, zeros = self.offset, 0
        while rest := self._take(CHUNK):
            zeros += len(rest)
            if rest.count(0) != len(rest):
                raise BrokenTarError(f"more data after the end mark at byte {begin}")
        if zeros < tarfile.BLOCKSIZE:
            raise BrokenTarError(f"ends at byte {self.bytes} with half an end mark")

    def _take(self, count: int) -> bytes:
        """The next ``count`` bytes; fewer at the end."""
        self._fill(count)
        data = self._buffer[self._at : self._at + count]
        self._at += len(data)
        self.offset += len(data)
        return data

    def _fill(self, count: int) -> bool:
        """Buffer at least ``count`` bytes, or all that are left; False if none are left."""
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


@dataclass
class ShardContent:
    """What a shard holds according to its bytes alone."""

    sha256: str = ""
    broken: str = ""  # why it could not be read to its end
    samples: list[SamplePlace] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)  # without hint and shard
    complete: bool = True  # whether ``samples`` are all there are
    keypoints: list[NDArray[np.float64]] = field(default_factory=list)  # of all views, in pixels


def walk_shard(
    store: Store,
    name: str,
    resolution: int | None,
    seen: Callable[[int], None] = lambda views: None,
) -> ShardContent:
    """Read a shard once, an item at a time; ``seen`` is called with each item's number of views.

    ``resolution``: side of the images in pixels, None if not known. Raises OSError if the store
    fails, whatever the state of the shard.
    """
    walked = ShardContent()
    walk = TarWalk(store, name)
    try:
        for key, members in groupby(walk, key=lambda member: member.name.split(".")[0]):
            item = check_item(key, members, resolution)
            walked.findings += item.findings
            walked.keypoints += item.keypoints
            if item.place is None:
                walked.complete = False
            else:
                walked.samples.append(item.place)
                seen(len(item.place.views))
    except BrokenTarError as err:
        walked.broken, walked.complete = str(err), False
    walked.sha256 = walk.finish()
    return walked


class ShardCheck:
    """Verifies one shard and passes every finding to ``report``."""

    def __init__(
        self,
        store: Store,
        name: str,
        entry: dict[str, Any] | None,  # the manifest's, if there is one
        report: Callable[[Finding], None],
    ) -> None:
        self.store, self.name, self.entry, self.report = store, name, entry, report
        self.keypoints: list[NDArray[np.float64]] = []  # of all views, in pixels; from ``samples``

    def samples(
        self, deep: bool, resolution: int | None, seen: Callable[[int], None]
    ) -> list[SamplePlace] | None:
        """The items of the shard, from its bytes or its index; None if they are not known."""
        size = self.store.size(self.name)
        if size is None:
            self._find("shard-missing", "the shard does not exist", REMAKE)
            return None
        if self.entry is not None and size != int(self.entry["bytes"]):
            self._find("shard-size", f"{size} bytes, {self.entry['bytes']} in {MANIFEST}", REMAKE)
            return None
        index = self._index()
        if not deep:
            return index.samples if index else None
        try:
            walked = walk_shard(self.store, self.name, resolution, seen)
        except OSError as err:
            hint = "check the disk or the network, then check again"
            self._find("shard-unreadable", f"cannot be read: {err}", hint)
            return None
        self.keypoints = walked.keypoints
        return self._content(walked, index)

    def _index(self) -> ShardIndex | None:
        index = read_index(self.store, self.name)
        name = index_name(self.name)
        if index is None:
            hint = RUN_AGAIN if self.entry is None else REBUILD
            if self.store.size(name) is None:
                self._find("index-missing", f"{name} does not exist", hint)
            else:
                self._find("index-broken", f"{name} is damaged", hint)
        elif self.entry is not None:
            skipped = [list(entry) for entry in index.skipped]
            indexed = {"name": index.name, "split": index.split, "sha256": index.sha256}
            for key, value in {**indexed, "skipped": skipped}.items():
                if value != self.entry.get(key, value):
                    message = f"its index and {MANIFEST} do not agree on {key}"
                    self._find("index-differs", message, REBUILD)
        return index

    def _content(self, walked: ShardContent, index: ShardIndex | None) -> list[SamplePlace] | None:
        wanted = self.entry["sha256"] if self.entry else index.sha256 if index else walked.sha256
        intact = walked.sha256 == wanted
        hint = AS_PREPARED if intact else REMAKE
        if not intact:
            self._find("shard-sha256", "its content has changed", hint)
        if walked.broken:
            self._find("shard-broken", walked.broken, hint)
        for finding in walked.findings:
            self.report(replace(finding, hint=hint, shard=self.name))
        if not intact or not walked.complete:
            return None
        if index is not None:
            self._index_against_tar(index, walked.samples)
        if self.entry is not None and len(walked.samples) != int(self.entry["samples"]):
            message = (
                f"{counted(len(walked.samples), 'item')}, {self.entry['samples']} in {MANIFEST}"
            )
            self._find("shard-samples", message, AS_PREPARED)
        return walked.samples

    def _index_against_tar(self, index: ShardIndex, walked: list[SamplePlace]) -> None:
        """Report the items of which the index and the shard differ."""
        in_shard = {sample.key: sample for sample in walked}
        indexed = {sample.key: sample for sample in index.samples}
        for key in dict.fromkeys([*indexed, *in_shard]):
            if key not in in_shard:
                self._find("index-differs", "is in the index only", REBUILD, key)
            elif key not in indexed:
                self._find("index-differs", "is not in the index", REBUILD, key)
            elif indexed[key] != in_shard[key]:
                message = "has another place, other views or other pairs than in its index"
                self._find("index-differs", message, REBUILD, key)

    def _find(self, kind: str, message: str, hint: str, item: str = "", view: str = "") -> None:
        self.report(Finding(kind, message, hint, self.name, item, view))
