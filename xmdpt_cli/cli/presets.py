"""``xmdpt presets``: the recipes that ship with the package."""

from __future__ import annotations

import re
import shutil
import textwrap
from typing import Annotated

import typer

from xmdpt_cli.cli.console import WIDEST, Talk
from xmdpt_cli.cli.help import panels
from xmdpt_cli.cli.options import AsJson
from xmdpt_cli.config import complete_preset, differing, parse_toml, preset_text, resolve
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

    A preset is a TOML file: copy it, change it, and use it with --config FILE.
    """
    talk = Talk(as_json)
    if name is None:
        found = {one: _about(one) for one in preset_names()}
        lines = [line for one, about in found.items() for line in _entry(one, about)]
        lines += ["", "show one, with the command that uses it: xmdpt presets NAME"]
        talk.result({"presets": found}, text="\n".join(lines))
        return
    text = preset_text(name)
    command, recipe = _recipe(name)
    changed = {key: value for key, (value, _) in differing(recipe).items()}
    talk.result(
        {"preset": name, "about": _about(name), "settings": changed},
        text=f"{text.strip()}\n\n{command} with it: xmdpt {command} --preset {name}",
    )


def _recipe(name: str) -> tuple[str, object]:
    """The command of a preset, and its settings."""
    if "distill" in parse_toml(preset_text(name), name):
        return "distill", resolve(DistillConfig, "distill", {}, preset=name)
    return "train", resolve(TrainConfig, "train", {}, preset=name)


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
