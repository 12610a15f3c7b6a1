"""Configuration: frozen dataclasses, strict TOML, and one order of precedence.

flag > environment > ``--config FILE.toml`` > ``--preset`` > default. The environment
(``XMDPT_TRAIN_STEPS=...``) is read by the command line, as flags are. A TOML file has one table a
command (``[train]``); a key that is not a field is an error by name. ``base = "paper/S-256"`` above
the table inherits the settings of a preset, which may itself have a base.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import sys
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from xmdpt_cli.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")

LIMIT = 2**20  # characters of a configuration file
LARGEST = 2**63 - 1  # integer
_TYPES = {"int": "an integer", "float": "a number", "str": "a string", "bool": "true or false"}


def option(
    default: T, text: str, choices: tuple[str, ...] = (), names: tuple[str, ...] = (), **words: T
) -> T:
    """A field that is also an option of a command, with its default and help text.

    ``choices``: the only values it takes. ``names``: the option's names, if not the field's.
    ``words``: words that stand for values, such as ``auto=0``.
    """
    metadata = {"help": text, "choices": choices, "names": names, "words": words}
    return dataclasses.field(default=default, metadata=metadata)


def check_choices(config: Any) -> None:
    """ConfigError for a field whose value is not one of its choices."""
    for field in dataclasses.fields(config):
        allowed, value = field.metadata.get("choices"), getattr(config, field.name)
        if allowed and value not in allowed:
            raise ConfigError(f"{field.name} must be one of {', '.join(allowed)}, not {value!r}")


def at_least(config: Any, least: float, *names: str) -> None:
    """ConfigError for a field that is below ``least`` or not finite."""
    for name in names:
        value = getattr(config, name)
        if not (value >= least and math.isfinite(value)):
            raise ConfigError(f"{name} must be at least {least}, not {value}")


def resolve(
    kind: type[T],
    section: str,
    flags: Mapping[str, Any],
    *,
    file: Path | None = None,
    preset: str | None = None,
) -> T:
    """Build ``kind`` from every layer; ``flags`` that are None were not given.

    Raises ConfigError by name, also for a preset together with a file that has a base.
    """
    values: dict[str, Any] = {}
    for layer in layers(kind, section, file=file, preset=preset):
        values.update(layer.values)
    given = {k: v for k, v in flags.items() if v is not None}
    values.update({k: _typed(kind, k, v, f"--{k.replace('_', '-')}") for k, v in given.items()})
    return kind(**values)


class Layer(NamedTuple):
    """The settings that one preset or file sets itself."""

    where: str  # name of the preset, or path of the file
    values: dict[str, Any]


def layers(
    kind: type[Any], section: str, *, file: Path | None = None, preset: str | None = None
) -> list[Layer]:
    """The preset and the file with their bases; a later layer overrides an earlier one.

    Raises ConfigError.
    """
    found: list[Layer] = []
    if preset is not None:
        found = _with_bases(kind, section, preset_of(section, preset), preset)
    if file is not None:
        own = _with_bases(kind, section, read_toml(file), str(file))
        if found and len(own) > 1:
            raise ConfigError(
                f"{file} has a base, {own[-2].where}: it cannot be used with --preset {preset}",
                "leave out --preset, or the line with the base",
            )
        found += own
    return found


def _with_bases(kind: type[Any], section: str, text: str, where: str) -> list[Layer]:
    """The layer of a TOML text, after those of its bases."""
    found: list[Layer] = []
    while True:
        document = parse_toml(text, where)
        base = document.pop("base", None)
        found.insert(0, Layer(where, _section(kind, section, document, where)))
        if base is None:
            return found
        example = 'for example base = "paper/S-256"'
        if not isinstance(base, str):
            raise ConfigError(f"{where}: base must be the name of a preset, not {base!r}", example)
        if base in [layer.where for layer in found]:
            chain = " -> ".join([*(layer.where for layer in reversed(found)), base])
            raise ConfigError(f"{where}: base {base!r} is a cycle: {chain}", example)
        try:
            text, where = preset_of(section, base), base
        except ConfigError as err:
            hint = "a base is the name of a preset, not a file; xmdpt presets lists all"
            hint = hint if base.endswith(".toml") else err.hint
            raise ConfigError(f"{where}: base: {err.message}", hint) from None


def differing(config: Any) -> dict[str, tuple[Any, Any]]:
    """Fields whose value is not the default: name -> (value, default)."""
    found = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != field.default:
            found[field.name] = (value, field.default)
    return found


def dump(section: str, config: Any) -> str:
    """The resolved configuration as TOML, readable by ``resolve``."""
    import tomli_w

    return tomli_w.dumps({section: dataclasses.asdict(config)})


def presets() -> list[str]:
    """Names of the recipes that ship with the package, e.g. ``paper/S-256``."""
    root = resources.files("xmdpt_cli") / "presets"
    return sorted(
        f"{folder.name}/{file.name.removesuffix('.toml')}"
        for folder in root.iterdir()
        if folder.is_dir()
        for file in folder.iterdir()
        if file.name.endswith(".toml")
    )


def nearest(name: str, known: Sequence[str], limit: int = 5) -> str:
    """The start of a hint: the names of ``known`` (at most ``limit``) that contain ``name`` (three
    characters or more), else those that are spelled like it; "" if there are none."""
    holding = [one for one in known if len(name) > 2 and name.lower() in one.lower()]
    found = holding or difflib.get_close_matches(name, known, limit)
    return f"did you mean {', '.join(found[:limit])}? " if found else ""


def complete_preset(prefix: str) -> list[str]:
    """Names of presets that start with ``prefix``, for shell completion."""
    return [name for name in presets() if name.startswith(prefix)]


def preset_of(command: str, name: str) -> str:
    """The TOML text of a command's preset. Raises ConfigError for one of another command."""
    message = f"no such preset: {name!r}"
    if name in presets():
        text = preset_text(name)
        tables = parse_toml(text, name)
        if command in tables:
            return text
        others = " and ".join(f"xmdpt {table}" for table in tables if table != "base")
        message = f"preset {name} is not of this command: it sets options of {others}"
    own = [one for one in presets() if command in parse_toml(preset_text(one), one)]
    raise ConfigError(message, _known_presets(name, own))


def _known_presets(name: str, known: Sequence[str]) -> str:
    """The hint for a preset that is none of ``known``."""
    if name.endswith(".toml"):
        return "a preset is a name, not a file (--config reads a file); xmdpt presets lists all"
    return nearest(name, known) + "xmdpt presets lists all"


def preset_text(name: str) -> str:
    """The TOML text of a preset. Raises ConfigError for an unknown name."""
    if name not in presets():
        raise ConfigError(f"no such preset: {name!r}", _known_presets(name, presets()))
    return (resources.files("xmdpt_cli") / "presets" / f"{name}.toml").read_text(encoding="utf-8")


def read_toml(file: Path) -> str:
    """The text of a configuration file. Raises ConfigError."""
    try:
        with open(file, encoding="utf-8-sig") as stream:  # some editors begin it with a mark
            text = stream.read(LIMIT + 1)
    except OSError as err:
        hint = "xmdpt presets lists recipes to start from: xmdpt presets paper/S-256"
        raise ConfigError(f"cannot read {file}: {err.strerror}", hint) from None
    except UnicodeDecodeError as err:
        raise ConfigError(f"cannot read {file}: {err}", "save it as UTF-8") from None
    if len(text) > LIMIT:
        raise ConfigError(
            f"{file} is larger than a configuration file may be ({LIMIT // 2**20} MiB)"
        )
    return text


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """TOML as plain data; ``where`` names it in errors. Raises ConfigError."""
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as err:  # also: numbers of thousands of digits
        raise ConfigError(f"{where} is not valid TOML: {err}") from None


def _section(kind: type[Any], section: str, document: dict[str, Any], where: str) -> dict[str, Any]:
    for name in sorted(set(document) - {section}):
        if name in {field.name for field in dataclasses.fields(kind)}:
            raise ConfigError(
                f"{where}: {name} is a setting of [{section}]",
                f"write it below a line [{section}]",
            )
        what = "table" if isinstance(document[name], dict) else "key"
        raise ConfigError(f"{where}: unknown {what} {name!r}", f"this command reads [{section}]")
    table = document.get(section, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: {section!r} must be a table", f"write [{section}]")
    if "base" in table:
        raise ConfigError(
            f"{where}, [{section}]: base is no setting of the table",
            f"write the line above [{section}]",
        )
    return {k: _typed(kind, k, v, f"{where}, [{section}] {k}") for k, v in table.items()}


def _parsed(kind: type[Any], name: str, text: str, where: str) -> Any:
    """A value from a string, by the field's type."""
    words = _field(kind, name).metadata.get("words", {})
    if text in words:
        return words[text]
    try:
        convert = {"int": int, "float": float, "str": str}[_type(kind, name)]
        return convert(text)
    except (KeyError, ValueError):
        raise _wrong_type(kind, name, text, where) from None


def _typed(kind: type[Any], name: str, value: Any, where: str) -> Any:
    if name not in {f.name for f in dataclasses.fields(kind)}:
        names = [f.name for f in dataclasses.fields(kind)]
        hint = nearest(name, names) or f"known keys: {', '.join(names)}"
        raise ConfigError(f"{where}: unknown key {name!r}", hint.strip())
    words = _field(kind, name).metadata.get("words", {})
    if words and isinstance(value, str):
        return _parsed(kind, name, value, where)
    wanted = _type(kind, name)
    if type(value) is int and abs(value) > LARGEST:
        raise ConfigError(f"{where} must be at most {LARGEST}")
    if wanted == "float" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value).__name__ != wanted:
        raise _wrong_type(kind, name, value, where)
    return value


def _wrong_type(kind: type[Any], name: str, value: Any, where: str) -> ConfigError:
    import tomli_w

    field, wanted = _field(kind, name), _type(kind, name)
    words = [repr(word) for word in field.metadata.get("words", {})]
    message = f"{where} must be {' or '.join([_TYPES.get(wanted, wanted), *words])}, not {value!r}"
    if field.default is dataclasses.MISSING:
        return ConfigError(message)
    return ConfigError(message, f"for example {tomli_w.dumps({name: field.default}).strip()}")


def _type(kind: type[Any], name: str) -> str:
    """A field's type as written: annotations are strings here."""
    return str(_field(kind, name).type)


def _field(kind: type[Any], name: str) -> dataclasses.Field[Any]:
    return next(field for field in dataclasses.fields(kind) if field.name == name)
