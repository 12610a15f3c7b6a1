"""Toy encoders for a dataset: untrained DINOv2 networks, and a VAE trained for a minute.

They let every command run without a download. Results made with them are marked "toy".
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from xmdpt_cli.datasets.listing import Listing
from xmdpt_cli.encoders.bundle import Encoders
from xmdpt_cli.encoders.identity import FOLDERS
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import only_process
from xmdpt_cli.images import ImageArray, resize_square
from xmdpt_cli.progress import Progress, silent
from xmdpt_cli.storage.ranks import ProcessGroup, World
from xmdpt_cli.storage.stores import LocalStore
from xmdpt_cli.toy.encoders import toy_dino, toy_vae
from xmdpt_cli.vae_training.config import VaeConfig, settle
from xmdpt_cli.vae_training.examples import ImageExamples, Images, sample_batch
from xmdpt_cli.vae_training.loop import VAEStats, train_vae
from xmdpt_cli.vae_training.trainer import VaeTrainer

HELD_OUT = 32
BATCH = 2  # see vae_config.TOY_LR
# px: training uses crops of this side of larger images, so that a step takes the same time at every
# size. Measured on 96 photographs at 128 px, 600 steps: complete images 26.1 dB in 101 s of CPU
# time, crops of 64 px 26.8 dB in 42 s. The network has convolutions only.
CROP = 64
_CROPS = 16  # of an image
_TIMED_STEPS = 5


class ListedImages:
    """The readable images of a listing's split, squashed to size x size, decoded once."""

    def __init__(self, listing: Listing, split: str, size: int, limit: int | None = None) -> None:
        images = {p.identity: p for g in listing.split(split)[:limit] for p in g.views.values()}
        self._images: list[ImageArray] = []
        for _, image in sorted(images.items()):
            try:
                self._images.append(resize_square(image.load(), size))
            except XmdptError:
                continue  # prepare reports it
        if not self._images and split == "train":
            raise XmdptError("there are no training images to train the toy VAE on")

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int, /) -> ImageArray:
        return self._images[index]


class Crops:
    """Random crops of CROP x CROP px; the index of a crop and the seed determine its place."""

    def __init__(self, images: ListedImages, seed: int) -> None:
        self._images, self._seed = images, seed

    def __len__(self) -> int:
        return _CROPS * len(self._images)

    def __getitem__(self, index: int, /) -> ImageArray:
        image = self._images[index // _CROPS]
        rng = np.random.default_rng([self._seed, 2, index])
        y, x = (int(rng.integers(0, side - CROP + 1)) for side in image.shape[:2])
        return image[y : y + CROP, x : x + CROP]


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
    vae_steps: int | None = None,
    latent_channels: int = 4,
    limit: int | None = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> ToyEncoders:
    """Train the toy VAE on the listing's training images and save all three encoders.

    Folders: ``out/vae``, ``out/dino_source``, ``out/dino_pose``. ``vae_steps``: None for as many as
    the size needs. Encoders that exist are kept; an interrupted VAE training resumes.
    ``device``: where the VAE is trained, and where the encoders that are returned are.
    """
    with only_process(out):
        train = ListedImages(listing, "train", size, limit)
        test = ListedImages(listing, "test", size, limit)
        held_out = (
            np.stack([test[i] for i in range(min(HELD_OUT, len(test)))]) if len(test) else None
        )
        vae = toy_vae(size, seed, latent_channels)
        vae.to(device)
        images: Images = train if size <= CROP else Crops(train, seed)
        config = _config(vae_steps or default_steps(size), seed)
        with _threads(size):
            stats = train_vae(
                vae, images, config, out=out / "vae", held_out=held_out, progress=progress
            )
        source, pose = (toy_dino(role, size, seed) for role in ("source", "pose"))
        for dino, name in ((source, "dino_source"), (pose, "dino_pose")):
            if not (out / name / "config.json").is_file():
                dino.save(out / name)
    # loaded again, so that the dataset is prepared with exactly what sampling will load
    return ToyEncoders(Encoders.load(out, device=device), stats)


def make_toy_encoders_by_size(
    listing: Listing,
    outs: Mapping[int, str],
    world: World,
    *,
    seed: int = 0,
    vae_steps: int | None = None,
    limit: int | None = None,
    progress: Progress = silent,
) -> dict[int, Encoders]:
    """Toy encoders in ``OUT/encoders`` for each size and folder in ``outs``.

    Rank 0 trains them; the other ranks wait for the files.
    """
    made = {}
    for size, out in outs.items():
        folder = Path(out) / "encoders"
        if world.rank == 0:
            made[size] = make_toy_encoders(
                listing, folder, size=size, seed=seed, vae_steps=vae_steps, limit=limit,
                progress=progress,
            ).encoders  # fmt: skip
        else:
            group = ProcessGroup(LocalStore(out), world)
            group.wait(partial(_are_complete, folder), "the toy encoders")
            made[size] = Encoders.load(folder)
    return made


def _are_complete(folder: Path) -> bool | None:
    return all((folder / part / "config.json").is_file() for part in FOLDERS) or None


def default_steps(size: int) -> int:
    """Training steps of the toy VAE for images of ``size``.

    Above 128 px the VAE is of f = 8. Measured on 96 photographs at 256 px: complete images, 600
    steps, 25.0 dB in 297 s of CPU time; crops, 600 steps, 23.8 dB in 49 s; crops, 1200 steps,
    24.9 dB in 62 s.
    """
    return 600 if size <= 128 else 1200


def vae_seconds(size: int, vae_steps: int) -> float:
    """Estimated seconds of the toy VAE's training on this machine, from a few timed steps."""
    side = min(size, CROP)
    noise = np.random.default_rng(0).integers(0, 256, (BATCH, side, side, 3), dtype=np.uint8)
    vae, examples = toy_vae(size), ImageExamples(noise)
    trainer = VaeTrainer(vae, settle(_config(vae_steps, 0), BATCH))
    for parameter in trainer.parameters:
        parameter.requires_grad_(True)
    seconds = []
    with _threads(size):
        for step in range(_TIMED_STEPS):
            start = time.perf_counter()
            trainer.step(sample_batch(examples, vae, 0, step, BATCH, 0, 1))
            seconds.append(time.perf_counter() - start)
    return vae_steps * float(np.median(seconds[1:]))  # the first one warms up


@contextmanager
def _threads(size: int) -> Iterator[None]:
    """Use one thread if training uses crops: a batch of two 64 px crops takes 37 ms a step on one
    thread and 60 to 80 ms on two, and seconds where other processes use a core. One thread also
    gives the same weights on any number of cores."""
    threads = torch.get_num_threads()
    if size > CROP:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _config(steps: int, seed: int) -> VaeConfig:
    return VaeConfig(steps=steps, batch_size=BATCH, lpips=0.0, all_weights=True, seed=seed)
