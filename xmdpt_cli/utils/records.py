"""Reads the JSON files that commands write: limited in size, validated by a schema.

Every file that may have been edited, copied incompletely or written by another program is read
here.
A schema is a ``TypedDict`` (of ``typing_extensions``), a dataclass or any other type that pydantic
checks; keys that it does not name are kept, so that files of a later version can be read.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xmdpt_cli.errors import XmdptError

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

#: bytes; the largest file that is written, the index of a shard of 100,000 images, is a tenth of it
LIMIT = 2**28
COPY_AGAIN = "copy it again from where it was made"


class RecordError(XmdptError):
    """A file does not match its schema."""


def read(schema: Any, path: Path, hint: str = COPY_AGAIN) -> Any:
    """The content of a JSON file. Raises RecordError, naming the file and the field."""
    try:
        if path.stat().st_size > LIMIT:
            raise _too_large(path, hint)
        data = path.read_bytes()
    except OSError as err:
        raise RecordError(f"cannot read {path}: {err.strerror or err}", hint) from None
    return parse(schema, data, path, hint)


def read_if_there(schema: Any, path: Path, hint: str = COPY_AGAIN) -> Any:
    """Like ``read``, but None if the file does not exist."""
    return read(schema, path, hint) if path.is_file() else None


def parse(schema: Any, data: bytes | str, where: object, hint: str = COPY_AGAIN) -> Any:
    """JSON text as ``schema``. ``where`` names it in errors. Raises RecordError.

    Nothing is converted: ``"5"`` is not an integer. A ``TypedDict`` is returned with the keys that
    it does not name.
    """
    from pydantic import ValidationError
    from pydantic_core import from_json

    if len(data) > LIMIT:
        raise _too_large(where, hint)
    try:
        checked = _adapter(schema).validate_json(data, strict=True)
    except ValidationError as err:
        raise RecordError(f"{where} {_reason(err)}", hint) from None
    return from_json(data) if isinstance(checked, dict) else checked


def check(schema: Any, value: object, where: object, hint: str = COPY_AGAIN) -> Any:
    """A value that was already read (TOML, metadata of tensors) as ``schema``. See ``parse``."""
    from pydantic import ValidationError

    try:
        checked = _adapter(schema).validate_python(value, strict=True)
    except ValidationError as err:
        raise RecordError(f"{where} {_reason(err)}", hint) from None
    return value if isinstance(checked, dict) else checked


@cache
def _adapter(schema: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(schema)


def _reason(err: ValidationError) -> str:
    """The first thing that is wrong: ``is damaged: counts.train.pairs must be a valid integer``."""
    first = err.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "json_invalid":
        return f"is not valid JSON ({first['ctx']['error']})"
    if first["type"] == "missing":
        return f"is damaged: {place} is missing"
    found = repr(first["input"])
    short = found if len(found) <= 40 else f"{found[:37]}..."
    wanted = re.sub("^(Input should be |Value error, )", "", first["msg"])
    if wanted == first["msg"]:  # of a length: "List should have at most 2 items after validation"
        wanted = re.sub(r"^\w+ should have | after validation.*", "", wanted)
        return f"is damaged: {place} should have {wanted}, not {short}"
    return f"is damaged: {place or 'its content'} should be {wanted}, not {short}"


def _too_large(where: object, hint: str) -> RecordError:
    return RecordError(
        f"{where} is larger than {LIMIT // 2**20} MiB: xmdpt wrote no such file", hint
    )
