"""The three encoders under the names by which records, folders, options and messages know them."""

from __future__ import annotations

from typing import NamedTuple

from typing_extensions import NotRequired, TypedDict


class Part(NamedTuple):
    """``folder``: its own among encoders; ``option`` names another place; ``what``: in words."""

    folder: str
    option: str
    what: str


#: by the name under "encoders" in a dataset's and a model's record
PARTS = {
    "vae": Part("vae", "--vae", "VAE"),
    "source": Part("dino_source", "--dino-source", "DINOv2 of the source"),
    "pose": Part("dino_pose", "--dino-pose", "DINOv2 of the pose"),
}
FOLDERS = tuple(part.folder for part in PARTS.values())


class EncoderRecord(TypedDict):
    """One network in a record. A VAE has scale, factor and channels; a DINOv2 length and width."""

    id: str
    toy: bool
    kind: NotRequired[str]
    revision: NotRequired[str | None]
    sha256: NotRequired[str | None]
    dtype: NotRequired[str]
    scale: NotRequired[float]
    factor: NotRequired[int]
    channels: NotRequired[int]
    input_size: NotRequired[int]
    length: NotRequired[int]
    width: NotRequired[int]


class EncodersRecord(TypedDict):
    """What stands under "encoders" in a dataset's and a model's record."""

    vae: NotRequired[EncoderRecord]
    source: NotRequired[EncoderRecord]
    pose: NotRequired[EncoderRecord]
    toy: NotRequired[bool]
