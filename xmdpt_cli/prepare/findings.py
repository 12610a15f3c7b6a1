"""The findings of a check, as text and as JSON."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

# Findings kept per shard and kind; a shard that is damaged throughout would have 100,000.
KEPT = 20

HARMLESS = {"stray-part", "stray-file", "stray-shard", "settings-missing", "settings-broken"}


@dataclass(frozen=True)
class Finding:
    """One defect: what is wrong, where, and how to fix it."""

    kind: str  # for programs: shard-missing, not-finite, ...
    message: str
    hint: str = ""
    shard: str = ""  # the file it concerns; empty: the dataset
    item: str = ""
    view: str = ""

    @property
    def harmless(self) -> bool:
        """Whether it does not affect training on the dataset."""
        return self.kind in HARMLESS

    def where(self) -> str:
        """``train-000000.tar, WOMEN-Dresses-id_00000002-02/1_front``; empty: the dataset."""
        inside = "/".join(part for part in (self.item, self.view) if part)
        return ", ".join(part for part in (self.shard, inside) if part)

    def line(self) -> str:
        """Place and message in one line."""
        where = self.where()
        return f"{where}: {self.message}" if where else self.message


@dataclass
class CheckReport:
    """All findings in the order of the shards, and how much was checked."""

    place: str
    deep: bool  # whether the shards' content was read
    findings: list[Finding] = field(default_factory=list)
    shards: int = 0  # expected
    items: int = 0  # seen in usable shards, as the next three
    views: int = 0
    pairs: int = 0
    bytes: int = 0
    _counts: Counter[tuple[str, str]] = field(default_factory=Counter, repr=False)

    def add(self, finding: Finding) -> None:
        """Keep a finding, or only count it where there are many of its kind in its shard."""
        self._counts[finding.shard, finding.kind] += 1
        if self._counts[finding.shard, finding.kind] <= KEPT:
            self.findings.append(finding)

    @property
    def ok(self) -> bool:
        """Whether there are only harmless findings."""
        return all(finding.harmless for finding in self.findings)

    @property
    def not_listed(self) -> dict[tuple[str, str], int]:
        """(shard, kind) -> how many more of that kind there are than ``findings`` holds."""
        return {where: count - KEPT for where, count in self._counts.items() if count > KEPT}

    def lines(self) -> list[str]:
        """The findings as text; a hint that several findings share is given once, after them."""
        lines, hint = [], ""
        for finding in self.findings:
            if hint and finding.hint != hint:
                lines.append(f"  -> {hint}")
            lines.append(finding.line())
            hint = finding.hint
        if hint:
            lines.append(f"  -> {hint}")
        for (shard, kind), more in self.not_listed.items():
            lines.append(f"{shard or self.place}: {more} more of the kind {kind}")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "place": self.place,
            "ok": self.ok,
            "deep": self.deep,
            "shards": self.shards,
            "items": self.items,
            "views": self.views,
            "pairs": self.pairs,
            "bytes": self.bytes,
            "findings": [{**asdict(f), "harmless": f.harmless} for f in self.findings],
            "not_listed": [
                {"shard": shard, "kind": kind, "count": count}
                for (shard, kind), count in self.not_listed.items()
            ],
        }
