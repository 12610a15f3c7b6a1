"""Additions to Typer's help: panels, environment variables, and defaults in words.

Typer and Rich render the help. A command lists its panels with ``panels``; ``finish`` passes them
to Typer. On terminals narrower than 80 columns, where Rich would crop names, Typer's plain help is
shown.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from typer.core import TyperCommand, TyperGroup

from xmdpt_cli.errors import ConfigError
from xmdpt_cli.storage.stores import refuse_url

F = TypeVar("F", bound=Callable[..., Any])
GENERAL = "General"  # the last panel
NARROWEST = 80  # columns that Rich's panels need
#: options that take a hub id as well as a path
_ENCODERS = {"model", "vae", "dino_source", "dino_pose", "openpose", "encoders"}
_GENERAL_OPTIONS = {"device", "json"}
#: ``[the model's]`` at the end of an option's text: its default, in words
_DEFAULT = re.compile(r"\s*\[([^\[\]]+)\]\.?$")
#: Typer's name of an option's value, such as ``<int range>`` or ``<list[Path]>``
_TYPE = re.compile(r"<(?:list\[)?(\w+)(?: range)?\]?>")


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
            if parameter.metavar is None:
                parameter.metavar = _metavar(parameter)
            text = _text(parameter)
            parameter.help = text.replace("[", r"\[") if rich else text  # no Rich markup
        command.params.sort(key=lambda p: _place(order, option_name(p)))
        if path and command.params:
            example = variable(path, _example(command))
            command.epilog = f"Every option can also be set by an environment variable: {example}"
    return root


def _metavar(parameter: Any) -> str | None:
    """Name of an option's value: ``<int>`` for a range or a list of ints; none for a flag."""
    if parameter.is_flag:
        return ""
    if parameter.type_descriptor.is_choice:
        return None  # Typer lists the choices
    found = _TYPE.fullmatch(parameter.display_type(None))
    names = {"str": "text", "Path": "path"}
    return f"<{names.get(found[1], found[1])}>" if found else None


def _text(parameter: Any) -> str:
    """The help text of an option, with a default in words formatted like Typer's defaults."""
    text = parameter.help or ""
    default = _DEFAULT.search(text)
    if default:
        return f"{text[: default.start()].rstrip('.')}. [default: {default[1]}]"
    if parameter.is_flag and parameter.secondary_opts and parameter.default is not None:
        parameter.show_default = False  # Typer's default is the option's name
        return f"{text} [default: {'on' if parameter.default else 'off'}]"
    return text


def _place(order: list[str], name: str) -> int:
    """Position of an option in the help; options without a panel are last."""
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
    option_names = {
        p.name: str(p.name).upper() if p.param_type_name == "argument" else p.opts[0]
        for p in command.params
    }
    for name, value in values.items():
        hub = name in _ENCODERS
        for item in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(item, Path) or (isinstance(item, str) and hub):
                refuse_url(option_names.get(name, name), item, hub=hub)


def refuse_repeats(given: Sequence[Any]) -> None:
    """ConfigError for an option of one value that is given more than once: the last value would
    silently replace the others. ``given``: a parameter for each time it is given."""
    for parameter in given:
        one_value = parameter.param_type_name == "option" and not (
            parameter.is_flag or parameter.multiple or parameter.count
        )
        if one_value and given.count(parameter) > 1:
            name = f"--{option_name(parameter)}"
            raise ConfigError(f"{name} is given more than once", "it takes one value")


class _CommandMixin:
    """Refuses URLs for paths, and repeated options. Lists --help in the last panel, and omits
    variables from the help."""

    params: list[Any]

    def make_parser(self, ctx: Any) -> Any:
        parser = super().make_parser(ctx)  # type: ignore[misc]
        parse = parser.parse_args

        def parse_args(args: list[str]) -> Any:
            values, rest, given = parse(args)
            if not ctx.resilient_parsing:  # not for shell completion
                refuse_repeats(given)
            return values, rest, given

        parser.parse_args = parse_args
        return parser

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
            option.rich_help_panel, option.metavar = GENERAL, ""
        return option


class Command(_CommandMixin, TyperCommand):
    """A command of xmdpt."""


class Group(_CommandMixin, TyperGroup):
    """A command with subcommands."""
