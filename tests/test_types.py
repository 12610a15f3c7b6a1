"""The lazy public names have real types. mypy checks ``typed_names.py``; here: that it covers all
names, and that what a type checker reads is what runs."""

from __future__ import annotations

import ast
import sys
from importlib import import_module
from pathlib import Path

import xmdpt_cli

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPO = Path(__file__).parent.parent
PACKAGE = Path(xmdpt_cli.__file__).parent


def typed_imports() -> dict[str, str]:
    """Name -> module, of the block that only type checkers read."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    return {
        alias.name: str(node.module)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_type_checkers_see_the_names_that_are_loaded() -> None:
    seen = typed_imports()
    assert sorted([*seen, "__version__"]) == sorted(xmdpt_cli.__all__)
    for name, module in seen.items():
        assert getattr(xmdpt_cli, name) is getattr(import_module(module), name)


def test_every_public_name_is_checked_by_mypy() -> None:
    settings = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["mypy"]
    assert "tests/typed_names.py" in settings["files"]
    used = (REPO / "tests/typed_names.py").read_text().split("def generate")[1]
    for name in typed_imports():
        assert name in used


def test_the_package_is_marked_as_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()
