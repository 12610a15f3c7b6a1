"""What only shows when all shards are seen together."""

from __future__ import annotations

from typing import Any

from xmdpt_cli.data.index import SamplePlace, ViewPlace
from xmdpt_cli.prepare.findings import CheckReport, Finding
from xmdpt_cli.prepare.verify_sample import ItemCheck, check_pairs
from xmdpt_cli.utils.splits import SPLITS

TWICE = "the shards are of two preparations: copy the dataset again, or prepare into a new folder"
COUNTS = "dataset.json is of another preparation: copy the dataset again"

# float32 stands in where float16 does not hold a view's moments: the encoders write either.
_SAME = {"F16": "F16 or F32", "F32": "F16 or F32"}

Signature = dict[str, tuple[str, tuple[int, ...]]]  # tensor -> its dtype and shape


class AcrossShards:
    """Remembers of every item its key, and of every pair its position."""

    def __init__(self, report: CheckReport) -> None:
        self.report = report
        self.keys: dict[str, str] = {}  # item -> its shard
        self.positions: dict[str, set[int]] = {}  # by split
        self.counts = {split: dict.fromkeys(("items", "images", "pairs"), 0) for split in SPLITS}
        self.like: tuple[str, Signature] | None = None  # the first view, and its tensors

    def add(self, shard: str, split: str, sample: SamplePlace) -> None:
        """One item of a shard whose content is known."""
        if sample.key in self.keys:
            self._find("item-twice", f"is in {self.keys[sample.key]} too", shard, sample.key)
        self.keys[sample.key] = shard
        positions = self.positions.setdefault(split, set())
        for source, target, position in sample.pairs:
            if position in positions:
                message = f"pair {source} > {target}: another {split} pair has position {position}"
                self._find("position-twice", message, shard, sample.key)
            positions.add(position)
        for view, place in sample.views.items():
            self._compare(shard, sample.key, view, place)
        count = self.counts.setdefault(split, dict.fromkeys(("items", "images", "pairs"), 0))
        for name, more in (("items", 1), ("images", len(sample.views)),
                           ("pairs", len(sample.pairs))):  # fmt: skip
            count[name] += more
        self.report.items += 1
        self.report.views += len(sample.views)
        self.report.pairs += len(sample.pairs)

    def add_pairs(self, shard: str, sample: SamplePlace) -> None:
        """Check the pairs of an item known from its index alone."""
        found = ItemCheck(sample.key)
        check_pairs(sample.pairs, sample.views, found)
        for trouble in found.troubles:
            self._find(trouble.kind, trouble.message, shard, sample.key, trouble.view)

    def compare_counts(self, wanted: dict[str, Any]) -> None:
        """The manifest's counts, once every shard was seen."""
        for split, counts in self.counts.items():
            for name, count in counts.items():
                there = wanted.get(split, {}).get(name, 0)
                if count != there:
                    message = f"{split}: {count} {name}, {there} in dataset.json"
                    self.report.add(Finding("counts", message, COUNTS))

    def _compare(self, shard: str, key: str, view: str, place: ViewPlace) -> None:
        """All views of a dataset hold the same tensors."""
        signature: Signature = {
            name: (_SAME.get(tensor.dtype, tensor.dtype), tensor.shape)
            for name, tensor in place.tensors.items()
        }
        if self.like is None:
            self.like = (f"{key}/{view}", signature)
        first, wanted = self.like
        for name in sorted(signature.keys() | wanted.keys()):
            if signature.get(name) != wanted.get(name):
                message = (
                    f"{name} is {_words(signature.get(name))}, "
                    f"{_words(wanted.get(name))} in {first}"
                )
                self._find("tensors-differ", message, shard, key, view)

    def _find(self, kind: str, message: str, shard: str, key: str, view: str = "") -> None:
        self.report.add(Finding(kind, message, TWICE, shard, key, view))


def _words(entry: tuple[str, tuple[int, ...]] | None) -> str:
    return f"{entry[0]} {entry[1]}" if entry else "absent"
