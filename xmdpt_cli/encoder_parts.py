"""The three encoders under the names by which records, folders, options and messages know them."""

from __future__ import annotations

from typing import NamedTuple


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
