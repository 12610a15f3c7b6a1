"""Several commands in one process group, so that it is joined once."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from xmdpt_cli.cli.app import main


def run_commands(folder: Path, commands: list[list[str]]) -> None:
    """Run argument lists in order; end the process with the code of the last one.

    The exit codes are written to ``folder``/codes-RANK.json after each command.
    """
    codes: list[int] = []
    for arguments in commands:
        sys.argv[1:] = arguments
        codes.append(main())
        (folder / f"codes-{os.environ['RANK']}.json").write_text(json.dumps(codes))
    sys.exit(codes[-1])
