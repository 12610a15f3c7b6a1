"""Runs the parts, each in its own process with a time limit: a part that hangs, or is ended by a
signal, loses its own rows and no others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import xmdpt_cli
from xmdpt_cli.bench.gpu_check.parts import Part
from xmdpt_cli.bench.gpu_check.rows import FAILED, NOT_RUN, Row, Setting

LEAST = 15.0  # seconds: with less time left no wave starts
_POLL = 0.05  # seconds
OnRow = Callable[[str, Row], None]  # called with the part's name


class Job:
    """The process of a part; ``child`` documents what they exchange."""

    def __init__(self, part: Part, setting: Setting, on_row: OnRow) -> None:
        folder = setting.work / "jobs" / part.name
        folder.mkdir(parents=True)
        self.part, self.on_row = part, on_row
        self.log, self.rows = folder / "log", folder / "rows"
        self.rows.touch()
        self.lines_read = 0
        self.waiting = False  # prepared, and not yet measured
        self.failed = False  # a reported row gives the reason
        job = {"part": asdict(part), "setting": asdict(setting), "rows": self.rows}
        command = [sys.executable, "-m", "xmdpt_cli.bench.gpu_check.child"]
        with self.log.open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [*command, json.dumps(job, default=str)],
                env=environment(folder / "cache"),
                stdin=subprocess.PIPE,
                bufsize=0,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that compilers it starts are killed with it
            )
        assert self.process.stdin is not None
        self.stdin = self.process.stdin
        self.start = time.monotonic()
        self.limit = self.start + part.prepare

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def go(self) -> None:
        """Let a job that waits continue, until its next time limit."""
        self.waiting, self.limit = False, time.monotonic() + self.part.measure
        with suppress(BrokenPipeError):  # it has just ended
            self.stdin.write(b"go\n")

    def kill(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.stdin.close()

    def report(self, row: Row) -> None:
        """Pass a row on, and remember whether one has failed."""
        self.failed = self.failed or row.verdict == FAILED
        self.on_row(self.part.name, row)

    def report_new_rows(self) -> None:
        """Report the rows since the last call. An incomplete line is left for the next call."""
        lines = self.rows.read_text(encoding="utf-8").split("\n")[:-1]
        new, self.lines_read = lines[self.lines_read :], len(lines)
        for values in map(json.loads, new):
            if values is None:
                self.waiting = True
            else:
                self.report(Row(**values))


def run(
    parts: Sequence[Part], setting: Setting, budget: float, on_row: OnRow, log_file: Path
) -> None:
    """Run all parts, wave after wave, within ``budget`` seconds.

    ``on_row`` is called with every row at once; the output of the parts is appended to
    ``log_file``.
    """
    end = time.monotonic() + budget
    for wave in sorted({part.wave for part in parts}):
        in_wave = [part for part in parts if part.wave == wave]
        if end - time.monotonic() < LEAST:
            note = f"the time for all parts ({budget:.0f} s) was used up"
            for part in in_wave:
                on_row(part.name, Row(part.name, verdict=NOT_RUN, note=note))
            continue
        jobs = [Job(part, setting, on_row) for part in in_wave]
        try:
            _wait(jobs, end)
            for job in jobs:
                _measure(job, end)
        finally:
            for job in jobs:
                job.kill()
                text = job.log.read_text(encoding="utf-8", errors="replace")
                with log_file.open("a", encoding="utf-8") as file:
                    file.write(f"==== {job.part.name}\n{text}\n")


def _measure(job: Job, end: float) -> None:
    if not job.ended:
        job.go()
    _wait([job], end)
    code = job.process.returncode
    if code and not job.failed:
        note = f"ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        job.report(Row(job.part.name, verdict=FAILED, note=note))


def _wait(jobs: Sequence[Job], end: float) -> None:
    """Until every job is prepared and waits, has ended, or was killed at its limit."""
    busy = list(jobs)
    while busy:
        for job in list(busy):
            ended = job.ended  # read before its rows, so that none is missed
            job.report_new_rows()
            if ended or job.waiting:
                busy.remove(job)
            elif time.monotonic() > min(job.limit, end):
                job.kill()
                job.report_new_rows()
                _report_killed(job, end)
                busy.remove(job)
        time.sleep(_POLL)


def _report_killed(job: Job, end: float) -> None:
    used_up = time.monotonic() > end
    reason = "the time for all parts was used up" if used_up else "it is still not done"
    note = f"killed after {time.monotonic() - job.start:.0f} s: {reason}"
    job.report(Row(job.part.name, verdict=NOT_RUN if used_up else FAILED, note=note))
    job.failed = True


def environment(cache: Path) -> dict[str, str]:
    """Environment of a part's process: this package, no network, few compiler threads.

    ``cache`` is the folder of compiled code: what a killed compiler leaves there half written must
    not be found by another part or by the user's next program, and first calls must compile.
    """
    package = str(Path(xmdpt_cli.__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    fixed = {
        "PYTHONPATH": path,
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(cache),
        "TRITON_CACHE_DIR": str(cache / "triton"),
    }
    return {"TORCHINDUCTOR_COMPILE_THREADS": "4", **os.environ, **fixed}
