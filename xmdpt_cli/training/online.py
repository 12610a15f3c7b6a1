"""``--online``: computes features from the images in every step, with random crops (published).

The shards give images and keypoints, not features. Threads decode, crop and render ahead
(``data.pair_images``); the encoders run where the model does, in the thread that trains.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch

from xmdpt_cli.data.broken_shards import BrokenShards
from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.data.loader import Batch
from xmdpt_cli.data.pair_images import Crop, PairImages, load_pair_images, sample_crop
from xmdpt_cli.data.sampler import LoaderConfig, PairSampler
from xmdpt_cli.encoders.bundle import Encoders
from xmdpt_cli.encoders.dino import Dino, pose_input
from xmdpt_cli.encoders.identity import PARTS, encoder_difference
from xmdpt_cli.encoders.vae import VAE, to_signed
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.storage.stores import is_url


class OnlineLoader:
    """``TrainLoader`` that computes the features: same arguments, same pairs, same interface.

    The pairs, and which are swapped and mirrored, are those of ``TrainLoader`` with the same
    arguments. Both images of a pair get a crop of their own (``data.pair_images``), which follows
    from (seed, the pair's number, role): resuming, the number of ranks, and gradient accumulation
    change nothing. ``crops=False`` leaves the images as prepared; then the
    features are the cached ones, up to the precision those are stored in.

    Features come on the encoders' device: moments as float32, tokens as bfloat16. The networks
    run in the types they were loaded in, without autocast.
    """

    def __init__(
        self,
        dataset: PairDataset,
        encoders: Encoders,
        config: LoaderConfig,
        broken: BrokenShards | None = None,
        crops: bool = True,
    ) -> None:
        self.sampler = PairSampler(len(dataset), config)
        self.dataset, self.encoders, self.config = dataset, encoders, config
        self.broken, self.crops = broken, crops
        self.device = encoders.vae.device

    def batch(self, step: int, out: Batch | None = None) -> Batch:
        """The batch of this rank at ``step`` (from 0): always the same one. ``out`` is not used."""
        return self.encode(self.read(step))

    def read(self, step: int, out: PairImages | None = None) -> PairImages:
        """The first half: the images of that batch, on the CPU. Any thread may call it."""
        config, indices = self.config, self.sampler.indices(step)
        load = partial(
            load_pair_images,
            self.dataset,
            crop=self._crop,
            pose_maps=config.pose_maps,
            joints=config.joints,
            out=out,
        )
        return load(indices) if self.broken is None else self.broken.load_readable(indices, load)

    def _crop(self, number: int, role: str) -> Crop:
        size = self.dataset.resolution
        return sample_crop(self.config.seed, number, role, size) if self.crops else Crop(size)

    @torch.no_grad()
    def encode(self, images: PairImages) -> Batch:
        """The second half: images to features, on the current stream of the device."""
        count = len(images.pairs)
        pixels = images.images.to(self.device, non_blocking=True)
        poses = images.poses.to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, enabled=False):  # the caller's model may be in it
            moments = self.encoders.vae.encode_moments(pixels)
            seen = pixels if self.config.target_tokens else pixels[count:]
            tokens = self.encoders.source.tokens(to_signed(seen)).bfloat16()
            pose_tokens = self.encoders.pose.tokens(pose_input(poses))
        return Batch(
            target_moments=moments[:count],
            source_moments=moments[count:],
            pose_tokens=pose_tokens.bfloat16(),
            source_tokens=tokens[-count:],
            pairs=images.pairs,
            flipped=images.flipped,
            pose_map=images.pose_map,
            source_pose_map=images.source_pose_map,
            target_tokens=tokens[:count] if self.config.target_tokens else None,
            joints=images.joints,
            skipped=images.skipped,
        )


def find_encoders(
    manifest: dict[str, Any],
    near: str | Path,
    *,
    vae: str | None = None,
    source: str | None = None,
    pose: str | None = None,
    device: str | torch.device = "cpu",
) -> Encoders:
    """The networks that made a dataset's features, in the number types they made them in.

    ``manifest``: that of the dataset; ``near``: its path, which toy encoders are beside. ``vae``,
    ``source`` and ``pose``: other places (hub id or folder) of the same networks, since the model
    was trained with these. Raises XmdptError naming the network that is not
    found, or is another one (by sha256).
    """
    made, given = manifest["encoders"], {"vae": vae, "source": source, "pose": pose}
    parts: dict[str, Any] = {}
    for part, (folder, option, _) in PARTS.items():
        wanted = made.get(part) or {}
        if not wanted.get("sha256") or "dtype" not in wanted:
            raise XmdptError(
                f"{near} does not say which {part} encoder made its features",
                "train from the cached features: without --online",
            )
        where, revision = _place(wanted, near, folder, option, given[part])
        if part == "vae":
            dtype = getattr(torch, wanted["dtype"])
            parts[part] = VAE.load(where, device=device, dtype=dtype, revision=revision)
        else:
            parts[part] = Dino.load_recorded(wanted, where, device=device, revision=revision)
        differs = encoder_difference(wanted, parts[part].describe())
        if differs:
            raise XmdptError(
                f"{where} is not the {part} encoder that made {near} ({differs})",
                f"give the right one as {option} DIR, or prepare the dataset again with this one",
            )
    return Encoders(**parts)


def _place(
    wanted: dict[str, Any], near: str | Path, folder: str, option: str, given: str | None
) -> tuple[str, str | None]:
    """Where to load a network from (hub id or folder), and its revision there."""
    if given is not None:
        return given, None
    if wanted.get("kind") != "toy":
        return str(wanted["id"]), wanted.get("revision")
    beside = Path(near) / "encoders" / folder
    if is_url(near) or not beside.is_dir():
        raise XmdptError(
            f"the toy encoder {wanted['id']} that made {near} is not beside it",
            f"give its folder as {option} DIR",
        )
    return str(beside), None
