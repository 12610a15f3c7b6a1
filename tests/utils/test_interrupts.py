"""Ctrl-C and SIGTERM: heard wherever the process is, answered once, with the code of a shell.

The signals are sent inside the callbacks that are known to lose KeyboardInterrupt: of weak
references, ``__set_name__``, imports of extension modules, functions that pydantic's core calls.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

BEGIN = """
import os, signal, sys, time, weakref
from xmdpt_cli.cli import app
from xmdpt_cli.utils import interrupts
from xmdpt_cli.cli import status

def send(number=signal.SIGINT):
    os.kill(os.getpid(), number)

def command():
    pass

def work(*_, **__):
    command()
    print("went on")

status.status = work
"""
END = "\nsys.exit(app.run([]))\n"

LOST = {
    "plain": "def command(): send(); time.sleep(5)",
    "a callback of a weak reference": """
class Thing: pass
def command():
    thing = Thing()
    found = weakref.ref(thing, lambda _: send())
    del thing
    for _ in range(100): time.sleep(0.01)
""",
    "a callback of a weak reference, while threads start slowly": """
import threading
start = threading.Thread.start
def slowly(self): start(self); time.sleep(0.1)
threading.Thread.start = slowly
class Thing: pass
def command():
    thing = Thing()
    found = weakref.ref(thing, lambda _: send())
    del thing
    for _ in range(100): time.sleep(0.01)
""",
    "__del__": """
class Thing:
    def __del__(self): send(); time.sleep(0.01)
def command():
    thing = Thing()
    del thing
    for _ in range(100): time.sleep(0.01)
""",
    "__set_name__": """
class Name:
    def __set_name__(self, owner, name): send(); time.sleep(0.01)
def command():
    class Owner: name = Name()
""",
    "a library that catches everything": """
def command():
    try:
        send(); time.sleep(5)
    except BaseException:
        pass
    with __import__("xmdpt_cli.cli.console").console.Talk().progress() as progress:
        progress("work", 1, 3)
""",
    "a library that raises another error": """
def command():
    try:
        send(); time.sleep(5)
    except BaseException as err:
        raise SystemError("initialization failed") from err
""",
    "numpy, imported by torch": """
import importlib.abc
class Sends(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "numpy": sys.meta_path.remove(self); send(); time.sleep(0.01)
sys.meta_path.insert(0, Sends())
def command():
    import torch
    for _ in range(100): time.sleep(0.01)
""",
    "work that ends as if nothing had been": """
def command():
    try:
        send(); time.sleep(5)
    except BaseException:
        pass
work = lambda *_, **__: command()
status.status = work
""",
}


def program(text: str) -> subprocess.CompletedProcess[str]:
    """Run with signals as a terminal has them: in the background of a shell they are ignored."""
    return subprocess.run(
        [sys.executable, "-c", BEGIN + textwrap.dedent(text) + END],
        capture_output=True,
        text=True,
        timeout=120,
        restore_signals=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        check=False,
    )


@pytest.mark.parametrize("text", LOST.values(), ids=LOST.keys())
def test_an_interrupt_is_not_lost(text: str) -> None:
    done = program(text)
    assert done.returncode == 130, done.stderr
    assert "went on" not in done.stdout
    assert done.stderr.splitlines()[-2:] == [
        "error: interrupted",
        "hint: completed work is kept: run the same command again to resume",
    ]
    assert "Traceback" not in done.stderr
    assert "bug in xmdpt" not in done.stderr


def test_sigterm_ends_as_an_interrupt_does_with_its_own_code() -> None:
    done = program("def command(): send(signal.SIGTERM); time.sleep(5)")
    assert done.returncode == 143
    assert "error: interrupted" in done.stderr


def test_held_work_is_completed_first() -> None:
    text = """
    def command():
        with interrupts.held():
            send()
            time.sleep(0.05)
            print("whole")
        print("never")
    """
    done = program(text)
    assert (done.returncode, done.stdout) == (130, "whole\n")


def test_a_second_signal_ends_the_process_at_once() -> None:
    text = """
    interrupts.SAME = 0.05
    def command():
        with interrupts.held():
            send(); send()  # within the same moment: one
            time.sleep(0.1)
            print("still here", flush=True)
            send()
            time.sleep(5)
    """
    done = program(text)
    assert (done.returncode, done.stdout) == (-signal.SIGINT, "still here\n")


def test_earlier_handlers_are_restored() -> None:
    text = """
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT), sys.unraisablehook
    def command():
        assert signal.getsignal(signal.SIGINT) is not before[1]
    app.run([])
    assert before == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT),
                      sys.unraisablehook)
    """
    assert program(text).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_the_program_is_loaded(number: signal.Signals, tmp_path: Path) -> None:
    """Before a command runs: a line, no traceback."""
    slow = tmp_path / "typer.py"
    slow.write_text("import time\nprint('loading', flush=True)\ntime.sleep(60)\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "xmdpt_cli", "status"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "loading\n"
    time.sleep(0.1)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGTERM)
    assert stderr == ("error: interrupted\n" if number == signal.SIGINT else "")
