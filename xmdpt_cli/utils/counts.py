"""Numbers of things, for messages."""

from __future__ import annotations


def counted(number: int, noun: str, several: str | None = None) -> str:
    """ "1 step", "20,000 steps". ``several``: the plural, if it is not ``noun`` with an s."""
    return f"{number:,} {noun if number == 1 else several or f'{noun}s'}"
