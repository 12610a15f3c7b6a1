"""The process of one part: ``python -m xmdpt_cli.bench.gpu_check.child JOB.json``.

It writes each row as a line of JSON at once, so that what is known is kept if it is killed; at
``Ready`` it makes the file ``ready`` and waits for the file ``go``.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from xmdpt_cli.bench.gpu_check.rows import FAILED, Ready, Row, Setting


def main(job_file: str) -> int:
    job: dict[str, Any] = json.loads(Path(job_file).read_text(encoding="utf-8"))
    given = job["setting"]
    goldens = None if given["goldens"] is None else Path(given["goldens"])
    setting = Setting(**{**given, "work": Path(given["work"]), "goldens": goldens})
    rows = Path(job["rows"])
    try:
        module, _, function = job["run"].partition(":")
        run = getattr(importlib.import_module(module), function)
        for found in run(setting, **job["given"]):
            if isinstance(found, Ready):
                _wait(Path(job["ready"]), Path(job["go"]))
            else:
                _append(rows, job["part"], found)
    except Exception as err:  # of any library: it is this part's result
        traceback.print_exc()
        first = str(err).strip().partition("\n")[0]
        note = f"{type(err).__name__}: {first}" if first else type(err).__name__
        _append(rows, job["part"], Row(job["part"], verdict=FAILED, note=note[:300]))
        return 1
    return 0


def _append(rows: Path, part: str, row: Row) -> None:
    line = json.dumps({"part": part, **dataclasses.asdict(row)}, allow_nan=False)
    with rows.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def _wait(ready: Path, go: Path) -> None:
    """Quietly, until it is this part's turn; ends with the process that started it."""
    parent = os.getppid()
    ready.touch()
    while not go.exists():
        if os.getppid() != parent:
            sys.exit(1)
        time.sleep(0.02)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
