"""The frozen networks that turn a user's own image and pose into what the model knows.

Each is looked for when it is first needed: as given, in the model's folder, beside the dataset the
model was trained on, then by its hub id. What is found must be what the model was trained with.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from xmdpt_cli.data.loader import PairDataset
from xmdpt_cli.encoders.dino import Dino
from xmdpt_cli.encoders.identity import PARTS, encoder_difference, table_of
from xmdpt_cli.encoders.missing import Needed, check_encoders, find_all
from xmdpt_cli.encoders.openpose import BODY_FILE, DEFAULT_OPENPOSE, OpenPose
from xmdpt_cli.encoders.vae import VAE
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.sampling.sampler import Sampler
from xmdpt_cli.sampling.user_inputs import NoOpenPoseError
from xmdpt_cli.storage.stores import is_url


class LazyEncoders:
    """VAE, both DINOv2 and OpenPose for one model."""

    def __init__(
        self,
        metadata: dict[str, Any],
        folder: Path | None = None,
        *,
        vae: str | Path | None = None,
        dino_source: str | Path | None = None,
        dino_pose: str | Path | None = None,
        openpose: str | Path | None = None,
        encoders: str | Path | None = None,
        device: str | torch.device = "cpu",
        decode_dtype: torch.dtype = torch.float32,
    ) -> None:
        """``metadata``: the model's (``model/checkpoint.py``); ``folder``: where it was read from;
        ``encoders``: a folder with ``vae/``, ``dino_source/`` and ``dino_pose/``;
        ``decode_dtype``: ``VAE.decode_dtype``."""
        self._decode_dtype = decode_dtype
        self.metadata, self.folder, self.device = metadata, folder, torch.device(device)
        self._given = {"vae": vae, "source": dino_source, "pose": dino_pose}
        self._openpose = openpose
        self._encoders = None if encoders is None else Path(encoders)
        self._found: set[str] = set()

    @cached_property
    def vae(self) -> VAE:
        """Weights in float32; on a GPU the decoder computes as the model does."""
        vae = VAE.load(self.where("vae"), device=self.device)
        vae.decode_dtype = self._decode_dtype
        made = self.metadata["encoders"]["vae"]
        # its files may be others: a fine-tuned decoder is another network for the same latents
        there = {**vae.describe(), "sha256": None, "kind": "local"}
        differs = encoder_difference(made, there)
        if differs:
            raise XmdptError(
                f"the model was trained on latents of another VAE ({differs})",
                "name its own: --vae DIR",
            )
        return vae

    @cached_property
    def source(self) -> Dino:
        return self._dino("source")

    @cached_property
    def pose(self) -> Dino:
        return self._dino("pose")

    @cached_property
    def openpose(self) -> OpenPose:
        """Raises XmdptError saying what to fetch where it is not there."""
        return OpenPose.load(self._openpose or DEFAULT_OPENPOSE, device=self.device)

    def find_openpose(self) -> OpenPose:
        """``openpose``, as a function."""
        return self.openpose

    def to(self, device: str | torch.device) -> None:
        """Move the networks that are loaded; the others are loaded there when first needed."""
        self.device = torch.device(device)
        for name in (*PARTS, "openpose"):
            if name in self.__dict__:
                getattr(self, name).to(self.device)

    def find(self, openpose: NoOpenPoseError | None = None) -> None:
        """XmdptError naming at once all networks that cannot be found; nothing is loaded.

        ``openpose``: how looking for OpenPose failed, where the inputs need it.
        """
        needed = [self._needed(part) for part in PARTS if part not in self._found]
        self._check_encoders()
        if openpose is not None:
            needed.append(_failed_openpose(self._openpose, openpose))
        find_all(needed)
        self._found.update(PARTS)

    @contextmanager
    def naming_all_missing(self) -> Iterator[None]:
        """Around the reading of inputs: one XmdptError names everything that cannot be found,
        OpenPose included where an input needs it."""
        try:
            yield
        except NoOpenPoseError as err:
            self.find(err)
            raise
        self.find()

    def _needed(self, part: str) -> Needed:
        name, option, what = PARTS[part]
        made = self.metadata["encoders"][part]
        hub_id = "" if made["toy"] or self._encoders else str(made["id"])
        hub_id = str(self._given[part] or hub_id)
        load: type[VAE] | type[Dino] = VAE if part == "vae" else Dino
        return Needed(what, option, name, lambda: load.find(self.where(part)), hub_id)

    def release(self) -> None:
        """Let both DINOv2 go (4.5 GB for the giant one): they are read again when needed."""
        for part in ("source", "pose"):
            self.__dict__.pop(part, None)

    def where(self, part: str) -> str:
        """The folder or hub id of a part."""
        given, name = self._given[part], PARTS[part].folder
        if given is not None:
            return str(given)
        if self._encoders is not None:
            self._check_encoders()  # else a relative path could be taken for a hub id
            return str(self._encoders / name)
        beside = self.beside(part)
        if beside is not None:
            return beside
        made = self.metadata["encoders"][part]
        if made["toy"]:
            raise XmdptError(
                f"the model was trained with a toy network ({made['id']}), which is not beside it",
                "toy networks lie in the prepared dataset: --encoders DATA/encoders",
            )
        return str(made["id"])

    def _check_encoders(self) -> None:
        """ConfigError unless the folder of encoders, if one was given, holds all that it should."""
        if self._encoders is not None:
            named = {PARTS[part].folder for part, given in self._given.items() if given is not None}
            check_encoders(self._encoders, named)

    def beside(self, part: str, dataset: str | None = None) -> str | None:
        """The folder of a part: the model's own, the dataset's, or beside what it was trained on.
        None: it is in none of them."""
        name = PARTS[part].folder
        places = [] if self.folder is None else [self.folder / name]
        data = [near for near in (dataset, self.metadata.get("data")) if near and not is_url(near)]
        places += [Path(near) / "encoders" / name for near in data]
        found = (str(place) for place in places if (place / "config.json").is_file())
        return next(found, None)

    def _dino(self, part: str) -> Dino:
        # as in ``xmdpt prepare``: float32, on a GPU under bfloat16 autocast; and with the position
        # table that the model was trained with
        made = self.metadata["encoders"][part]
        dino = Dino.load(
            self.where(part),
            device=self.device,
            positions=table_of(made),
            autocast=torch.bfloat16 if self.device.type == "cuda" else None,
        )
        differs = encoder_difference(made, dino.describe())
        if differs:
            raise XmdptError(
                f"the model was trained on features of another {part} encoder ({differs})",
                f"name the one it was trained with: {PARTS[part].option} DIR",
            )
        return dino


def _failed_openpose(given: str | Path | None, err: NoOpenPoseError) -> Needed:
    def find() -> None:
        raise err.reason

    return Needed(
        "OpenPose",
        "--openpose",
        "openpose",
        find,
        str(given or DEFAULT_OPENPOSE),
        BODY_FILE,
        why=f"for {err.image}",
        without=f"give keypoints ({err.instead})",
        alone=err,
    )


def find_vae(encoders: dict[str, Any], near: str | Path, given: str | None) -> str:
    """Where the VAE that made the latents is: as given, beside the dataset, or its hub id.

    A toy's folder is looked for where ``xmdpt prepare --encoders toy`` puts it; XmdptError if it
    is not there, for it is on no hub.
    """
    if given is not None:
        return given
    beside = Path(near) / "encoders" / "vae"
    if not is_url(near) and beside.is_dir():
        return str(beside)
    made = encoders["vae"]
    if made["toy"]:
        raise XmdptError(
            f"{near} was prepared with a toy VAE ({made['id']}), which is not beside it",
            "it lies in the folder that `xmdpt prepare --encoders` was given: --vae ENCODERS/vae",
        )
    return str(made["id"])


def vae_for(sampler: Sampler, dataset: PairDataset, given: str | None = None) -> VAE:
    """What decodes the images of a model for a dataset: the VAE given, the model's own (its
    decoder may be a fine-tuned one), or the dataset's. XmdptError if it is not here."""
    own = given or LazyEncoders(sampler.metadata, sampler.folder).beside("vae", dataset.path)
    where = find_vae(dataset.manifest["encoders"], dataset.path, own)
    vae = VAE.load(where, device=sampler.device)
    vae.decode_dtype = sampler.dtype
    return vae
