"""The networks of a preparation: the three encoders, and OpenPose for images without keypoints."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch

from xmdpt_cli.datasets.beside_keypoints import UNUSABLE
from xmdpt_cli.datasets.listing import Listing
from xmdpt_cli.encoders.bundle import Encoders, load_encoders
from xmdpt_cli.encoders.dino import DEFAULT_POSE, DEFAULT_SOURCE, Dino
from xmdpt_cli.encoders.identity import PARTS
from xmdpt_cli.encoders.missing import Needed, find_all
from xmdpt_cli.encoders.openpose import BODY_FILE, DEFAULT_OPENPOSE, OpenPose, find_body
from xmdpt_cli.encoders.vae import DEFAULT_VAE, VAE
from xmdpt_cli.pose.formats.beside_images import WANTED
from xmdpt_cli.utils.devices import cores

DEFAULTS = {"vae": DEFAULT_VAE, "source": DEFAULT_SOURCE, "pose": DEFAULT_POSE}
_TOY_HINT = "to try the workflow without pretrained encoders: --encoders toy (no real results)"


def find_networks(
    listing: Listing, encoders: Mapping[str, str | None] | None, openpose: str | None = None
) -> None:
    """XmdptError that names all networks that are needed and not found; reads no weights.

    ``encoders``: hub id or folder of the VAE, source and pose encoder (None: the published one);
    None if they need not be found.
    """
    needed = []
    for name, given in (encoders or {}).items():
        folder, option, what = PARTS[name]
        source = given or DEFAULTS[name]
        find = partial(VAE.find if name == "vae" else Dino.find, source)
        needed.append(Needed(what, option, folder, find, source))
    without = listing.without_keypoints()
    if without:
        source = openpose or DEFAULT_OPENPOSE
        unusable = [p.file for p in listing.problems if p.reason.startswith(UNUSABLE)]
        first = f", the first being {unusable[0]}" if unusable else ""
        broken = f"; {len(unusable)} keypoints files cannot be used{first}" if unusable else ""
        if without < listing.images():
            broken = f", the first being {listing.first_without_keypoints()}{broken}"
        needed.append(
            Needed(
                "OpenPose",
                "--openpose",
                "openpose",
                partial(find_body, source),
                source,
                BODY_FILE,
                why=f"for {without} of {listing.images()} images, which have no keypoints{broken}",
                without=f"put keypoints beside the images: {WANTED}",
            )
        )
    find_all(needed, "" if encoders is None else _TOY_HINT)


def load_pretrained(
    encoders: Mapping[str, str | None] | str, device: str | torch.device
) -> Encoders:
    """Load the encoders in float32; on a GPU the two DINOv2 run under bfloat16 autocast.

    ``encoders``: as in ``find_networks``, or a folder that contains all three.
    """
    autocast = torch.bfloat16 if str(device).startswith("cuda") else None
    if isinstance(encoders, str):
        return Encoders.load(encoders, device=device, dino_autocast=autocast)
    sources = [encoders.get(name) or default for name, default in DEFAULTS.items()]
    return load_encoders(*sources, device=device, dino_autocast=autocast)


def load_openpose(listing: Listing, source: str | None, device: str) -> OpenPose | None:
    """OpenPose if some images have no keypoints, else None."""
    if not listing.without_keypoints():
        return None
    return OpenPose.load(source or DEFAULT_OPENPOSE, device=device, threads=cores())
