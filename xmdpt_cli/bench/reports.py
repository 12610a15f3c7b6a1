"""What every report of ``xmdpt bench`` has, whatever was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

FORMAT = "xmdpt-bench"
VERSION = 1


def report(
    kind: str,
    settings: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    *,
    machine: Mapping[str, Any],
    peak: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """For JSON. ``machine``: as it was before the measurement; ``peak``: what it can do at best,
    where that was measured too."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "kind": kind,
        "machine": dict(machine),
        "settings": dict(settings),
        "peak": dict(peak or {}),
        "rows": list(rows),
    }
