"""Repair what a check found, as far as possible without the raw images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from xmdpt_cli.data.index import ShardIndex, index_name, read_index, write_index
from xmdpt_cli.data.manifest import MANIFEST
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import only_process
from xmdpt_cli.prepare.findings import CheckReport, Finding
from xmdpt_cli.prepare.verify import read_settings, try_manifest
from xmdpt_cli.prepare.verify_shard import ShardContent, walk_shard
from xmdpt_cli.storage.stores import Store

INDEX_KINDS = {"index-missing", "index-broken", "index-differs"}
SHARD_KINDS = {"shard-missing", "shard-size", "shard-sha256"}


@dataclass
class Repair:
    """What was repaired, and what remains."""

    rebuilt: list[str] = field(default_factory=list)  # index files written
    removed: list[str] = field(default_factory=list)  # unfinished files
    remake: list[str] = field(default_factory=list)  # shards that prepare must make again
    remaining: list[Finding] = field(default_factory=list)
    unfinished: bool = False  # no dataset.json: prepare has to be run again

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def repair_dataset(store: Store, report: CheckReport) -> Repair:
    """Rebuild indexes, remove unfinished files, and list the shards that must be made again.

    Shards are not changed here: ``prepare_datasets`` replaces those of ``remake`` once the new ones
    are complete. Without a readable prepare.json they cannot be made again, and are listed in
    ``remaining``.

    Raises XmdptError if another process works in the folder, OSError if the store fails.
    """
    with _alone(store):
        repair = Repair()
        manifest = try_manifest(store)
        shards = _ShardRepair(
            store, None if isinstance(manifest, XmdptError) else manifest, repair,
            may_remake=read_settings(store) is not None,
        )  # fmt: skip
        for finding in report.findings:
            if finding.kind == "stray-part":
                shards.remove_part(finding.shard)
        kinds = INDEX_KINDS | SHARD_KINDS
        for shard in dict.fromkeys(f.shard for f in report.findings if f.kind in kinds):
            shards.repair_shard(shard)
        rebuilt = set(repair.rebuilt)
        for finding in report.findings:
            repaired = (
                finding.shard in repair.remake
                or (finding.kind == "stray-part" and finding.shard in repair.removed)
                or (finding.kind in INDEX_KINDS and index_name(finding.shard) in rebuilt)
            )
            if not repaired:
                repair.remaining.append(finding)
        repair.unfinished = store.size(MANIFEST) is None or shards.manifest is None
        return repair


@contextmanager
def _alone(store: Store) -> Iterator[None]:
    """Hold a local folder; behind a URL there are no locks."""
    if store.folder is None:
        yield
    else:
        with only_process(store.folder):
            yield


class _ShardRepair:
    """Repairs shards of one dataset and records in ``repair`` what was done."""

    def __init__(
        self, store: Store, manifest: dict[str, Any] | None, repair: Repair, may_remake: bool
    ) -> None:
        self.store, self.manifest, self.repair = store, manifest, repair
        self.may_remake = may_remake
        entries = manifest["shards"] if manifest else []
        self.entries: dict[str, dict[str, Any]] = {str(e["name"]): e for e in entries}

    def remove_part(self, name: str) -> None:
        try:
            self.store.remove(name)
            self.repair.removed.append(name)
        except (OSError, XmdptError):  # a folder, or no permission: it stays in the report
            pass

    def repair_shard(self, shard: str) -> None:
        """Rebuild a shard's index if the shard is intact, else list it in ``remake``."""
        entry = self.entries.get(shard)
        index = read_index(self.store, shard)
        wanted = entry["sha256"] if entry else index.sha256 if index else None
        walked = None
        if self.store.size(shard) is not None and wanted is not None:
            try:
                walked = walk_shard(self.store, shard, None)
            except OSError:
                return  # the store failed: the shard may be intact
        if walked is None or walked.sha256 != wanted:
            self._remake(shard)
            return
        if entry is not None:
            rebuilt = self._rebuild(shard, entry, walked)
        else:
            rebuilt = replace(index, samples=walked.samples) if index and walked.complete else None
        if rebuilt is None:
            self._remake(shard)
        elif rebuilt != index:
            write_index(self.store, rebuilt)
            self.repair.rebuilt.append(index_name(shard))

    def _rebuild(
        self, shard: str, entry: dict[str, Any], walked: ShardContent
    ) -> ShardIndex | None:
        """The index that was written with this shard; None if it cannot be determined."""
        assert self.manifest is not None
        skipped = entry.get("skipped")
        if skipped is None and not self.manifest["skipped"]:
            skipped = []
        if skipped is None or not walked.complete:
            return None
        return ShardIndex(
            shard,
            str(entry["split"]),
            int(entry["bytes"]),
            walked.sha256,
            walked.samples,
            [(file, reason) for file, reason in skipped],
        )

    def _remake(self, shard: str) -> None:
        if self.may_remake:
            self.repair.remake.append(shard)
