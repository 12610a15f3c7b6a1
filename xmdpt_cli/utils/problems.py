"""Problems in a dataset's files that are reported and skipped."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """Something of a dataset that cannot be used, or (``kept``) that is odd but used."""

    file: str  # the file, with ``:line`` where it is a line of a list
    reason: str
    kept: bool = False
