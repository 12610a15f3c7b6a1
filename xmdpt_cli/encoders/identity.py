"""The three encoders in records, folders, options and messages; how two records are compared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from typing_extensions import NotRequired, TypedDict

from xmdpt_cli.errors import XmdptError


class Part(NamedTuple):
    """One of the encoders."""

    folder: str  # its name in a folder of encoders
    option: str  # that names another folder
    what: str  # its name in messages


#: by the key under "encoders" in a dataset's and a model's record
PARTS = {
    "vae": Part("vae", "--vae", "VAE"),
    "source": Part("dino_source", "--dino-source", "DINOv2 of the source"),
    "pose": Part("dino_pose", "--dino-pose", "DINOv2 of the pose"),
}
FOLDERS = tuple(part.folder for part in PARTS.values())


class EncoderRecord(TypedDict):
    """One network in a record, see ``Origin.describe``."""

    kind: str
    id: str
    revision: str | None
    sha256: str | None  # None: not known
    dtype: str
    toy: bool


class VAERecord(EncoderRecord):
    scale: float  # latents are the posterior's samples times this
    factor: int  # pixels a latent, along one side
    channels: int


class DinoRecord(EncoderRecord):
    input_size: int  # pixels
    length: int  # tokens an image, CLS included
    width: int
    position_table: NotRequired[str]  # HUB or STORED; toys have none
    autocast: NotRequired[str | None]


class EncodersRecord(TypedDict):
    """The entry "encoders" of a dataset's and a model's record."""

    vae: VAERecord
    source: DinoRecord
    pose: DinoRecord
    toy: NotRequired[bool]


#: entries of a record that are the location of the files, not the identity of the network
_LOCATION = ("kind", "id", "revision")
#: entries that decide the shape and the scale of features
_SHAPES = ("factor", "channels", "scale", "length", "width")
#: token width of each published DINOv2
DINO_WIDTHS = {"dinov2-small": 384, "dinov2-base": 768, "dinov2-large": 1024, "dinov2-giant": 1536}


def same_weights(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool | None:
    """Whether two records have the same sha256; None if a record has none."""
    sums = one.get("sha256"), other.get("sha256")
    return None if None in sums else sums[0] == sums[1]


def encoder_difference(
    made: Mapping[str, Any], other: Mapping[str, Any], *, exact: bool = False
) -> str | None:
    """Why features of ``other`` cannot replace features of ``made``; None if they can.

    Both are records of one encoder (``VAE.describe``, ``Dino.describe``). The sha256 decides. If a
    record has none (a converted checkpoint has only a hub id), two hub networks must have the same
    id, a local folder must have the same shapes, and a toy matches only a toy. ``exact``: the
    number types, input size and position table must be equal too, so that the features have the
    same bytes.
    """
    if exact:
        keys = sorted(key for key in made.keys() | other.keys() if key not in _LOCATION)
        differing = [
            f"{key} {str(made.get(key))[:12]}, not {str(other.get(key))[:12]}"
            for key in keys
            if made.get(key) != other.get(key)
        ]
        return f"{made['id']}: {'; '.join(differing)}" if differing else None
    same = same_weights(made, other)
    if same is not None:
        names = [f"{r['id']} (sha256 {str(r['sha256'])[:12]})" for r in (made, other)]
        return None if same else ", not ".join(names)
    named = f"{made['id']}, not {other['id']}"
    if bool(made["toy"]) != bool(other["toy"]):
        return f"{named} (one of them is a toy)"
    if made["kind"] == other["kind"] == "hub" and made["id"] != other["id"]:
        return named
    for name in _SHAPES:
        if name in made and not math.isclose(made[name], other.get(name, math.nan)):
            return f"{named}: {name} {made[name]}, not {other.get(name)}"
    return None


def dino_name(record: Mapping[str, Any], expected: str) -> str:
    """The short name of a DINOv2 in a record ("dinov2-giant"), to compare with ``expected``.

    A local folder may have any name: it is ``expected`` if its tokens have that width.
    """
    name = str(record.get("id", "unknown")).rstrip("/").rsplit("/", 1)[-1]
    if record.get("kind") == "local" and name != expected:
        fits = record.get("width") == DINO_WIDTHS.get(expected, 0)
        return expected if fits else str(record["id"])
    return name


# how DINOv2's position table was resized (``dino.resize_table``), in an encoder's record
POSITION_TABLE = "position_table"
HUB = "hub"  # as torch.hub's DINOv2 does: the published tokens
STORED = "stored"  # not at all: the checkpoint's grid is the one needed


def check_position_table(record: Mapping[str, Any]) -> None:
    """XmdptError if the tokens of a record (``Dino.describe``) have a position table that this
    version cannot make. Toys record none."""
    table = record.get(POSITION_TABLE, HUB)
    if table not in (HUB, STORED):
        raise XmdptError(
            f"DINOv2's position table is recorded as {table!r}, which this version does not know",
            "pip install --upgrade xmdpt-cli",
        )
