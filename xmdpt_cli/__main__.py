"""The console entry, ``xmdpt`` and ``python -m xmdpt_cli``."""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """Run the command line; an interrupt while it is loaded is handled like one of a command."""
    try:
        from xmdpt_cli.cli import app

        code = app.main()
    except KeyboardInterrupt:
        os.write(2, b"error: interrupted\n")
        code = 130
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback from Python's shutdown
    sys.exit(code)


if __name__ == "__main__":
    main()
