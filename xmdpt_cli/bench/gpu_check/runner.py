"""Runs the parts, each in a process of its own that is ended at its time limit: what hangs, or
ends with a signal, loses its own rows and no others."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import xmdpt_cli
from xmdpt_cli.bench.gpu_check.parts import Part
from xmdpt_cli.bench.gpu_check.rows import FAILED, NOT_RUN, Row, Setting

LEAST = 15.0  # seconds: with less time left no wave starts
_POLL = 0.05
OnRow = Callable[[str, Row], None]


class Job:
    """A part's process. Its rows are lines of JSON in a file, where they are when it is killed."""

    def __init__(self, part: Part, setting: Setting, folder: Path) -> None:
        self.part, self.folder = part, folder
        folder.mkdir(parents=True)
        self.files = {name: folder / name for name in ("rows", "ready", "go", "log", "job")}
        self.read = 0  # rows that were reported
        self.failed = False  # one of them gives the reason
        job = {
            "part": part.name,
            "run": part.run,
            "given": part.given,
            "setting": _plain(setting),
            **{name: str(self.files[name]) for name in ("rows", "ready", "go")},
        }
        self.files["job"].write_text(json.dumps(job), encoding="utf-8")
        self.log = self.files["log"].open("w", encoding="utf-8")
        self.start = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "xmdpt_cli.bench.gpu_check.child", str(self.files["job"])],
            env=environment(folder / "cache"),
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # what it starts (compilers) is ended with it
        )

    @property
    def waiting(self) -> bool:
        """Whether it is prepared and waits for its turn."""
        return self.files["ready"].exists() and not self.files["go"].exists()

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def go(self) -> None:
        self.files["go"].touch()

    def kill(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()

    def rows(self) -> list[Row]:
        """The new rows since the last call. An incomplete line is left for the next call."""
        if not self.files["rows"].is_file():
            return []
        lines = self.files["rows"].read_text(encoding="utf-8").split("\n")[:-1]
        new, self.read = lines[self.read :], len(lines)
        found = []
        for line in new:
            values = json.loads(line)
            values.pop("part")
            found.append(Row(**values))
        return found


def run(
    parts: Sequence[Part], setting: Setting, budget: float, on_row: OnRow, logs: Path | None = None
) -> None:
    """Run all parts, wave after wave, within ``budget`` seconds.

    ``on_row`` is called with every row at once; the output of the parts is appended to ``logs``.
    """
    end = time.monotonic() + budget
    for wave in sorted({part.wave for part in parts}):
        own = [part for part in parts if part.wave == wave]
        if end - time.monotonic() < LEAST:
            note = f"the time for all parts ({budget:.0f} s) was used up"
            for part in own:
                on_row(part.name, Row(part.name, verdict=NOT_RUN, note=note))
            continue
        jobs = [Job(part, setting, setting.work / "jobs" / part.name) for part in own]
        try:
            _prepare(jobs, end, on_row)
            for job in jobs:
                _measure(job, end, on_row)
        finally:
            for job in jobs:
                job.kill()
                if logs is not None:
                    _append_log(job, logs)


def _prepare(jobs: Sequence[Job], end: float, on_row: OnRow) -> None:
    """Until every job is prepared, ended or killed at its limit."""
    busy = list(jobs)
    while busy:
        for job in list(busy):
            limit = min(job.start + job.part.prepare, end)
            if job.ended or job.waiting:
                busy.remove(job)
            elif time.monotonic() > limit:
                _give_up(job, end, on_row)
                busy.remove(job)
            else:
                _report_rows(job, on_row)
        time.sleep(_POLL)


def _measure(job: Job, end: float, on_row: OnRow) -> None:
    """Alone on the device. A job that has ended has written all its rows."""
    start = time.monotonic()
    if not job.ended:
        job.go()
    while not job.ended:
        _report_rows(job, on_row)
        if time.monotonic() > min(start + job.part.measure, end):
            _give_up(job, end, on_row)
        time.sleep(_POLL)
    _report_rows(job, on_row)
    code = job.process.returncode
    if code and not job.failed:
        note = f"ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        on_row(job.part.name, Row(job.part.name, verdict=FAILED, note=note))


def _give_up(job: Job, end: float, on_row: OnRow) -> None:
    _report_rows(job, on_row)
    job.kill()
    job.failed = True
    note = f"killed after {time.monotonic() - job.start:.0f} s: "
    if time.monotonic() > end:
        row = Row(job.part.name, verdict=NOT_RUN, note=note + "the time for all parts was used up")
    else:
        row = Row(job.part.name, verdict=FAILED, note=note + "it is still not done")
    on_row(job.part.name, row)


def _report_rows(job: Job, on_row: OnRow) -> None:
    for row in job.rows():
        job.failed = job.failed or row.verdict == FAILED
        on_row(job.part.name, row)


def _append_log(job: Job, logs: Path) -> None:
    text = job.files["log"].read_text(encoding="utf-8", errors="replace")
    with logs.open("a", encoding="utf-8") as file:
        file.write(f"==== {job.part.name}\n{text}\n")


def _plain(setting: Setting) -> dict[str, Any]:
    given = dataclasses.asdict(setting)
    return {name: str(v) if isinstance(v, Path) else v for name, v in given.items()}


def environment(cache: Path) -> dict[str, str]:
    """Environment of a part's process: this package, no network, a few compiler threads.

    ``cache`` is where it compiles: what a killed compiler leaves half written there must not be
    found by another part, nor by the user's next program; and first calls are first ones.
    """
    home = str(Path(xmdpt_cli.__file__).resolve().parents[1])
    path = os.pathsep.join([home, *filter(None, [os.environ.get("PYTHONPATH", "")])])
    own = {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    own |= {"TORCHINDUCTOR_CACHE_DIR": str(cache), "TRITON_CACHE_DIR": str(cache / "triton")}
    own["PYTHONUNBUFFERED"] = "1"
    return {"TORCHINDUCTOR_COMPILE_THREADS": "4", **os.environ, **own}
