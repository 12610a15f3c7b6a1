"""docs/troubleshooting.md: the error of each heading is one that the program prints."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
PAGE = REPO / "docs/troubleshooting.md"
TEXT = PAGE.read_text(encoding="utf-8")
HEADINGS = re.findall(r"^#+ `error: (.*)`$", TEXT, re.M)
#: words of the operating system
NOT_OURS = ("No space left on device",)
HOLE = "…"  # for a name or a number, on the page and in the strings


def strings(tree: ast.AST) -> Iterator[str]:
    """Every string of a module; the values in an f-string are holes."""
    if isinstance(tree, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else HOLE for part in tree.values]
        yield "".join(map(str, parts))
    elif isinstance(tree, ast.Constant) and isinstance(tree.value, str):
        yield tree.value
    for child in ast.iter_child_nodes(tree):
        yield from strings(child)


@pytest.fixture(scope="module")
def printed() -> list[str]:
    files = sorted(REPO.glob("xmdpt_cli/**/*.py"))
    texts = [text for f in files for text in strings(ast.parse(f.read_text(encoding="utf-8")))]
    return [" ".join(text.split()) for text in texts]


def test_there_are_errors_on_the_page() -> None:
    assert len(HEADINGS) > 10


@pytest.mark.parametrize("heading", HEADINGS)
def test_the_error_of_a_heading_exists(heading: str, printed: list[str]) -> None:
    """Each piece between two holes stands in a string of the package."""
    for words in re.split("|".join([HOLE, *NOT_OURS]), heading):
        assert any(words.strip() in text for text in printed), words
