"""A folder of generated images: its record samples.json and its contact sheet sheet.png.

The record stores the settings, so that images of different settings are never mixed in one folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Len
from typing_extensions import NotRequired, TypedDict

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import write_text, writing
from xmdpt_cli.images import ImageArray, fast_png_bytes, save_bytes
from xmdpt_cli.report.contact_sheet import contact_sheet
from xmdpt_cli.sampling.png_writer import png_text
from xmdpt_cli.utils import records
from xmdpt_cli.utils.safe_names import is_below

RECORD, SHEET = "samples.json", "sheet.png"
SHEET_ROWS = 16
OTHER_OUT = "choose another --out"


class SamplingRecord(TypedDict):
    """The sampling settings, see ``SamplingConfig``; earlier versions did not store all."""

    steps: NotRequired[int]
    guidance: NotRequired[float]
    power: NotRequired[float]
    seed: NotRequired[int]
    solver: NotRequired[str]
    spacing: NotRequired[str]
    interval: NotRequired[Annotated[list[float], Len(2, 2)]]
    cache: NotRequired[float]  # an earlier version stored an angle in degrees, 0.0 for none


class SamplesRecord(TypedDict):
    """samples.json: of pairs of a dataset, or of a user's own images (``files``, ``sources``)."""

    format: NotRequired[str]
    sampling: NotRequired[SamplingRecord]
    precision: NotRequired[str]
    trained_steps: NotRequired[int | None]
    toy: NotRequired[bool]
    vae: NotRequired[str]
    data: NotRequired[list[str]]
    split: NotRequired[str]
    complete: NotRequired[list[str]]
    files: NotRequired[list[str]]
    sources: NotRequired[list[str]]


def read_record(out: Path) -> dict[str, Any]:
    """The record of a folder. Raises XmdptError if it cannot be read or is not a record."""
    record: dict[str, Any] = records.read(SamplesRecord, out / RECORD, OTHER_OUT)
    sampling = record.get("sampling", {})
    if sampling.get("cache") == 0:
        sampling["cache"] = 1
    for name in (*record.get("complete", ()), *record.get("files", ())):
        if not is_below(name):
            raise XmdptError(
                f"{out / RECORD} names {name!a}, which is not an image of xmdpt", OTHER_OUT
            )
    return record


def write_record(out: Path, record: Mapping[str, Any]) -> None:
    with writing(out / RECORD):
        write_text(out / RECORD, json.dumps(record, indent=1))


def save_sheet(
    out: Path,
    rows: Sequence[Sequence[ImageArray]],
    columns: Sequence[str],
    metadata: Mapping[str, Any],
) -> None:
    """Write the contact sheet of a folder. Images are uint8 (H, W, 3), one for each column; the
    column "generated" is "TOY output" where ``metadata`` names a toy model."""
    if metadata.get("toy"):
        columns = ["TOY output" if name == "generated" else name for name in columns]
    sheet = contact_sheet(rows, columns, blocks=2 if len(rows) > 4 else 1)
    with writing(out / SHEET):
        save_bytes(out / SHEET, fast_png_bytes(sheet, png_text(metadata)))


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The settings of ``now`` that differ in ``before``: ``steps (there 20, now 50)``, or only the
    name where the values are long. The sampling settings are compared one by one."""
    settings = set(now.get("sampling", {}))
    wanted, existing = _flat(now), _flat(before)
    return [
        f"{key} (there {existing.get(key)}, now {value})"
        if key in settings or isinstance(value, (bool, int))
        else key
        for key, value in wanted.items()
        if existing.get(key) != value
    ]


def refuse_others(what: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """XmdptError if the folder ``what`` was generated with other settings."""
    differs = differences(before, now)
    if differs:
        raise XmdptError(
            f"{what} holds samples of other settings; what differs: {', '.join(differs)}", OTHER_OUT
        )


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    settings = {key: value for key, value in record.items() if key != "sampling"}
    sampling = record.get("sampling")
    # earlier versions had no cache, and did not store that
    return {**settings, **({"cache": 1, **sampling} if sampling else {})}
