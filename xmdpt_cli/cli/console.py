"""Output of commands: data on stdout, messages and progress on stderr.

On a terminal, progress is a bar with the time left; elsewhere (a log, CI) an occasional line.
With ``--json`` stdout gets exactly one object. NO_COLOR is respected (by Rich).
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from xmdpt_cli.cli.progress_bars import Bars, Pace, values
from xmdpt_cli.cli.progress_bars import duration as duration
from xmdpt_cli.progress import Progress
from xmdpt_cli.report.tables import Table
from xmdpt_cli.utils import interrupts
from xmdpt_cli.utils.counts import counted
from xmdpt_cli.utils.devices import busy_load
from xmdpt_cli.utils.redact import masked_values, shown, visible_json
from xmdpt_cli.utils.streams import is_utf8

if TYPE_CHECKING:  # Rich is loaded when something is printed, to keep --help fast
    from rich.console import Console

WIDEST = 140  # columns: longer lines are hard to read
STATUS_EVERY = 10.0  # seconds between status lines off a terminal


class Talk:
    """Prints the messages and the result of a command.

    ``as_json``: the result is one JSON object instead of tables. ``quiet``: prints nothing, for all
    ranks of several processes but the first.
    """

    def __init__(self, as_json: bool = False, quiet: bool = False) -> None:
        from rich.console import Console

        self.as_json, self.quiet = as_json, quiet
        self.err = _console(stderr=True, quiet=quiet)
        self.out = Console(highlight=False, emoji=False)

    def say(self, text: str) -> None:
        self.err.print(_escape(text))

    def warn(self, text: str) -> None:
        self.err.print(f"[yellow]warning:[/yellow] {_escape(text)}")

    def hint(self, text: str) -> None:
        """What to do about the last warning."""
        self.err.print(f"[cyan]hint:[/cyan] {_escape(text)}")

    def result(self, data: dict[str, Any], *tables: Table, text: str = "") -> None:
        """The command's result: one JSON object, or tables and text."""
        if self.quiet:
            return
        if self.as_json:
            escaped = not is_utf8(sys.stdout)
            content = masked_values(data)
            text = json.dumps(content, indent=2, ensure_ascii=escaped, allow_nan=False)
            print(visible_json(text))
            return
        for table in map(_shown_table, tables):
            # a log or a pipe has no width: tables keep their own
            for part in table.fitted(self.out.width if sys.stdout.isatty() else None):
                _print_table(part)
        if text:
            self.out.print(_escape(text), soft_wrap=not self.out.is_terminal)

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """A ``Progress`` for library calls: one bar per stage."""
        if self.err.is_terminal:
            from rich.live import Live

            bars = Bars()
            with Live(bars, console=self.err, refresh_per_second=10):
                yield bars
        else:
            yield _Lines(self)


def warn_if_busy(talk: Talk) -> None:
    """Warn if other programs use all processors; call before the command's own work."""
    load = None if "OMP_NUM_THREADS" in os.environ else busy_load()
    if load is not None:
        count = os.cpu_count() or 1
        talk.warn(
            f"other programs keep this machine busy (load {load:.1f} on {counted(count, 'core')})"
        )
        talk.hint("set OMP_NUM_THREADS=1: on a busy machine this is 4 to 10 times faster")


def warning(message: str) -> None:
    """Print ``warning: message`` on stderr, before a command has its ``Talk``."""
    Talk().warn(message)


def error(message: str, hint: str = "") -> None:
    """Print ``error: message`` and ``hint: hint`` on stderr."""
    console = _console(stderr=True)
    console.print(f"[bold red]error:[/bold red] {_escape(message)}")
    if hint:
        console.print(f"[bold cyan]hint:[/bold cyan] {_escape(hint)}")


def _console(**settings: Any) -> Console:
    """A console that wraps lines between words on a terminal, and does not wrap elsewhere."""
    from rich.console import Console

    console = Console(highlight=False, emoji=False, **settings)
    console.soft_wrap = not console.is_terminal
    return console


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], keys: int = 1) -> Table:
    """A table for ``Talk.result``; the first ``keys`` columns identify a row."""
    return Table(title, list(header), [list(row) for row in rows], keys)


def _print_table(table: Table) -> None:
    """Print at full width: Rich would crop or fold tables wider than its console."""
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable()
    for i, name in enumerate(table.header):
        shown.add_column(Text(name), justify="left" if i < table.keys else "right", no_wrap=True)
    for row in table.rows:
        shown.add_row(*map(Text, row))
    if table.title:
        Console(highlight=False).print(Text(table.title, "bold"), soft_wrap=True)
    Console(highlight=False, width=table.width).print(shown, crop=False)


class _Lines:
    """Status lines: the first call of a stage, the last, and one every STATUS_EVERY seconds."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.paces: dict[str, Pace] = {}
        self.ended: set[str] = set()
        self.last = 0.0

    def __call__(self, stage: str, done: int, total: int, /, **info: Any) -> None:
        interrupts.check()
        now = time.monotonic()
        new = stage not in self.paces
        rate = self.paces.setdefault(stage, Pace(now, done)).rate(now, done)
        waiting = not new and done < total and now - self.last < STATUS_EVERY
        if stage in self.ended or waiting:
            return
        if done >= total:
            self.ended.add(stage)
        self.last = now
        parts = [f"{stage}: {done}/{total}"]
        if rate is not None:
            parts.append(f"{rate:.3g}/s")
            if done < total:
                parts.append(f"{duration((total - done) / rate)} left")
        self.talk.say(", ".join([*parts, *values(info)]))


def _escape(text: str) -> str:
    """Text that is safe to print; its square brackets are not Rich markup."""
    from rich.markup import escape

    return escape(shown(text))


def _shown_table(table: Table) -> Table:
    rows = [[shown(cell) for cell in row] for row in table.rows]
    return Table(shown(table.title), [shown(cell) for cell in table.header], rows, table.keys)
