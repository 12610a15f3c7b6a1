"""Hashes of the files of a folder, to compare folders."""

from __future__ import annotations

import hashlib
from pathlib import Path


def hashes(folder: Path, *but: str) -> dict[str, str]:
    """SHA-256 of every file in ``folder``, by name, ``but`` these; a folder left in is an error."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.name not in but
    }
