"""Additions to Typer's help: panels, environment variables, and defaults in words.

Typer and Rich write the help. A command lists its panels with ``panels``; ``finish`` passes them to
Typer. On terminals narrower than 80 columns, where Rich would crop names, Typer's plain help is
shown.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from typer.core import TyperCommand, TyperGroup

from xmdpt_cli.storage.stores import refuse_url

F = TypeVar("F", bound=Callable[..., Any])
GENERAL = "General"  # the last panel
NARROWEST = 80  # columns that Rich's panels need
#: options that take a hub id as well as a path
_ENCODERS = {"model", "vae", "dino_source", "dino_pose", "openpose", "encoders"}
_GENERAL_OPTIONS = {"device", "json"}
#: ``[the model's]`` at the end of an option's text: its default, in words
_DEFAULT = re.compile(r"\s*\[([^\[\]]+)\]\.?$")


def panels(groups: Mapping[str, str]) -> Callable[[F], F]:
    """Group a command's options in its help: ``@panels({"Data": "root size limit"})``.

    ``groups``: title of the panel -> names of options without dashes, in order.
    """
    title_of = {name: title for title, names in groups.items() for name in names.split()}

    def mark(command: F) -> F:
        command.panels = title_of  # type: ignore[attr-defined]
        return command

    return mark


def finish(root: Any) -> Any:
    """Set the panel, the variable and the default in words of every option of every command."""
    rich = shutil.get_terminal_size().columns >= NARROWEST
    for path, command in walk(root):
        command.rich_markup_mode = "rich" if rich else None
        paragraphs = (command.help or "").split("\n\n")
        command.help = "\n\n".join(" ".join(text.split()) for text in paragraphs)
        title_of = getattr(command.callback, "panels", {})
        order = list(title_of)
        for parameter in command.params:
            name = option_name(parameter)
            if parameter.param_type_name != "option":
                continue
            parameter.rich_help_panel = title_of.get(name, GENERAL)
            if path:
                parameter.envvar = variable(path, name)
            text = _text(parameter)
            parameter.help = text.replace("[", r"\[") if rich else text  # no Rich markup
        command.params.sort(key=lambda p: _place(order, option_name(p)))
        if path and command.params:
            example = variable(path, _example(command))
            command.epilog = f"Every option can be set by a variable too: {example}=..."
    return root


def _text(parameter: Any) -> str:
    """The help text of an option, with a default in words formatted like Typer's defaults."""
    text = parameter.help or ""
    default = _DEFAULT.search(text)
    if not default:
        return text
    return f"{text[: default.start()].rstrip('.')}. [default: {default[1]}]"


def _place(order: list[str], name: str) -> int:
    """Position of an option in the help; options without a panel come last."""
    return order.index(name) if name in order else len(order) + (name in _GENERAL_OPTIONS)


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


def refuse_urls(command: Any, values: Mapping[str, Any]) -> None:
    """ConfigError for a URL where only a path of this machine, or a hub id, is accepted."""
    called = {
        p.name: str(p.name).upper() if p.param_type_name == "argument" else p.opts[0]
        for p in command.params
    }
    for name, value in values.items():
        option = called.get(name, name)
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(one, Path) or (isinstance(one, str) and name in _ENCODERS):
                refuse_url(option, one, hub=name in _ENCODERS)


class _Ours:
    """Refuses URLs for paths. In the help, --help is in the last panel and one variable is named;
    errors name the variable that a value came from."""

    params: list[Any]

    def invoke(self, ctx: Any) -> Any:
        refuse_urls(self, ctx.params)
        return super().invoke(ctx)  # type: ignore[misc]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        for parameter in self.params:
            parameter.show_envvar = False
        super().format_help(ctx, formatter)  # type: ignore[misc]

    def get_help_option(self, ctx: Any) -> Any:
        option = super().get_help_option(ctx)  # type: ignore[misc]
        if option is not None:
            option.rich_help_panel = GENERAL
        return option


class Command(_Ours, TyperCommand):
    """A command of xmdpt."""


class Group(_Ours, TyperGroup):
    """A command with commands below it."""
