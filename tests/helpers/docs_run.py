"""Run the blocks of a page in its workspace: the rules of ``docs_blocks``, in the page's order.

``xmdpt ...`` runs in this process, ``python ...`` in one of its own, and ``torchrun ...`` in two.
Other lines, and these with a pipe or a redirection, run in bash with small ``xmdpt`` and ``python``
before the real ones. What is small is in ``docs_small``.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docs_small
from docs_blocks import Block, Page, PageError, commands

from xmdpt_cli.cli.app import run as run_xmdpt

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HELPERS = Path(__file__).parent
REPO = HELPERS.parents[1]
SECONDS = 240
#: what a line may not contain unless its block is `not run`
NEEDS_A_REASON = re.compile(r"\b(pip|pipx|uv|git|conda|hf|curl|wget|unzip|ssh|scp)\b .")
_SHELL = re.compile(r"[|<>&;`$*~{]")

Printed = Callable[[], str]  # what was printed since the last call


def run_page(page: Page, workspace: Path, printed: Printed) -> None:
    """Run every block. PageError with FILE:LINE, the line and the end of what it printed.

    The current folder is ``workspace``, and the environment is the page's own.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in page.blocks:
        at = f"{page.path}:{block.line}"
        if block.not_run:
            continue
        if block.title:
            target = workspace / block.title
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text, encoding="utf-8")
        if block.language == "bash" and not block.title:
            for line, command in commands(block):
                run_line(command, f"{page.path}:{line}", printed)
        elif block.language == "python" and not block.title:
            run_python(block, page.path, names, printed)
        elif block.language != "text":
            check_syntax(block, at)


def run_line(line: str, at: str, printed: Printed) -> None:
    if NEEDS_A_REASON.search(line):
        raise PageError(f"{at}: {line}\nneeds `<!-- not run: REASON -->` before its block")
    printed()
    words = shlex.split(line)
    if words[0] == "cd" and len(words) == 2:
        os.chdir(words[1])
    elif words[0] == "export":
        os.environ.update(dict(word.split("=", 1) for word in words[1:]) | docs_small.variables())
    elif words[0] == "xmdpt" and not _SHELL.search(line):
        code = run_xmdpt(docs_small.small(words[1:]))
        if code:
            raise PageError(f"{at}: {line}\nexit code {code}\n{printed()[-3000:]}")
    elif words[0] in ("python", "torchrun") and not _SHELL.search(line):
        processes = docs_small.start(words)
        output = "".join(text for process in processes for text in process.communicate(SECONDS))
        for process in processes:
            if process.returncode:
                raise PageError(f"{at}: {line}\nexit code {process.returncode}\n{output[-3000:]}")
    else:
        done = in_bash(line)
        if done.returncode:
            raise PageError(f"{at}: {line}\nexit code {done.returncode}\n{done.stdout[-3000:]}")


def in_bash(line: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(commands_folder()), os.environ["PATH"]])
    python_path = os.pathsep.join([str(REPO), str(HELPERS)])
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        env={**os.environ, "PATH": path, "PYTHONPATH": python_path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=SECONDS,
    )


def commands_folder() -> Path:
    """``xmdpt`` and ``python`` as small ones, and a ``head`` that reads to the end, so that a
    command before it that fails is not mistaken for one whose pipe was closed."""
    folder = Path(os.environ["DOCS_COMMANDS"])
    if not folder.is_dir():
        folder.mkdir(parents=True)
        this = shlex.quote(str(HELPERS / "docs_small.py"))
        for name in ("xmdpt", "python"):
            write_script(folder / name, f'exec {sys.executable} {this} {name} "$@"')
        write_script(folder / "head", f'{shutil.which("head")} "$@" && cat > /dev/null')
    return folder


def write_script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def run_python(block: Block, path: Path, names: dict[str, Any], printed: Printed) -> None:
    """Execute a block; errors name the line of the page."""
    printed()
    source = "\n" * (block.line - 1) + block.text
    try:
        exec(compile(source, str(path), "exec"), names)
    except Exception as err:
        inside = traceback.extract_tb(err.__traceback__)
        line = next((f.lineno for f in reversed(inside) if f.filename == str(path)), block.line)
        if isinstance(err, SyntaxError):
            line = err.lineno
        text = "".join(traceback.format_exception(err))[-3000:]
        raise PageError(f"{path}:{line}: {type(err).__name__}: {err}\n{text}") from None


def check_syntax(block: Block, at: str) -> None:
    """PageError unless an untitled, or titled, block of data or code can be parsed."""
    try:
        if block.language == "toml":
            tomllib.loads(block.text)
        elif block.language == "json":
            json.loads(block.text)
        elif block.language == "yaml":
            import yaml

            yaml.safe_load(block.text)
        elif block.language == "python":
            compile(block.text, at, "exec")
        elif block.language == "csv":
            rows = list(csv.reader(block.text.splitlines()))
            assert len({len(row) for row in rows}) == 1, "rows of different lengths"
        elif block.language == "bibtex":
            assert re.match(r"@\w+\{[\w:-]+,", block.text), "no @type{key,"
            assert block.text.count("{") == block.text.count("}"), "braces"
    except Exception as err:
        raise PageError(f"{at}: this {block.language} cannot be parsed: {err}") from None
