"""Handles Ctrl-C and SIGTERM: no signal is lost, and none interrupts work that must be completed.

Python raises KeyboardInterrupt wherever the main thread is, and callbacks of C code (weak
references, ``__set_name__``, imports of extension modules) may print it, drop it or make another
error of it. So the signal is also recorded: it is raised again after such callbacks, long
loops ``check`` it, and a command that received one never ends as if it had not.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from types import FrameType
from typing import Any

#: seconds in which a signal is the same one: torchrun passes on what the terminal sends anyhow
SAME = 1.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _State:
    """State of this process. ``received``: the first signal, 0: none; ``holds``: open ``held``s."""

    listening = False
    received = 0
    at = 0.0
    holds = 0
    again = False  # the next call of the handler raises what was dropped
    in_hook = False  # the hook that saw it dropped is running


_state = _State()


@contextmanager
def listening() -> Iterator[None]:
    """In the block, the first signal raises KeyboardInterrupt and is recorded; a second signal,
    later than ``SAME``, ends the process at once. Only the main thread changes handlers."""
    if _state.listening or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _handle) for number in _SIGNALS}
    unraisable = sys.unraisablehook
    sys.unraisablehook = _raise_again(unraisable)
    first = _NumpyFirst()
    sys.meta_path.insert(0, first)
    _state.listening, _state.received, _state.holds, _state.again = True, 0, 0, False
    try:
        yield
    finally:
        _state.listening = False
        if first in sys.meta_path:
            sys.meta_path.remove(first)
        sys.unraisablehook = unraisable
        for number, handler in before.items():
            signal.signal(number, handler)


def received() -> int:
    """The number of the signal that was received; 0: none."""
    return _state.received


def forget() -> None:
    """Forget the signal: the command ends as if none had been received."""
    _state.received = 0


def check() -> None:
    """Raise KeyboardInterrupt again if the one of a signal was dropped, unless in ``held``."""
    main = threading.current_thread() is threading.main_thread()
    if _state.received and not _state.holds and main:
        raise KeyboardInterrupt


@contextmanager
def held() -> Iterator[None]:
    """In the block, a signal is only recorded, and raised at the end.

    For work that must not be interrupted halfway, and for loops in which several processes agree
    to stop after the same step (see ``received``).
    """
    with listening():
        _state.holds += 1
        try:
            yield
        finally:
            _state.holds -= 1
        check()


@contextmanager
def default_signals() -> Iterator[None]:
    """In the block, signals have their default effect: they end the process. For calls that may
    wait for minutes without running Python."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_DFL) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _handle(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if _state.again:
        _state.again = False
    elif _state.received:
        if now - _state.at > SAME:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        return
    else:
        _state.received, _state.at = number, now
    if not _state.holds:
        raise KeyboardInterrupt


def _raise_again(other: Callable[[Any], object]) -> Callable[[Any], object]:
    """A hook for errors in callbacks that cannot raise: raises an interrupt after the callback."""

    def hook(unraisable: Any) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt) and _state.received:
            _state.in_hook = True
            threading.Thread(target=_interrupt_again, daemon=True).start()
            _state.in_hook = False  # no call may follow: signals are handled at calls
        else:
            other(unraisable)

    return hook


def _interrupt_again() -> None:
    """In a thread: interrupt the main thread once the hook, which drops what is raised in it, has
    returned. Starting this thread may take longer than any fixed pause."""
    while _state.in_hook:
        time.sleep(0.001)
    time.sleep(0.01)
    _state.again = True
    _thread.interrupt_main()


class _NumpyFirst(MetaPathFinder):
    """Imports numpy before torch, whose C++ start imports it and drops an interrupt meanwhile."""

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        if name == "torch":
            sys.meta_path.remove(self)
            import numpy  # noqa: F401


def _in_child() -> None:
    """Reset the handlers in a forked process: its parent ends it."""
    if _state.listening:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _state.listening = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
