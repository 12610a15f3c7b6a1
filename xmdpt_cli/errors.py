"""The exceptions a user is meant to see."""

from __future__ import annotations


class XmdptError(Exception):
    """Something a user can act on.

    ``message`` says what happened, ``hint`` what to do next (a command or a setting).
    The command line prints both and exits with ``exit_code``: 1 for a known failure,
    2 for wrong usage or configuration.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(XmdptError):
    """Wrong usage or configuration (exit code 2)."""

    exit_code = 2


class SharedError(XmdptError):
    """An error of all processes of a team, on one that need not say it: the first one does."""

    def __init__(self, err: XmdptError) -> None:
        super().__init__(err.message, err.hint)
        self.exit_code = err.exit_code
