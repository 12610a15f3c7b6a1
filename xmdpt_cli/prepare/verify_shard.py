"""One shard of a prepared dataset: its file, its index, its content."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.data.index import SamplePlace, ShardIndex, index_name, read_index
from xmdpt_cli.data.manifest import MANIFEST, RUN_AGAIN
from xmdpt_cli.prepare.findings import Finding
from xmdpt_cli.prepare.tar_walk import BrokenTarError, TarWalk
from xmdpt_cli.prepare.verify_sample import Trouble, check_item
from xmdpt_cli.storage.stores import Store

REMAKE = "--repair --root ROOT makes the shard again from the images it was prepared from"
REBUILD = "--repair rebuilds the index from the shard"
AS_PREPARED = "the shard is as it was prepared: prepare again into a new folder"


@dataclass
class Walked:
    """What a shard's bytes say, without its index."""

    sha256: str = ""
    broken: str = ""  # why it could not be read to its end
    samples: list[SamplePlace] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)
    whole: bool = True  # whether ``samples`` are all there is
    keypoints: list[NDArray[np.float64]] = field(default_factory=list)  # of all views, in pixels

    @property
    def views(self) -> int:
        return sum(len(sample.views) for sample in self.samples)


def walk_shard(
    store: Store,
    name: str,
    resolution: int | None,
    seen: Callable[[int], None] = lambda views: None,
) -> Walked:
    """Read a shard once, an item at a time; ``seen`` is told how many views it has passed.

    ``resolution``: side of the images in pixels, None if not known. Raises OSError if the
    store fails, which says nothing about the shard.
    """
    walked = Walked()
    walk = TarWalk(store, name)
    try:
        for key, members in groupby(walk, key=lambda member: member.name.split(".")[0]):
            item = check_item(key, members, resolution)
            walked.troubles += item.troubles
            walked.keypoints += item.keypoints
            if item.place is None:
                walked.whole = False
            else:
                walked.samples.append(item.place)
                seen(len(item.place.views))
    except BrokenTarError as err:
        walked.broken, walked.whole = str(err), False
    walked.sha256 = walk.finish()
    return walked


class ShardCheck:
    """Checks one shard and hands every finding to ``report``."""

    def __init__(
        self,
        store: Store,
        name: str,
        entry: dict[str, Any] | None,  # the manifest's, if there is one
        report: Callable[[Finding], None],
    ) -> None:
        self.store, self.name, self.entry, self.report = store, name, entry, report
        self.keypoints: list[NDArray[np.float64]] = []  # of all views, in pixels, once read

    def samples(
        self, deep: bool, resolution: int | None, seen: Callable[[int], None]
    ) -> list[SamplePlace] | None:
        """The items of the shard, from its bytes or its index; None if they are not known."""
        size = self.store.size(self.name)
        if size is None:
            self._find("shard-missing", "the shard is not there", REMAKE)
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
                self._find("index-missing", f"{name} is not there", hint)
            else:
                self._find("index-broken", f"{name} is damaged", hint)
        elif self.entry is not None:
            facts: list[tuple[str, Any]] = [(f, getattr(index, f)) for f in ("name", "split")]
            facts.append(("sha256", index.sha256))
            if "skipped" in self.entry:
                facts.append(("skipped", [list(entry) for entry in index.skipped]))
            for fact, here in facts:
                if here != self.entry[fact]:
                    message = f"its index and {MANIFEST} do not agree on {fact}"
                    self._find("index-differs", message, REBUILD)
        return index

    def _content(self, walked: Walked, index: ShardIndex | None) -> list[SamplePlace] | None:
        wanted = self.entry["sha256"] if self.entry else index.sha256 if index else walked.sha256
        intact = walked.sha256 == wanted
        hint = AS_PREPARED if intact else REMAKE
        if not intact:
            self._find("shard-sha256", "its content has changed", hint)
        if walked.broken:
            self._find("shard-broken", walked.broken, hint)
        for trouble in walked.troubles:
            self._find(trouble.kind, trouble.message, hint, trouble.item, trouble.view)
        if not intact or not walked.whole:
            return None
        if index is not None:
            self._index_against_tar(index, walked.samples)
        if self.entry is not None and len(walked.samples) != int(self.entry["samples"]):
            message = f"{len(walked.samples)} items, {self.entry['samples']} in {MANIFEST}"
            self._find("shard-samples", message, AS_PREPARED)
        return walked.samples

    def _index_against_tar(self, index: ShardIndex, walked: list[SamplePlace]) -> None:
        """Name the items that the index describes otherwise than the shard holds them."""
        there = {sample.key: sample for sample in walked}
        here = {sample.key: sample for sample in index.samples}
        for key in dict.fromkeys([*here, *there]):
            if key not in there:
                self._find("index-differs", "is in the index only", REBUILD, key)
            elif key not in here:
                self._find("index-differs", "is not in the index", REBUILD, key)
            elif here[key] != there[key]:
                message = "lies elsewhere, or has other views or pairs, than its index says"
                self._find("index-differs", message, REBUILD, key)

    def _find(self, kind: str, message: str, hint: str, item: str = "", view: str = "") -> None:
        self.report(Finding(kind, message, hint, self.name, item, view))
