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
    """One network in a record: what ``Origin.describe`` says, and its sizes."""

    id: str
    toy: bool
    kind: NotRequired[str]
    revision: NotRequired[str | None]
    sha256: NotRequired[str | None]
    dtype: NotRequired[str]
    input_size: NotRequired[int]  # of a DINOv2, in pixels
    length: NotRequired[int]  # of a DINOv2: tokens an image, CLS included
    width: NotRequired[int]


class VAERecord(EncoderRecord):
    scale: float  # latents are the posterior's samples times this
    factor: NotRequired[int]  # pixels a latent, along one side
    channels: NotRequired[int]


class EncodersRecord(TypedDict):
    """What stands under "encoders" in a dataset's and a model's record."""

    vae: NotRequired[VAERecord]
    source: NotRequired[EncoderRecord]
    pose: NotRequired[EncoderRecord]
    toy: NotRequired[bool]
