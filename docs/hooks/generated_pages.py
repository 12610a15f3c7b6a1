"""MkDocs hook: writes the command reference and the changelog into the site at build time.

``reference/cli/COMMAND.md`` comes from the commands themselves, so a page cannot differ from
``xmdpt COMMAND --help``. ``mkdocs.yml`` names this file under ``hooks``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from xmdpt_cli.cli import app
from xmdpt_cli.cli.help import walk

CHANGELOG = Path(__file__).resolve().parents[2] / "CHANGELOG.md"
FOLDER = "reference/cli"
_COMMANDS_HERE = "COMMANDS\n"  # a line of its own
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
#: what Typer appends to a help text: ``[default: 0]``, ``[default: 8; x>=1]``, ``[required]``
_EXTRA = re.compile(r"\s*\[([^\[\]]+)\]$")
_NEXT = re.compile(r"; (?=required$|[\d.x<>=]+$)")  # a default in words has semicolons of its own


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to the site."""
    for uri, text in pages().items():
        files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the list of commands where ``reference/cli/index.md`` has its mark."""
    return markdown.replace(_COMMANDS_HERE, _list(dict(commands())) + "\n")


def pages() -> dict[str, str]:
    """Markdown of every generated page, by its path in ``docs/``."""
    texts = {f"{FOLDER}/{slug(path)}.md": command_page(path, it) for path, it in commands()}
    return texts | {"changelog.md": CHANGELOG.read_text(encoding="utf-8")}


def commands() -> Iterator[tuple[str, Any]]:
    """("train", its command), ("bench data", ...): every visible command and subcommand."""
    yield from ((path, it) for path, it in walk(app.build()) if path and not it.hidden)


def slug(path: str) -> str:
    """Name of a command's page: "bench data" -> "bench-data"."""
    return path.replace(" ", "-")


def command_page(path: str, command: Any) -> str:
    """The page of a command: usage, help text, arguments, then one section for each panel."""
    context = command.make_context(f"xmdpt {path}", [], resilient_parsing=True)
    link = _linker({name: _anchor(p) for p in command.params for name in _names(p)})
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    below = getattr(command, "commands", {})
    summary, *rest = (link(_escape(text)) for text in (command.help or "").split("\n\n"))
    usage = " ".join(["xmdpt", path, "[OPTIONS]", *map(_value, arguments)])
    usage += f"\nxmdpt {path} COMMAND [OPTIONS]" if below else ""
    blocks = [f"# xmdpt {path}", summary, f"```text\n{usage}\n```", *rest]
    if below:
        blocks += ["## Subcommands", _list({f"{path} {name}": it for name, it in below.items()})]
    title = ""
    for parameter in arguments + options:
        panel = parameter.rich_help_panel if parameter in options else "Arguments"
        if panel != title:
            title = panel
            blocks.append(f"## {title}")
        blocks.append(_entry(parameter, context, link))
    if title != "General":
        blocks.append("## General")
    blocks.append("[`-h`, `--help`](#--help) { #--help }\n:   Print the options of the command.")
    return "\n\n".join(blocks) + "\n"


def _entry(parameter: Any, context: Any, link: Callable[[str], str]) -> str:
    """One item of a definition list: names and value, then text, choices, default, variable."""
    parameter.show_envvar = False  # it has a place of its own below
    text, extra = _split(parameter.get_help_record(context)[1].replace(r"\[", "["))
    choices = parameter.type_descriptor.choices if parameter.type_descriptor.is_choice else None
    details = []
    if choices and "Choices:" not in text:
        details.append("Choices: " + ", ".join(f"`{choice}`" for choice in choices))
    details += [_detail(item) for item in extra]
    if parameter.multiple:
        details.append("Can be repeated")
    if parameter.param_type_name == "argument":
        name, anchor = f"`{_value(parameter)}`", parameter.name
    else:
        name, anchor = ", ".join(f"`{n}`" for n in _names(parameter)), _anchor(parameter)
        if parameter.metavar:
            name += f" `{parameter.metavar}`"
        if parameter.envvar:
            details.append(f"Variable: `{parameter.envvar}`")
    lines = [f"[{name}](#{anchor}) {{ #{anchor} }}", f":   {link(_escape(text))}"]
    if details:
        lines += ["", f"    {' · '.join(details)}", "    { .details }"]
    return "\n".join(lines)


def _value(argument: Any) -> str:
    """An argument in a usage line: ``SOURCE``, or ``[NAME]`` if it can be left out."""
    name = argument.name.upper()
    return name if argument.required else f"[{name}]"


def _split(text: str) -> tuple[str, list[str]]:
    """("Random seed.", ["default: 0"]) of "Random seed. [default: 0]"."""
    extra: list[str] = []
    while found := _EXTRA.search(text):
        extra[:0] = _NEXT.split(found[1])
        text = text[: found.start()]
    return text.strip(), extra


def _detail(item: str) -> str:
    """One detail of Typer's, as Markdown: "default: 8" -> "Default: `8`"."""
    key, colon, value = item.partition(": ")
    if not colon:
        return "Required" if item == "required" else f"Range: `{item}`"
    plain = f"`{value}`" if " " not in value else _escape(value)
    return f"{key.capitalize()}: {plain}"


def _list(listed: dict[str, Any]) -> str:
    """A list of commands with the first sentence of their help, each linked to its page."""
    first = {path: _escape((it.help or "").split("\n\n")[0]) for path, it in listed.items()}
    return "\n".join(f"- [`xmdpt {path}`]({slug(path)}.md): {first[path]}" for path in listed)


def _escape(text: str) -> str:
    """The text with Markdown's and HTML's special characters as plain characters."""
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", text)


def _names(parameter: Any) -> list[str]:
    """All names of an option: ``--train`` and ``--no-train``."""
    return [*parameter.opts, *parameter.secondary_opts]


def _anchor(parameter: Any) -> str:
    """The name under which an option is found on its page."""
    longest: str = max(parameter.opts, key=len)
    return longest


def _linker(own: dict[str, str]) -> Callable[[str], str]:
    """A function that links a page's own options (name -> anchor) in a text, and puts others in
    code font."""
    anchors = {**own, "--help": "--help"}

    def shown(found: re.Match[str]) -> str:
        name = found[0]
        return f"[`{name}`](#{anchors[name]})" if name in anchors else f"`{name}`"

    return lambda text: _OPTION.sub(shown, text)
