"""Progress on a terminal: one bar per stage, with the time left and a few values."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from xmdpt_cli.utils import interrupts
from xmdpt_cli.utils.redact import shown

if TYPE_CHECKING:  # Rich is loaded when something is printed, to keep --help fast
    from rich.console import Console, ConsoleOptions
    from rich.text import Text

_SHORTEST = 0.01  # seconds; units that come all at once have no speed


def duration(seconds: float) -> str:
    """``75`` -> ``1m15s``; from ten days on only days."""
    whole = max(0, round(seconds))
    if whole >= 10 * 86400:
        return f"{round(whole / 86400):,} days"
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
    """The speed of one stage in this process, without the items of an earlier process."""

    def __init__(self, now: float, done: int) -> None:
        self.began, self.first = now, done
        self.base = (now, done)
        self.came: float | None = None  # when the first unit was there

    def rate(self, now: float, done: int) -> float | None:
        """Units per second; None before the first and for units that came at once. The first unit,
        which warms up and may compile, is left out once there is another, and so are units that
        arrive with it, such as the images of a batch."""
        if done > self.first:
            self.came = now if self.came is None else self.came
            if now - self.came <= 0.05 * (self.came - self.began):
                self.base = (now, done)
        at, count = self.base if done > self.base[1] else (self.began, self.first)
        return (done - count) / (now - at) if done > count and now > at + _SHORTEST else None


class _Stage:
    """The state of one stage's bar."""

    def __init__(self, done: int, total: int, now: float) -> None:
        self.done, self.total, self.pace = done, total, Pace(now, done)
        self.now = self.started = now
        self.rate: float | None = None
        self.values: list[str] = []

    def update(self, done: int, total: int, now: float, info: Mapping[str, Any]) -> None:
        self.done, self.total, self.now = done, total, now
        self.rate = self.pace.rate(now, done)
        if info:
            self.values = values(info)

    def time(self, now: float) -> str:
        if self.done >= self.total:
            return f"in {duration(self.now - self.started)}"
        if self.rate is None:
            return "left -"
        # count down between two calls, so that the bar does not seem to hang
        left = (self.total - self.done) / self.rate - (now - self.now)
        return f"left {duration(left)}"


NAME, BAR, SHORTEST_BAR = 8, 30, 10  # columns: a stage's name, its bar at the most and the least


def fitted(name: str, stage: _Stage, width: int, now: float) -> tuple[str, int, str]:
    """A stage on one line of ``width`` columns: (text, the bar's columns, text after the bar).

    If space is short, values are left out from the last one on, then the bar, then the rest. Values
    leave room for the shortest bar; the bar uses the remaining columns.
    """
    head = f"{name:<{NAME}}"
    parts = [f"{stage.done}/{stage.total}", stage.time(now)]
    shortest = SHORTEST_BAR + 2

    def taken(values: Sequence[str]) -> int:
        return len(head) + 2 + len("  ".join([*parts, *values]))

    if taken(stage.values) + shortest > width:
        head = name  # no alignment of stages if space is short
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
    """One line per stage, printed by Rich ten times per second; lines never wrap."""

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
