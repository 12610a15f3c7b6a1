"""The files that a site of repositories reads: they parse, and say what is true."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from xmdpt_cli import __version__

REPO = Path(__file__).resolve().parents[2]
FORMS = sorted((REPO / ".github/ISSUE_TEMPLATE").glob("*.yml"))


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_the_citation_has_the_version_of_the_package() -> None:
    citation = read(REPO / "CITATION.cff")
    assert citation["version"] == __version__
    # what the format's schema 1.2.0 requires
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    paper = citation["preferred-citation"]
    assert {"type", "title", "authors"} <= paper.keys()


def test_bibtex_and_citation_name_the_same_paper() -> None:
    paper = read(REPO / "CITATION.cff")["preferred-citation"]
    home = (REPO / "docs/index.md").read_text(encoding="utf-8")
    authors = " and ".join(f"{a['family-names']}, {a['given-names']}" for a in paper["authors"])
    assert f"{{{authors}}}" in home
    assert f"{{{paper['title']}}}" in home
    assert f"{{{paper['year']}}}" in home


@pytest.mark.parametrize("path", FORMS, ids=[path.stem for path in FORMS])
def test_an_issue_form_is_valid(path: Path) -> None:
    form = read(path)
    if path.stem == "config":
        assert form == {"blank_issues_enabled": False}
        return
    assert form["name"]
    assert form["description"]
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert {field["type"] for field in fields} <= {"input", "textarea", "dropdown", "checkboxes"}
    assert all(field["attributes"]["label"] for field in fields)
    assert len({field["id"] for field in fields}) == len(fields)
