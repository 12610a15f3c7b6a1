"""Several commands in one process group: ``torchrun command_ranks.py FOLDER``.

FOLDER/commands.json holds a list of argument lists. Each rank runs them in order and writes its
exit codes to FOLDER/codes-RANK.json after each command; it exits with the code of the last one.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from xmdpt_cli.cli.app import main

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    codes: list[int] = []
    for arguments in json.loads((folder / "commands.json").read_text()):
        sys.argv[1:] = arguments
        codes.append(main())
        (folder / f"codes-{os.environ['RANK']}.json").write_text(json.dumps(codes))
    sys.exit(codes[-1])
