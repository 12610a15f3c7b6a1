"""Errors that are reported to the user with a message and a hint."""

from __future__ import annotations

import re

from xmdpt_cli.utils.redact import masked


class XmdptError(Exception):
    """An error that the user can act on.

    ``message``: what happened; ``hint``: what to do next (a command or a setting). The command line
    prints both and exits with ``exit_code``: 1 for a known failure, 2 for wrong usage or
    configuration. Passwords in URLs are masked.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        message, hint = masked(message), masked(hint)
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(XmdptError):
    """Wrong usage or configuration (exit code 2)."""

    exit_code = 2


class SharedError(XmdptError):
    """An error of all processes, raised on a rank that must not print it: rank 0 prints it."""

    def __init__(self, err: XmdptError) -> None:
        super().__init__(err.message, err.hint)
        self.exit_code = err.exit_code


_NO_MEMORY = re.compile(
    "out of memory|can't allocate memory|not enough memory|ALLOC_FAILED|Cannot allocate memory",
    re.IGNORECASE,
)


def is_out_of_memory(err: BaseException) -> bool:
    """Whether an error means that the memory of a GPU or of this machine is exhausted."""
    # by name, since this module does not import torch
    if isinstance(err, MemoryError) or type(err).__name__ == "OutOfMemoryError":
        return True
    return isinstance(err, RuntimeError) and bool(_NO_MEMORY.search(str(err)))
