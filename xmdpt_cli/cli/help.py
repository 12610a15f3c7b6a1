"""Help: options in panels, the width there is, defaults and choices shown; nothing is cut off.

Typer's own Rich panels cut names and words that do not fit 80 columns, and take text in square
brackets for markup. So the panels (``rich_help_panel``) are written as plain sections.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from typer.core import TyperCommand, TyperGroup

from xmdpt_cli.storage.stores import refuse_url

F = TypeVar("F", bound=Callable[..., Any])
GENERAL = "General"  # the last panel
WIDEST = 140  # columns: longer lines are hard to read
NAMES = 30  # columns of names; what is longer stands in a line of its own
_NETWORKS = {"model", "vae", "dino_source", "dino_pose", "openpose", "encoders"}
_GENERAL_OPTIONS = {"device", "json", "help"}
#: ``[the model's]`` at the end of an option's text: its default, in words
_DEFAULT = re.compile(r"\s*\[([^\[\]]+)\]\.?$")


def panels(groups: Mapping[str, str]) -> Callable[[F], F]:
    """Group a command's options in its help: ``@panels({"Data": "root size limit"})``.

    ``groups``: the panel's title -> names of options without dashes, in order.
    """
    title_of = {name: title for title, names in groups.items() for name in names.split()}

    def mark(command: F) -> F:
        command.panels = title_of  # type: ignore[attr-defined]
        return command

    return mark


def finish(root: Any) -> Any:
    """Give every option of every command its panel, its variable and its default in words."""
    for path, command in walk(root):
        title_of = getattr(command.callback, "panels", {})
        for parameter in command.params:
            name = option_name(parameter)
            if parameter.param_type_name != "option":
                continue
            general = name in _GENERAL_OPTIONS or not path
            parameter.rich_help_panel = title_of.get(name, GENERAL if general else None)
            if path and name != "help":
                parameter.envvar = variable(path, name)
            default = _DEFAULT.search(parameter.help or "")
            if default:
                parameter.help = parameter.help[: default.start()].rstrip(".") + "."
                parameter.default_in_words = default[1]
        if path and command.params:
            example = variable(path, _example(command))
            command.epilog = f"Every option can be set by a variable too: {example}=..."
    return root


def _example(command: Any) -> str:
    names = [option_name(p) for p in command.params if p.param_type_name == "option"]
    return next(name for name in ("steps", "out", *names) if name in names)


def walk(command: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """("", root), ("train", its command), ("bench data", ...)."""
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from walk(below, f"{path} {name}".strip())


def option_name(parameter: Any) -> str:
    """The longest name of an option, without dashes: ``--dry-run`` -> ``dry-run``."""
    return str(max(parameter.opts, key=len)).lstrip("-")


def variable(path: str, name: str) -> str:
    """("finetune-vae", "batch-size") -> ``XMDPT_FINETUNE_VAE_BATCH_SIZE``."""
    return re.sub(r"[ -]", "_", f"xmdpt {path} {name}").upper()


def _record(context: Any, parameter: Any) -> tuple[str, str] | None:
    # errors name the variable; in the help its name would stand at every option
    parameter.show_envvar = False
    record = parameter.get_help_record(context)
    parameter.show_envvar = True
    if record is None:
        return None
    names = re.sub(r"<list\[(.+)\]>", lambda kind: f"<{_kind(kind[1])}>", record[0])
    names = names.replace(" range>", ">")
    words = getattr(parameter, "default_in_words", None)
    if parameter.secondary_opts and isinstance(parameter.default, bool):
        return names, f"{parameter.help}  [default: {'on' if parameter.default else 'off'}]"
    if not words:
        return names, record[1]
    range_ = re.search(r"  \[([^\[\]]*)\]$", record[1])  # Typer's own, of a number's range
    text = record[1][: range_.start()] if range_ else record[1]
    return names, f"{text}  [default: {words}{f'; {range_[1]}' if range_ else ''}]"


def _kind(name: str) -> str:
    """``Path`` -> ``path``; choices stay as they are."""
    return name if "|" in name else name.lower()


def _write_list(formatter: Any, rows: Sequence[tuple[str, str]]) -> None:
    """Names, and what they mean in a column of its own; lines break between words alone."""
    indent, width = formatter.current_indent, formatter.width
    column = min(max(len(name) for name, _ in rows), NAMES) + 2
    for name, text in rows:
        lines = textwrap.wrap(
            text, max(width - indent - column, 20), break_on_hyphens=False, break_long_words=False
        )
        beside = len(name) <= column - 2
        formatter.write(
            " " * indent + (f"{name:<{column}}{lines.pop(0)}" if beside else name) + "\n"
        )
        for line in lines:
            formatter.write(" " * (indent + column) + line + "\n")


def _write_options(command: Any, context: Any, formatter: Any) -> None:
    sections: dict[str, list[tuple[str, str]]] = {}
    general: list[tuple[str, str]] = []
    for parameter in command.get_params(context):
        record = _record(context, parameter)
        if record is None:
            continue
        if parameter.param_type_name == "argument":
            title = "Arguments"
        else:
            title = getattr(parameter, "rich_help_panel", None) or GENERAL
        rows = general if title == GENERAL else sections.setdefault(title, [])
        rows.append(record)
    order = list(dict.fromkeys(getattr(command.callback, "panels", {}).values()))
    for title in sorted(sections, key=lambda title: order.index(title) if title in order else -1):
        with formatter.section(title):
            _write_list(formatter, sections[title])
    if general:
        with formatter.section(GENERAL):
            _write_list(formatter, general)


def refuse_urls(command: Any, values: Mapping[str, Any]) -> None:
    """ConfigError for a URL where a path of this machine, or a hub id, is taken."""
    called = {
        p.name: str(p.name).upper() if p.param_type_name == "argument" else p.opts[0]
        for p in command.params
    }
    for name, value in values.items():
        option = called.get(name, name)
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(one, Path) or (isinstance(one, str) and name in _NETWORKS):
                refuse_url(option, one, hub=name in _NETWORKS)


class Command(TyperCommand):
    """A command whose options are shown in panels, and whose paths are no URLs."""

    def invoke(self, ctx: Any) -> Any:
        refuse_urls(self, ctx.params)
        return super().invoke(ctx)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_options(self, ctx, formatter)


class Group(TyperGroup):
    """A command with commands below it."""

    def invoke(self, ctx: Any) -> Any:
        refuse_urls(self, ctx.params)
        return super().invoke(ctx)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        self.format_commands(ctx, formatter)
        _write_options(self, ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """One line each, wrapped where it must be: Typer's own cut it."""
        rows = [
            (name, summary(command))
            for name, command in self.commands.items()
            if not command.hidden
        ]
        if rows:
            with formatter.section("Commands"):
                _write_list(formatter, rows)


def summary(command: Any) -> str:
    """The first sentence of a command's help."""
    text = (command.short_help or command.help or "").split("\n\n")[0]
    return re.split(r"(?<=\.)\s", " ".join(text.split()))[0].removesuffix(".")
