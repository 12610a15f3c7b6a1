"""How commands talk: data on stdout, everything else on stderr.

On a terminal long work is a bar with the time left; off it (a log, CI) a plain status line now and
then. With ``--json`` stdout holds exactly one object. NO_COLOR is respected (by Rich).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from xmdpt_cli.progress import Progress

if TYPE_CHECKING:  # Rich is loaded when something is said: --help does without
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID
    from rich.table import Table

STATUS_EVERY = 10.0  # seconds between status lines off a terminal


class Talk:
    """One command's voice. ``as_json``: the result is one JSON object instead of tables."""

    def __init__(self, as_json: bool = False) -> None:
        from rich.console import Console

        self.as_json = as_json
        self.err = Console(stderr=True, highlight=False, soft_wrap=True)
        # off a terminal Rich would fold tables at 80 columns: a log has no width
        width = None if sys.stdout.isatty() else 200
        self.out = Console(highlight=False, width=width)

    def say(self, text: str) -> None:
        self.err.print(_escape(text))

    def warn(self, text: str) -> None:
        self.err.print(f"[yellow]warning:[/yellow] {_escape(text)}")

    def result(self, data: dict[str, Any], *tables: Table, text: str = "") -> None:
        """The command's result: one JSON object, or tables and text."""
        if self.as_json:
            print(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False))
            return
        for table in tables:
            self.out.print(table)
        if text:
            self.out.print(_escape(text), soft_wrap=True)

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """A ``Progress`` for library calls: one bar a stage."""
        if self.err.is_terminal:
            with _bars(self.err) as rich_progress:
                yield _Bars(rich_progress)
        else:
            yield _Lines(self)


def error(message: str, hint: str = "") -> None:
    """``error: what happened`` and ``hint: what to do`` on stderr."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"[bold red]error:[/bold red] {_escape(message)}")
    if hint:
        console.print(f"[bold cyan]hint:[/bold cyan] {_escape(hint)}")


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A plain table; the first column is left-aligned, the others hold numbers."""
    from rich.table import Table

    out = Table(title=title or None, title_justify="left", title_style="bold")
    for i, name in enumerate(header):
        out.add_column(_escape(name), justify="left" if i == 0 else "right", no_wrap=i > 0)
    for row in rows:
        out.add_row(*(_escape(cell) for cell in row))
    return out


def duration(seconds: float) -> str:
    """``75`` -> ``1m15s``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def _bars(console: Console) -> RichProgress:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description:<24}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[info]}"),
        console=console,
    )


def _info(info: dict[str, Any]) -> str:
    parts = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in info.items())
    return "  ".join(parts)


class _Bars:
    def __init__(self, progress: RichProgress) -> None:
        self.progress = progress
        self.tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: int, total: int, /, **info: Any) -> None:
        if stage not in self.tasks:
            self.tasks[stage] = self.progress.add_task(stage, total=total, completed=done, info="")
        self.progress.update(self.tasks[stage], completed=done, total=total)
        if info:
            self.progress.update(self.tasks[stage], info=_info(info))


class _Lines:
    """Status lines: the first call of a stage, the last, and one every STATUS_EVERY seconds."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.began: dict[str, tuple[float, int]] = {}
        self.ended: set[str] = set()
        self.last = 0.0

    def __call__(self, stage: str, done: int, total: int, /, **info: Any) -> None:
        now = time.monotonic()
        began, at = self.began.setdefault(stage, (now, done))
        if stage in self.ended or (done < total and now - self.last < STATUS_EVERY):
            return
        if done >= total:
            self.ended.add(stage)
        self.last = now
        line = f"{stage}: {done}/{total}"
        if done > at and now > began:
            rate = (done - at) / (now - began)
            line += f", {rate:.3g}/s"
            line += f", {duration((total - done) / rate)} left" if done < total else ""
        self.talk.say(line + (f", {_info(info)}" if info else ""))


def _escape(text: str) -> str:
    """Square brackets in a user's text are no Rich markup."""
    from rich.markup import escape

    return escape(text)
