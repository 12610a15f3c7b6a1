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


class EncodersRecord(TypedDict):
    """What stands under "encoders" in a dataset's and a model's record."""

    vae: VAERecord
    source: DinoRecord
    pose: DinoRecord
    toy: NotRequired[bool]
