"""The fenced blocks of a Markdown page, and the comments that say how to test them.

    <!-- workspace: data/256 runs/B -->    what exists before the page's first line
    <!-- not run: needs the network -->    before a block that cannot run here

Everything else that is unknown is an error that names the file and the line, so that no block is
left out by a spelling mistake.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

#: why a block is not run
REASONS = (
    "needs the network",
    "installs packages",
    "several machines",
    "needs a GPU",
    "starts a server",
    "needs OpenPose's weights",
    "another test runs it with two processes",
)
LANGUAGES = ("bash", "python", "text", "toml", "json", "yaml", "csv", "bibtex")

_FENCE = re.compile(r"^(?P<indent> *)(?P<marks>`{3,}|~{3,})(?P<info>[^`]*)$")
_INFO = re.compile(r'^(?P<language>\S+)(?: title="(?P<title>[^"]+)")?$')
_COMMENT = re.compile(r"^ *<!--\s*(?P<text>.*?)\s*-->$")


class PageError(Exception):
    """A page that cannot be tested; the message starts with ``FILE:LINE``."""


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    line: int  # of its first line of text
    language: str
    title: str  # the file that the block shows; "" if none
    text: str
    not_run: str  # the reason; "" if it runs


@dataclass
class Page:
    """The tested parts of a page."""

    path: Path
    workspace: list[str] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    prose: list[tuple[int, str]] = field(default_factory=list)  # (line number, its text)


def read_page(path: Path) -> Page:
    """Parse a page. PageError for an unknown language, comment, attribute or reason."""
    page = Page(path)
    reason, reason_line = "", 0
    lines = iter(enumerate(path.read_text(encoding="utf-8").splitlines(), start=1))
    for number, line in lines:
        fence = _FENCE.match(line)
        if fence:
            inside = []
            for _, row in lines:
                if row.strip().startswith(fence["marks"]) and not row.strip(" `~"):
                    break
                inside.append(row)
            else:
                raise PageError(f"{path}:{number}: the block has no end")
            page.blocks.append(_block(path, number, fence["info"].strip(), inside, reason))
            reason = ""
        elif line.lstrip().startswith("<!--"):
            comment = _COMMENT.match(line)
            if comment is None:
                raise PageError(f"{path}:{number}: a comment must be one line")
            key, _, value = comment["text"].partition(": ")
            if key == "workspace":
                page.workspace += value.split()
            elif key == "not run" and value in REASONS:
                reason, reason_line = value, number
            elif key == "not run":
                raise PageError(f"{path}:{number}: no such reason: {value!r}; known: {REASONS}")
            else:
                raise PageError(f"{path}:{number}: unknown comment {comment['text']!r}")
        else:
            page.prose.append((number, line))
            if line.strip() and reason:
                break
    if reason:
        raise PageError(f"{path}:{reason_line}: `not run` stands directly before a block")
    return page


def _block(path: Path, line: int, info: str, inside: list[str], reason: str) -> Block:
    known = _INFO.match(info)
    if known is None or known["language"] not in LANGUAGES:
        raise PageError(f"{path}:{line}: unknown block {info!r}; known: {', '.join(LANGUAGES)}")
    text = textwrap.dedent("\n".join(inside)) + "\n"
    return Block(line + 1, known["language"], known["title"] or "", text, reason)


def commands(block: Block) -> list[tuple[int, str]]:
    """(line number, command) of a bash block; ``\\`` continues a line, ``#`` begins a comment."""
    found, start, pending = [], 0, ""
    for number, line in enumerate(block.text.splitlines(), start=block.line):
        if not pending:
            start = number
        text = re.sub(r"(^|\s)#.*$", "", line).strip()
        if text.endswith("\\"):
            pending += text[:-1]
            continue
        command = (pending + text).strip()
        pending = ""
        if command:
            found.append((start, " ".join(command.split())))
    return found
