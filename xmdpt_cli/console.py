"""How commands talk: data on stdout, everything else on stderr.

On a terminal long work is a bar with the time left; off it (a log, CI) a plain status line now and
then. With ``--json`` stdout holds exactly one object. NO_COLOR is respected (by Rich).
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from xmdpt_cli.devices import busy_load
from xmdpt_cli.progress import Progress, Say
from xmdpt_cli.tables import Table

if TYPE_CHECKING:  # Rich is loaded when something is said: --help does without
    from rich.console import Console, ConsoleOptions
    from rich.text import Text

STATUS_EVERY = 10.0  # seconds between status lines off a terminal


class Talk:
    """One command's voice. ``as_json``: the result is one JSON object instead of tables.

    ``quiet``: it says nothing at all, as one of several processes of which the first one talks.
    """

    def __init__(self, as_json: bool = False, quiet: bool = False) -> None:
        from rich.console import Console

        self.as_json, self.quiet = as_json, quiet
        self.err = Console(stderr=True, highlight=False, soft_wrap=True, quiet=quiet)
        self.out = Console(highlight=False)

    def say(self, text: str) -> None:
        self.err.print(_escape(text))

    def warn(self, text: str) -> None:
        self.err.print(f"[yellow]warning:[/yellow] {_escape(text)}")

    def hint(self, text: str) -> None:
        """What to do about the warning just said."""
        self.err.print(f"[cyan]hint:[/cyan] {_escape(text)}")

    def result(self, data: dict[str, Any], *tables: Table, text: str = "") -> None:
        """The command's result: one JSON object, or tables and text."""
        if self.quiet:
            return
        if self.as_json:
            print(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False))
            return
        for table in tables:
            # a log or a pipe has no width: tables have their own there
            for part in table.fitted(self.out.width if sys.stdout.isatty() else None):
                _print_table(part)
        if text:
            self.out.print(_escape(text), soft_wrap=True)

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """A ``Progress`` for library calls: one bar a stage."""
        if self.err.is_terminal:
            from rich.live import Live

            bars = _Bars()
            with Live(bars, console=self.err, refresh_per_second=10):
                yield bars
        else:
            yield _Lines(self)


def say_resuming(progress: Progress, say: Say, what: str) -> Progress:
    """``progress`` that says before a stage that resumes: "resuming: 40 of 120 images are done".

    For library calls whose first call of a stage tells what was done before.
    """
    seen: set[str] = set()

    def listen(stage: str, done: int, total: int, /, **info: Any) -> None:
        if stage not in seen and 0 < done < total:
            say(f"resuming: {done} of {total} {what} are done")
        seen.add(stage)
        progress(stage, done, total, **info)

    return listen


def warn_if_busy(talk: Talk) -> None:
    """Warn where other programs use all processors; to be called before the command's own work."""
    load = None if "OMP_NUM_THREADS" in os.environ else busy_load()
    if load is not None:
        count = os.cpu_count() or 1
        talk.warn(
            f"other programs keep this machine busy (load {load:.1f} on {count} "
            f"{'core' if count == 1 else 'cores'}): threads that wait for each other are slow there"
        )
        talk.hint("OMP_NUM_THREADS=1 before the command: measured 4 to 10 times faster there")


def error(message: str, hint: str = "") -> None:
    """``error: what happened`` and ``hint: what to do`` on stderr."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"[bold red]error:[/bold red] {_escape(message)}")
    if hint:
        console.print(f"[bold cyan]hint:[/bold cyan] {_escape(hint)}")


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], keys: int = 1) -> Table:
    """A table for ``Talk.result``; the first ``keys`` columns say what a row is of."""
    return Table(title, list(header), [list(row) for row in rows], keys)


def _print_table(table: Table) -> None:
    """On stdout, as wide as it is: Rich would cut or fold what is wider than its console."""
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


def duration(seconds: float) -> str:
    """``75`` -> ``1m15s``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole >= 4 * 86400:
        return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


#: How a progress call's facts are shown; others as ``name value``.
FACTS = {
    "loss": "loss {:.3f}",
    "masked": "masked {:.3f}",
    "data_wait": "wait {:.0%}",
    "gpu_memory": "{:.1f} GiB",
    "mfu": "MFU {:.0%}",
}


def facts(info: Mapping[str, Any]) -> list[str]:
    """``{"loss": 0.1234, "data_wait": 0.01}`` -> ``["loss 0.123", "wait 1%"]``."""
    out = []
    for name, value in info.items():
        if name == "images_per_second":
            out.append(f"{value:.3g} img/s" if value < 100 else f"{value:,.0f} img/s")
        elif name in FACTS:
            out.append(FACTS[name].format(float(value)))
        else:
            out.append(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}")
    return out


class Pace:
    """How fast one stage goes in this process: what an earlier one did says nothing about it."""

    def __init__(self, now: float, done: int) -> None:
        self.began, self.first = now, done
        self.base = (now, done)
        self.came: float | None = None  # when the first unit was there

    def rate(self, now: float, done: int) -> float | None:
        """Units a second, or None while nothing is done. The first unit, which warms up and may
        compile, is left out as soon as there is another; with it whatever comes at once, as the
        pictures of a batch do."""
        if done > self.first:
            self.came = now if self.came is None else self.came
            if now - self.came <= 0.05 * (self.came - self.began):
                self.base = (now, done)
        at, count = self.base if done > self.base[1] else (self.began, self.first)
        return (done - count) / (now - at) if done > count and now > at else None


class _Stage:
    """What the bar knows of one stage."""

    def __init__(self, done: int, total: int, now: float) -> None:
        self.done, self.total, self.pace, self.now, self.began = (
            done,
            total,
            Pace(now, done),
            now,
            now,
        )
        self.rate: float | None = None
        self.facts: list[str] = []

    def update(self, done: int, total: int, now: float, info: Mapping[str, Any]) -> None:
        self.done, self.total, self.now = done, total, now
        self.rate = self.pace.rate(now, done)
        if info:
            self.facts = facts(info)

    def time(self, now: float) -> str:
        if self.done >= self.total:
            return f"in {duration(self.now - self.began)}"
        if self.rate is None:
            return "left -"
        # between two calls the time left runs down: a bar that stands still seems dead
        left = (self.total - self.done) / self.rate - (now - self.now)
        return f"left {duration(left)}"


NAME, BAR, SHORTEST_BAR = 8, 30, 10  # columns: a stage's name, its bar at the most and the least


def fitted(name: str, stage: _Stage, width: int, now: float) -> tuple[str, int, str]:
    """A stage on one line of ``width`` columns: (text, the bar's columns, text after the bar).

    What does not fit is left out whole: facts from the last one on, then the bar, then the rest.
    Facts never take the columns of the shortest bar; what they leave makes it longer.
    """
    head = f"{name:<{NAME}}"
    parts = [f"{stage.done}/{stage.total}", stage.time(now)]
    shortest = SHORTEST_BAR + 2

    def taken(facts: Sequence[str]) -> int:
        return len(head) + 2 + len("  ".join([*parts, *facts]))

    if taken(stage.facts) + shortest > width:
        head = name  # stages under each other need not be aligned where room is short
    shown = list(stage.facts)
    while shown and taken(shown) + shortest > width:
        shown.pop()
    room = width - taken(shown) - 2
    text = "  ".join([*parts, *shown])
    if room >= SHORTEST_BAR:
        return f"{head}  ", min(BAR, room), f"  {text}"
    if taken([]) > width:
        text = parts[0]
    return f"{head}  {text}"[:width], 0, ""


class _Bars:
    """One line a stage, drawn by Rich ten times a second; a line never wraps."""

    def __init__(self) -> None:
        self.stages: dict[str, _Stage] = {}

    def __call__(self, stage: str, done: int, total: int, /, **info: Any) -> None:
        now = time.monotonic()
        if stage not in self.stages:
            self.stages[stage] = _Stage(done, total, now)
        self.stages[stage].update(done, total, now, info)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        from rich.text import Text

        now = time.monotonic()
        mark = "-" if options.ascii_only else "━"
        for name, stage in list(self.stages.items()):
            before, bar, after = fitted(name, stage, options.max_width, now)
            full = int(bar * min(1.0, stage.done / stage.total)) if stage.total else bar
            finished = stage.done >= stage.total
            line = Text(before, no_wrap=True, overflow="crop", end="")
            line.append(mark * full, "bar.finished" if finished else "bar.complete")
            line.append((" " if options.ascii_only else mark) * (bar - full), "bar.back")
            line.append(after)
            yield line
            yield Text("")


class _Lines:
    """Status lines: the first call of a stage, the last, and one every STATUS_EVERY seconds."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.paces: dict[str, Pace] = {}
        self.ended: set[str] = set()
        self.last = 0.0

    def __call__(self, stage: str, done: int, total: int, /, **info: Any) -> None:
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
        self.talk.say(", ".join([*parts, *facts(info)]))


def _escape(text: str) -> str:
    """Square brackets in a user's text are no Rich markup."""
    from rich.markup import escape

    return escape(text)
