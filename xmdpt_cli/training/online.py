"""``--online``: features from the pictures in every step, with fresh crops: the published recipe.

The shards give pictures and keypoints, not features. Threads decode, crop and draw ahead
(``data.views``); the encoders run where the model does, in the thread that trains.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch

from xmdpt_cli.data.collate import Batch
from xmdpt_cli.data.crops import Crop, draw_crop
from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.data.loader import Reading, TrainLoader
from xmdpt_cli.data.skipping import skipping_or_not
from xmdpt_cli.data.views import Views, load_views
from xmdpt_cli.encoders.bundle import Encoders
from xmdpt_cli.encoders.dino import Dino, pose_input
from xmdpt_cli.encoders.identity import PARTS, encoder_difference
from xmdpt_cli.encoders.vae import VAE, to_signed
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.storage.stores import is_url


class OnlineLoader:
    """``TrainLoader`` that computes the features: same arguments, same pairs, same interface.

    The pairs, and which are swapped and mirrored, are those of ``TrainLoader`` with the same
    arguments. Both pictures of a pair get a crop of their own (``data.crops``), which follows
    from (seed, the pair's number, role): a run that goes on, other ranks, and accumulating
    over several batches change nothing. ``crops=False`` leaves the pictures as prepared; then the
    features are the cached ones, up to the precision those are stored in.

    Features come on the encoders' device: moments as float32, tokens as bfloat16. The networks
    run in the types they were loaded in, without autocast.
    """

    def __init__(
        self,
        dataset: PairDataset,
        encoders: Encoders,
        reading: Reading,
        crops: bool = True,
    ) -> None:
        self.order = TrainLoader(dataset, reading)
        self.dataset, self.encoders, self.reading, self.crops = dataset, encoders, reading, crops
        self.device = encoders.vae.device

    def batch(self, step: int, out: Batch | None = None) -> Batch:
        """The batch of this rank at ``step`` (from 0): always the same one. ``out`` is not used."""
        return self.encode(self.read(step))

    def read(self, step: int, out: Views | None = None) -> Views:
        """The first half: pictures of that batch, on the CPU. Any thread may call it."""
        maps = self.reading.pose_maps
        read = partial(load_views, self.dataset, crop=self._crop, pose_maps=maps, out=out)
        return skipping_or_not(self.reading.skipping, self.order.draws(step), read)

    def _crop(self, number: int, role: str) -> Crop:
        size = self.dataset.resolution
        return draw_crop(self.reading.seed, number, role, size) if self.crops else Crop(size)

    @torch.no_grad()
    def encode(self, views: Views) -> Batch:
        """The second half: pictures to features, on the current stream of the device."""
        count = len(views.pairs)
        pictures = views.pictures.to(self.device, non_blocking=True)
        poses = views.poses.to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, enabled=False):  # the caller's model may be in it
            moments = self.encoders.vae.encode_moments(pictures)
            seen = pictures if self.reading.target_tokens else pictures[count:]
            tokens = self.encoders.source.tokens(to_signed(seen)).bfloat16()
            pose_tokens = self.encoders.pose.tokens(pose_input(poses))
        return Batch(
            target_moments=moments[:count],
            source_moments=moments[count:],
            pose_tokens=pose_tokens.bfloat16(),
            source_tokens=tokens[-count:],
            pairs=views.pairs,
            flipped=views.flipped,
            pose_map=views.pose_map,
            source_pose_map=views.source_pose_map,
            target_tokens=tokens[:count] if self.reading.target_tokens else None,
            skipped=views.skipped,
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

    ``manifest`` is the dataset's, ``near`` its place: toy encoders lie there. ``vae``, ``source``
    and ``pose``: other places to look (hub id or folder), for the same networks: the model and
    the statistics of its data belong to these. Raises XmdptError naming the network that is not
    there, or is not the one (by sha256).
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
        else:  # with the position table of the cached tokens, which validation reads
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
