"""Toy encoders for the pictures at hand: DINOv2 seeded and untrained, a VAE trained for a minute.

For trying the whole way without weights to fetch. What is made with them says "toy" everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xmdpt_cli.data.listing import Listing
from xmdpt_cli.encoders.bundle import Encoders
from xmdpt_cli.encoders.toy import toy_dino, toy_vae
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import only_process
from xmdpt_cli.images import Picture, resize_square
from xmdpt_cli.progress import Progress, silent
from xmdpt_cli.training.vae_config import VaeConfig
from xmdpt_cli.training.vae_loop import VAEStats, train_vae

HELD_OUT = 32
BATCH = 2  # see vae_config.TOY_LR


class ListedPictures:
    """The usable pictures of a listing's split, squashed to size x size, decoded once."""

    def __init__(self, listing: Listing, split: str, size: int, limit: int | None = None) -> None:
        pictures = {p.identity: p for g in listing.split(split)[:limit] for p in g.views.values()}
        self._pictures: list[Picture] = []
        for _, picture in sorted(pictures.items()):
            try:
                self._pictures.append(resize_square(picture.load(), size))
            except XmdptError:
                continue  # preparing will report it
        if not self._pictures and split == "train":
            raise XmdptError("there are no training pictures to train the toy VAE on")

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int, /) -> Picture:
        return self._pictures[index]


@dataclass(frozen=True)
class ToyEncoders:
    encoders: Encoders
    vae: VAEStats


def make_toy_encoders(
    listing: Listing,
    out: Path,
    *,
    size: int,
    seed: int = 0,
    vae_steps: int = 600,
    limit: int | None = None,
    progress: Progress = silent,
) -> ToyEncoders:
    """Train the toy VAE on the listing's training pictures and put all three below ``out``.

    ``out/vae``, ``out/dino_source``, ``out/dino_pose``. What is there already is not made again;
    an interrupted VAE training goes on.
    """
    with only_process(out):
        train = ListedPictures(listing, "train", size, limit)
        test = ListedPictures(listing, "test", size, limit)
        held_out = (
            np.stack([test[i] for i in range(min(HELD_OUT, len(test)))]) if len(test) else None
        )
        vae = toy_vae(size, seed)
        config = VaeConfig(
            steps=vae_steps, batch_size=BATCH, lpips=0.0, all_weights=True, seed=seed
        )
        stats = train_vae(vae, train, config, out=out / "vae", held_out=held_out, progress=progress)
        source, pose = (toy_dino(role, size, seed) for role in ("source", "pose"))
        for dino, name in ((source, "dino_source"), (pose, "dino_pose")):
            if not (out / name / "config.json").is_file():
                dino.save(out / name)
    # read back: what prepares the dataset is what sampling will load
    return ToyEncoders(Encoders.load(out), stats)
