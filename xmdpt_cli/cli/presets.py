"""``xmdpt presets``: the recipes that ship with the package."""

from __future__ import annotations

import re
import shutil
import textwrap
from typing import Annotated, Any

import tomli_w
import typer

from xmdpt_cli.cli.console import WIDEST, Talk
from xmdpt_cli.cli.help import panels
from xmdpt_cli.cli.options import AsJson
from xmdpt_cli.config import complete_preset, differing, layers, parse_toml, preset_text, resolve
from xmdpt_cli.config import presets as preset_names
from xmdpt_cli.distillation.config import DistillConfig
from xmdpt_cli.training.config import TrainConfig


@panels({})
def presets(
    name: Annotated[
        str | None,
        typer.Argument(
            help="Preset to show; without it, all are listed.",
            autocompletion=complete_preset,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the presets of train and distill, or show one.

    A preset is a TOML file: copy it, change it, and use it with --config FILE. It inherits the
    settings of its base, if it names one; so does your file with a line base = "NAME" at the top.
    """
    talk = Talk(as_json)
    if name is None:
        found = {one: _about(one) for one in preset_names()}
        lines = [line for one, about in found.items() for line in _entry(one, about)]
        lines += ["", "show one, with the command that uses it: xmdpt presets NAME"]
        talk.result({"presets": found}, text="\n".join(lines))
        return
    text = preset_text(name).strip()
    kind, command = _kind(name)
    changed = {
        key: value for key, (value, _) in differing(resolve(kind, command, {}, preset=name)).items()
    }
    origins = _origins(kind, command, name)
    if set(origins.values()) != {name}:
        text += "\n\nwith its base, the settings that differ from the defaults:\n"
        text += _table(changed, origins)
    talk.result(
        {"preset": name, "about": _about(name), "settings": changed, "set_by": origins},
        text=f"{text}\n\n{command} with it: xmdpt {command} --preset {name}",
    )


def _kind(name: str) -> tuple[type[Any], str]:
    """The settings that a preset is of, and their command."""
    if "distill" in parse_toml(preset_text(name), name):
        return DistillConfig, "distill"
    return TrainConfig, "train"


def _origins(kind: type[Any], command: str, name: str) -> dict[str, str]:
    """Setting -> the preset that sets it: this one, or one of its bases."""
    found = layers(kind, command, preset=name)
    return {key: layer.where for layer in found for key in layer.values}


def _table(settings: dict[str, Any], origins: dict[str, str]) -> str:
    """TOML lines, each with the preset that sets its value."""
    lines = [tomli_w.dumps({key: value}).strip() for key, value in settings.items()]
    width = max(map(len, lines))
    return "\n".join(
        f"{line:{width}}  # {origins[key]}" for line, key in zip(lines, settings, strict=True)
    )


def _about(name: str) -> str:
    """The first sentence of the comment above a preset."""
    comment = []
    for line in preset_text(name).splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.lstrip("# "))
    text = " ".join(comment)
    return re.split(r"(?<!sec)(?<!et al)\. ", text)[0].rstrip(".")


def _entry(name: str, about: str) -> list[str]:
    """Lines with a preset's name and description, wrapped to the terminal's width."""
    width = min(shutil.get_terminal_size().columns, WIDEST)
    return [name, *textwrap.wrap(about, width, initial_indent="    ", subsequent_indent="    ")]
