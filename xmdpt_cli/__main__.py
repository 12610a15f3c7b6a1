"""The console entry, ``xmdpt`` and ``python -m xmdpt_cli``."""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """Run the command line. An interrupt while it is loaded is one of a command, too."""
    try:
        from xmdpt_cli.cli import app

        code = app.main()
    except KeyboardInterrupt:
        os.write(2, b"error: interrupted\n")
        code = 130
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # all is said: Python's end has no traceback
    sys.exit(code)


if __name__ == "__main__":
    main()
