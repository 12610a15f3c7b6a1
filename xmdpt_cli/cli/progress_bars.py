"""Progress on a terminal: one bar a stage, with the time left and what is worth knowing."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from xmdpt_cli.utils import interrupts
from xmdpt_cli.utils.redact import shown

if TYPE_CHECKING:  # Rich is loaded when something is shown: --help does without
    from rich.console import Console, ConsoleOptions
    from rich.text import Text


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


#: How a progress call's values are shown; others as ``name value``.
FORMATS = {
    "loss": "loss {:.3f}",
    "masked": "masked {:.3f}",
    "data_wait": "wait {:.0%}",
    "gpu_memory": "{:.1f} GiB",
    "mfu": "MFU {:.0%}",
}


def values(info: Mapping[str, Any]) -> list[str]:
    """``{"loss": 0.1234, "data_wait": 0.01}`` -> ``["loss 0.123", "wait 1%"]``."""
    out = []
    for name, value in info.items():
        if name == "images_per_second":
            out.append(f"{value:.3g} img/s" if value < 100 else f"{value:,.0f} img/s")
        elif name in FORMATS:
            out.append(FORMATS[name].format(float(value)))
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
        images of a batch do."""
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
        self.values: list[str] = []

    def update(self, done: int, total: int, now: float, info: Mapping[str, Any]) -> None:
        self.done, self.total, self.now = done, total, now
        self.rate = self.pace.rate(now, done)
        if info:
            self.values = values(info)

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

    What does not fit is left out whole: values from the last one on, then the bar, then the rest.
    Values never take the columns of the shortest bar; what they leave makes it longer.
    """
    head = f"{name:<{NAME}}"
    parts = [f"{stage.done}/{stage.total}", stage.time(now)]
    shortest = SHORTEST_BAR + 2

    def taken(values: Sequence[str]) -> int:
        return len(head) + 2 + len("  ".join([*parts, *values]))

    if taken(stage.values) + shortest > width:
        head = name  # stages under each other need not be aligned where room is short
    shown = list(stage.values)
    while shown and taken(shown) + shortest > width:
        shown.pop()
    room = width - taken(shown) - 2
    text = "  ".join([*parts, *shown])
    if room >= SHORTEST_BAR:
        return f"{head}  ", min(BAR, room), f"  {text}"
    if taken([]) > width:
        text = parts[0]
    return f"{head}  {text}"[:width], 0, ""


class Bars:
    """One line a stage, printed by Rich ten times a second; a line never wraps."""

    def __init__(self) -> None:
        self.stages: dict[str, _Stage] = {}

    def __call__(self, stage: str, done: int, total: int, /, **info: Any) -> None:
        interrupts.check()
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
            line = Text(shown(before), no_wrap=True, overflow="crop", end="")
            line.append(mark * full, "bar.finished" if finished else "bar.complete")
            line.append((" " if options.ascii_only else mark) * (bar - full), "bar.back")
            line.append(shown(after))
            yield line
            yield Text("")
