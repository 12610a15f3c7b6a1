"""The process of one part: ``python -m xmdpt_cli.bench.gpu_check.child JOB``, a JSON object.

Each row is appended to a file as a line of JSON at once, so that a killed part keeps its rows. At
``Ready`` the line is ``null``, and the process waits for a line on stdin.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
import traceback
from pathlib import Path

from xmdpt_cli.bench.gpu_check.rows import FAILED, Ready, Row, Setting


def main(job_json: str) -> int:
    job = json.loads(job_json)
    part, setting = job["part"], job["setting"]
    for name in ("work", "goldens"):
        setting[name] = setting[name] and Path(setting[name])
    module, _, function = part["run"].partition(":")
    with Path(job["rows"]).open("a", encoding="utf-8") as file:

        def write(row: Row | None) -> None:
            values = row and dataclasses.asdict(row)
            file.write(json.dumps(values, allow_nan=False) + "\n")
            file.flush()

        try:
            run = getattr(importlib.import_module(module), function)
            for found in run(Setting(**setting), **part["arguments"]):
                if isinstance(found, Row):
                    write(found)
                    continue
                assert isinstance(found, Ready)
                write(None)
                if not sys.stdin.readline():
                    return 1  # the process that started this one has ended
        except Exception as err:  # of any library: it is this part's result
            traceback.print_exc()
            first = str(err).strip().partition("\n")[0]
            note = f"{type(err).__name__}: {first}" if first else type(err).__name__
            write(Row(part["name"], verdict=FAILED, note=note[:300]))
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
