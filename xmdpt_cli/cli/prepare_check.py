"""``xmdpt prepare --check``: verifies a prepared dataset; ``--repair`` repairs it."""

from __future__ import annotations

from typing import Any

from xmdpt_cli.cli.console import Talk
from xmdpt_cli.data.manifest import repair_command
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import human_bytes
from xmdpt_cli.utils.counts import counted

_SHOWN = 20  # lines printed; --json has all


def check(talk: Talk, place: str, repair: bool, *, final: bool) -> list[str] | None:
    """Verify a dataset and ``repair`` it. Returns the shards that must be prepared again.

    None: no shard; an empty list: the dataset is not finished. ``final``: the command does nothing
    else, so damage that remains raises XmdptError.
    """
    from xmdpt_cli.prepare.repair import repair_dataset
    from xmdpt_cli.prepare.verify import check_dataset
    from xmdpt_cli.storage.stores import open_store

    store = open_store(place)
    with talk.progress() as progress:
        report = check_dataset(store, progress=progress)
    found = report.lines()
    for line in found[:_SHOWN]:
        talk.say(line)
    if len(found) > _SHOWN:
        talk.say(f"... and {len(found) - _SHOWN} lines more (--json has all)")
    data: dict[str, Any] = report.to_dict()
    ok, again = report.ok, False
    remake: list[str] = []
    lines = [
        f"checked {place}: {counted(report.shards, 'shard')}, "
        f"{counted(report.views, 'image')}, {counted(report.pairs, 'pair')}, "
        f"{human_bytes(report.bytes)}: {'valid' if report.ok else 'not valid'}"
    ]
    if repair and report.findings:
        repaired = repair_dataset(store, report)
        data["repair"] = repaired.to_dict()
        remake = repaired.remake
        again = bool(remake) or repaired.unfinished
        ok = not again and all(finding.harmless for finding in repaired.remaining)
        lines += [f"rebuilt: {name}" for name in repaired.rebuilt]
        lines += [f"removed: {name}" for name in repaired.removed]
        lines += [f"to prepare again: {name}" for name in repaired.remake]
    if again and not final:
        for line in lines:
            talk.say(line)
        return remake
    talk.result(data, text="\n".join(lines))
    if again:
        raise XmdptError(
            f"{place} is not complete: damaged or missing shards must be prepared again",
            repair_command(place),
        )
    if not ok:
        hint = "it cannot be repaired: prepare it again" if repair else repair_command(place)
        raise XmdptError(f"{place} is not a valid dataset", hint)
    return None
