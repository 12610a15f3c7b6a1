"""Every block of README.md and of docs/ runs, page by page: ``pytest tests/docs -k quickstart``.

What pages may contain is in docs_blocks, what exists in their folder in docs_workspace, how a line
runs in docs_run, and what is made small in docs_small.
"""

from __future__ import annotations

from pathlib import Path

import docs_run
import pytest
from docs_blocks import PageError, read_page
from docs_workspace import WorkspaceItems

REPO = Path(__file__).resolve().parents[2]
PAGES = [REPO / "README.md", *sorted((REPO / "docs").glob("**/*.md"))]
NAMES = [path.relative_to(REPO).with_suffix("").as_posix().removeprefix("docs/") for path in PAGES]


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_the_blocks_of_a_page_run(
    path: Path, items: WorkspaceItems, workspace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fault = ""
    try:
        page = read_page(path)
        items.copy_into(workspace, page)
        docs_run.run_page(page, workspace, lambda: "".join(capfd.readouterr()))
    except PageError as err:
        fault = str(err)
    if fault:
        pytest.fail(fault, pytrace=False)
