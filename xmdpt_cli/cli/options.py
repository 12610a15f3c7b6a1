"""Options that several commands share, and options made from dataclasses."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import logging
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer

from xmdpt_cli.utils.devices import pick_device as pick_device

T = TypeVar("T")

LONGEST_CHOICES = 18  # columns of ``a|b|c`` beside a name: more would be broken within words
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Device = Annotated[
    str,
    typer.Option(help="Device: cpu, cuda, cuda:1, mps (untested); auto: cuda if available."),
]
DataDir = Annotated[
    str | None,
    typer.Option("--data", help="Prepared dataset: folder or URL [the newest in data/]."),
]
EncodersDir = Annotated[
    Path | None,
    typer.Option(
        "--encoders", help="Folder with vae/, dino_source/ and dino_pose/, instead of each option."
    ),
]
DataCache = Annotated[
    Path | None,
    typer.Option(help="Folder for a local copy of a remote dataset; it is copied once, then read."),
]
TrainingVae = Annotated[
    str | None,
    typer.Option(help="VAE for --online and --validate-every: hub id or folder [the dataset's]."),
]
OnlineDinoSource = Annotated[
    str | None,
    typer.Option(help="Source DINOv2 for --online: hub id or folder [the dataset's]."),
]
OnlineDinoPose = Annotated[
    str | None, typer.Option(help="Pose DINOv2 for --online: hub id or folder [the dataset's].")
]
Force = Annotated[
    bool, typer.Option("--force", help="Resume with changed settings, where a run allows it.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and write nothing.")]


def with_options(kind: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command that takes ``**flags`` an option for every field of a settings dataclass.

    Fields without a help text are not options. A flag that is not given is None. Help shows the
    field's text and default.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True).parameters.values()
        parameters = {p.name: (p.annotation, p.default) for p in own if p.kind is not p.VAR_KEYWORD}
        for field in dataclasses.fields(kind):
            if "help" in field.metadata:
                metavar, choices = _choices(field)
                text = field.metadata["help"].removesuffix(".")
                option = typer.Option(
                    *field.metadata["names"],
                    help=f"{text}.{choices}{_default(field.default)}",
                    metavar=metavar,
                )
                parameters[field.name] = (Annotated[_type(field) | None, option], None)
        return _signed(command, command, parameters)

    return decorate


def options_from(kind: type[T]) -> Callable[[Callable[[T], None]], Callable[..., None]]:
    """Give a command an option for every field of a dataclass whose fields are annotated options.

    The command takes one argument, the dataclass.
    """

    def decorate(command: Callable[[T], None]) -> Callable[..., None]:
        own = inspect.signature(kind, eval_str=True).parameters.values()
        parameters = {p.name: (p.annotation, p.default) for p in own}
        return _signed(command, lambda **values: command(kind(**values)), parameters)

    return decorate


def _signed(
    command: Callable[..., None], call: Callable[..., None], parameters: Mapping[str, Any]
) -> Callable[..., None]:
    """``call`` under the name and help of ``command``, with these parameters for Typer.

    ``parameters``: name -> annotation and default.
    """

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        call(**arguments)

    kind = inspect.Parameter.KEYWORD_ONLY
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(name, kind, default=default, annotation=annotation)
            for name, (annotation, default) in parameters.items()
        ]
    )
    run.__annotations__ = {name: found[0] for name, found in parameters.items()} | {"return": None}
    return run


def _type(field: dataclasses.Field[Any]) -> Any:
    if field.metadata["choices"]:
        return Literal[field.metadata["choices"]]
    # a number that can also be a word is text
    name = "str" if field.metadata["words"] else str(field.type)
    return {"bool": bool, "int": int, "float": float, "str": str}[name]


def _choices(field: dataclasses.Field[Any]) -> tuple[str | None, str]:
    """Metavar and text for the choices of a field; (None, "") if Typer can list them itself."""
    choices = field.metadata["choices"]
    if len("|".join(choices)) <= LONGEST_CHOICES:
        return None, ""
    return "<choice>", f" Choices: {', '.join(choices)}."


def _default(value: Any) -> str:
    if isinstance(value, bool):
        value = "on" if value else "off"
    elif isinstance(value, float):
        value = f"{value:g}"
    return "" if value == "" else f" [{value}]"


def quiet_libraries() -> None:
    """Turn off the progress bars and notices of libraries."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    # torch warns at every first compilation without a GPU
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    # photographs of 108 megapixels are common; Pillow refuses images twice as large
    warnings.filterwarnings("ignore", message="Image size .* exceeds limit")


def plain(value: Any) -> Any:
    """Replace paths by strings, for JSON."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
