"""Every error that docs/troubleshooting.md explains exists: its words are in the package."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "troubleshooting.md"
#: said by the operating system
SYSTEM = {"No space left on device"}


def texts() -> list[str]:
    """All string constants of the package; what an f-string inserts is a null byte."""
    found = []
    for path in (ROOT / "xmdpt_cli").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (n.value if isinstance(n, ast.Constant) else "\0" for n in node.values)
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_the_errors_of_the_page_are_the_packages() -> None:
    headings = re.findall(r"^### `error: (.+)`$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(headings) > 20
    package = texts()
    for heading in headings:
        words = [part.strip(" ,:()'") for part in re.split("…|: ", heading)]
        words = [part for part in words if len(part) > 2 and part not in SYSTEM]
        assert words, heading
        for part in words:
            assert any(part in text for text in package), f"{heading!r}: no {part!r} in the package"
