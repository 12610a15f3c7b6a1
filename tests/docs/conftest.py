"""A page's own folder and environment, and the items that it can ask for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import docs_small
import huggingface_hub.constants
import pytest
from docs_run import run_line
from docs_workspace import WorkspaceItems, make_hub

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def _items(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[WorkspaceItems, Path]]:
    folder = tmp_path_factory.mktemp("docs")
    hub = make_hub(folder / "hub")
    yield WorkspaceItems(folder / "items", lambda line: run_line(line, "workspace item", str)), hub
    shutil.rmtree(folder)


@pytest.fixture
def items(
    _items: tuple[WorkspaceItems, Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[WorkspaceItems]:
    """The items, with small networks and the hub's cache; the environment is restored after."""
    items, hub = _items
    before = dict(os.environ)
    docs_small.apply(monkeypatch)
    docs_small.apply_to_demo(monkeypatch)
    docs_small.apply_to_bench(monkeypatch)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub))
    os.environ |= docs_small.variables() | {
        "HF_HUB_CACHE": str(hub),
        "DOCS_COMMANDS": str(hub.parent / "commands"),
    }
    yield items
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder, deleted after the test."""
    folder = tmp_path / "workspace"
    folder.mkdir()
    (folder / "examples").symlink_to(REPO / "examples")
    monkeypatch.chdir(folder)
    yield folder
    shutil.rmtree(tmp_path)
