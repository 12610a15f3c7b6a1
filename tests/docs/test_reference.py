"""What README.md and docs/ name exists, and every command and option is documented.

Names are looked for in code font and in command lines: options, variables, presets, paths of this
repository. Links are those of Markdown.
"""

from __future__ import annotations

import contextlib
import fnmatch
import importlib.util
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from docs_blocks import PageError, commands, read_page

from xmdpt_cli.cli.app import build
from xmdpt_cli.cli.help import walk
from xmdpt_cli.config import presets

REPO = Path(__file__).resolve().parents[2]
DOCS = REPO / "docs"
PAGES = [REPO / "README.md", *sorted(DOCS.glob("**/*.md"))]
OTHERS = sorted((REPO / ".github").glob("**/*.md"))
COMMANDS = dict(walk(build()))  # "train", "bench data", ...
VISIBLE = [path for path, command in COMMANDS.items() if path and not command.hidden]

#: options of other programs that prose names alone
OTHER_OPTIONS = {"--nproc-per-node", "--nnodes", "--local-dir", "--basetemp"}
#: the command that docs/contributing.md adds, as an example, and its variable
OTHER_COMMANDS, OTHER_VARIABLES = {"keypoints"}, {"XMDPT_KEYPOINTS_MIN_SCORE"}
#: sites without https
HTTP_ONLY = ("http://mmlab.ie.cuhk.edu.hk/", "http://127.0.0.1", "http://localhost")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
_SPAN = re.compile(r"(`+)(.+?)\1")
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")
_MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|root|Users|work|tmp|mnt)/\w+")


@dataclass(frozen=True)
class Code:
    """Code font of a page: a span of its prose, or a command line."""

    at: str  # FILE:LINE
    text: str
    line: bool = False  # a command line

    def command(self) -> str | None:
        """ "train" of ``xmdpt train --size B`` and of ``train --size B``; None if none is named."""
        words = re.sub(r"^.*-m xmdpt_cli ", "xmdpt ", self.text).split()
        words = [word for word in words if not re.match(r"XMDPT_\w+=", word)]
        words = words[1:] if words[:1] == ["xmdpt"] else words
        two = " ".join(words[:2])
        one = words[0] if words else ""
        return two if two in COMMANDS else one if one in COMMANDS and one else None


def codes(path: Path) -> list[Code]:
    page = read_page(path)
    name = path.relative_to(REPO)
    found = [
        Code(f"{name}:{number}", span[2])
        for number, text in page.prose
        for span in _SPAN.finditer(text)
    ]
    for block in page.blocks:
        if block.language == "bash":
            found += [Code(f"{name}:{number}", text, True) for number, text in commands(block)]
    return found


def readable() -> list[Path]:
    """The pages without those that cannot be parsed: test_pages.py says why."""
    found = []
    for path in [*PAGES, *OTHERS]:
        with contextlib.suppress(PageError):
            read_page(path)
            found.append(path)
    return found


READABLE = readable()
ALL = [code for path in READABLE for code in codes(path)]


def options_of(path: str) -> set[str]:
    parameters = COMMANDS[path].params
    return {name for p in parameters for name in (*p.opts, *p.secondary_opts)} | {"--help", "-h"}


SCRIPTS = "".join(path.read_text(encoding="utf-8") for path in REPO.glob("examples/**/*.py"))
ANY_OPTION = set().union(*(options_of(path) for path in COMMANDS))
ANY_OPTION |= OTHER_OPTIONS | set(re.findall(r'"(--[a-z-]+)"', SCRIPTS))
#: ``bench --rounds`` may stand for an option that only its subcommands have
BELOW = {
    path: set().union(*(options_of(p) for p in COMMANDS if p.startswith(f"{path} ")))
    for path in COMMANDS
}


def other_program(code: Code) -> bool:
    """Whether the code is a command line of a program that is not ours."""
    word = code.text.split()[0]
    ours = word == "xmdpt" or "xmdpt_cli" in code.text or word.startswith("XMDPT_")
    return not ours and not word.startswith("-") and code.command() is None


def test_every_option_that_is_named_exists() -> None:
    wrong = []
    for code in ALL:
        named = set(_OPTION.findall(re.sub(r"^.*-m xmdpt_cli ", "xmdpt ", code.text)))
        if not named or other_program(code):
            continue
        command = code.command()
        known = ANY_OPTION if command is None else options_of(command) | BELOW[command]
        wrong += [f"{code.at}: {command or 'xmdpt'} has no {name}" for name in named - known]
    assert not wrong, "\n".join(wrong)


def test_every_command_that_is_named_exists() -> None:
    for code in ALL:
        for name in re.findall(r"(?:^|[|;&] *|XMDPT_\w+=\S+ )xmdpt ([a-z][\w-]*)", code.text):
            assert name in {*COMMANDS, *OTHER_COMMANDS}, f"{code.at}: no command {name}"


def test_every_variable_that_is_named_exists() -> None:
    known = {str(p.envvar) for command in COMMANDS.values() for p in command.params if p.envvar}
    for file in [*REPO.glob("xmdpt_cli/**/*.py"), REPO / "tests/conftest.py"]:
        known |= set(re.findall(r"\bXMDPT_[A-Z_]+\b", file.read_text(encoding="utf-8")))
    for code in ALL:
        for name in set(re.findall(r"XMDPT_[A-Z0-9_]*", code.text)) - OTHER_VARIABLES:
            there = name in known or (name.endswith("_") and any(k.startswith(name) for k in known))
            assert there, f"{code.at}: no variable {name}"


def test_every_preset_that_is_named_exists() -> None:
    for code in ALL:
        for name in re.findall(r"(?<![\w/.-])(?:paper|mdtv2|demo)/[\w*.-]+", code.text):
            pattern = re.sub(r"\.\.\.$", "*", name)
            assert fnmatch.filter(presets(), pattern), f"{code.at}: no preset {name}"


def test_every_path_of_the_repository_that_is_named_exists() -> None:
    folders = r"(?:xmdpt_cli|examples|tests|docs|\.github|\.ci)"
    for code in ALL:
        for name in re.findall(rf"(?<![\w/.-]){folders}/[\w./*{{}},-]*", code.text):
            assert list(REPO.glob(name.rstrip("/."))), f"{code.at}: no {name}"


@pytest.mark.parametrize("path", VISIBLE)
def test_every_command_is_on_a_first_page(path: str) -> None:
    first = "".join(
        (p.read_text(encoding="utf-8")) for p in (REPO / "README.md", DOCS / "index.md")
    )
    assert f"xmdpt {path.split()[0]}" in first


def test_the_commands_of_developers_are_those_of_ci() -> None:
    page = (DOCS / "contributing.md").read_text(encoding="utf-8")
    ci = (REPO / ".ci/run").read_text(encoding="utf-8")
    for line in ("-c constraints.txt -e '.[dev]'", "python -m pytest", "ruff check .", "mypy"):
        assert line in page
        assert line in ci


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    """docs/hooks/generated_pages.py, which writes the reference when the site is built."""
    pytest.importorskip("mkdocs")
    file = DOCS / "hooks/generated_pages.py"
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[file.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", VISIBLE)
def test_every_option_has_an_entry_on_its_page(path: str, generator: ModuleType) -> None:
    place = f"reference/cli/{path.replace(' ', '-')}.md"
    page = generator.pages()[place]
    assert place in (REPO / "mkdocs.yml").read_text(encoding="utf-8"), "not in the navigation"
    for parameter in COMMANDS[path].params:
        if parameter.param_type_name == "option" and not parameter.hidden:
            for name in (*parameter.opts, *parameter.secondary_opts):
                assert re.search(rf"`{re.escape(name)}[ `]", page), name
            assert str(parameter.envvar) in page


# links


def links(path: Path) -> Iterator[tuple[str, str]]:
    """(FILE:LINE, target) of every link and image in the prose of a page."""
    for number, text in read_page(path).prose:
        outside = re.sub(r"(`+).+?\1", "", text) if "](" not in text else text
        for target in _LINK.findall(outside) + re.findall(r'(?:src|href)="([^"]+)"', outside):
            yield f"{path.relative_to(REPO)}:{number}", target


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs make them, and explicit ones."""
    found: set[str] = set()
    for _, text in read_page(path).prose:
        heading = re.match(r"#+ (.*?)(?: \{ ?#([\w-]+) ?\})?$", text)
        if heading:
            plain = re.sub(r"[^\w\s-]", "", re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading[1]))
            slug = re.sub(r"[\s]+", "-", plain.strip().lower())
            found |= {heading[2] or slug, re.sub("-+", "-", slug)}
        found |= set(re.findall(r'(?:id|name)="([^"]+)"', text))
        found |= set(re.findall(r"\{ ?#([\w-]+) ?\}", text))
    return found


def test_every_link_leads_somewhere(generator: ModuleType) -> None:
    generated = {DOCS / name: text for name, text in generator.pages().items()}
    wrong = []
    for page in READABLE:
        for at, target in links(page):
            if re.match(r"[a-z]+:", target):
                if not target.startswith(("https://", "mailto:", *HTTP_ONLY)):
                    wrong.append(f"{at}: not https: {target}")
                continue
            name, _, anchor = target.partition("#")
            there = (page.parent / name).resolve() if name else page
            if there in generated:
                found = set(re.findall(r"\{ #([\w-]+) \}", generated[there]))
                missing = anchor and f"#{anchor}" not in {f"#{a}" for a in found}
                missing = missing and anchor.startswith("--")
            else:
                on_page = anchor and there.suffix == ".md" and there.is_file()
                missing = not there.exists() or (on_page and anchor not in anchors(there))
            if missing:
                wrong.append(f"{at}: leads nowhere: {target}")
    assert not wrong, "\n".join(wrong)


def test_no_page_has_a_path_of_somebodys_machine() -> None:
    for path in [*PAGES, *OTHERS, REPO / "CHANGELOG.md"]:
        found = _MACHINE_PATH.findall(path.read_text(encoding="utf-8"))
        assert not found, f"{path.relative_to(REPO)}: {found}"
