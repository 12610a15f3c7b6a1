"""The frozen networks that encode a user's own image and pose, for one model.

Each is located when it is first needed: as given, in the model's folder, beside the dataset that
the model was trained on, or by its hub id. It must be the network that the model was trained with.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.encoders.dino import Dino
from xmdpt_cli.encoders.identity import PARTS, check_position_table, encoder_difference
from xmdpt_cli.encoders.missing import Needed, find_all
from xmdpt_cli.encoders.openpose import BODY_FILE, DEFAULT_OPENPOSE, OpenPose
from xmdpt_cli.encoders.places import (
    check_encoders,
    encoder_in,
    find_encoder,
    find_vae,
    folders_of_encoders,
    is_tiny_word,
    tiny_beside,
    tiny_of,
)
from xmdpt_cli.encoders.tiny_decoder import TinyDecoder, is_tiny, load_decoder, load_tiny
from xmdpt_cli.encoders.vae import VAE
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.sampling.sampler import Sampler
from xmdpt_cli.sampling.user_inputs import NoOpenPoseError


class LazyEncoders:
    """VAE, both DINOv2 and OpenPose for one model, loaded when they are first used."""

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
        preview: str | Path | None = None,
        decode_dtype: torch.dtype = torch.float32,
    ) -> None:
        """``metadata``: the model's (``model/checkpoint.py``); ``folder``: the model's folder;
        ``vae``: a VAE, or a tiny decoder, which decodes in place of the VAE's; ``encoders``: a
        folder with ``vae/``, ``dino_source/`` and ``dino_pose/``; ``preview``: a tiny decoder for
        previews; ``decode_dtype``: ``Decoder.decode_dtype``."""
        self._decode_dtype = decode_dtype
        self.metadata, self.folder, self.device = metadata, folder, torch.device(device)
        self._preview = preview
        self._given = {"vae": vae, "source": dino_source, "pose": dino_pose}
        self._openpose = openpose
        self._encoders = None if encoders is None else Path(encoders)
        self._found = False

    @cached_property
    def vae(self) -> VAE:
        """Weights in float32; on a GPU the decoder computes as the model does."""
        vae = VAE.load(self.where("vae"), device=self.device)
        vae.decode_dtype = self._decode_dtype  # as a decoder
        made = self.metadata["encoders"]["vae"]
        # other files are allowed: a fine-tuned decoder is another network for the same latents
        loaded = {**vae.describe(), "sha256": None, "kind": "local"}
        differs = encoder_difference(made, loaded)
        if differs:
            raise XmdptError(
                f"the model was trained on latents of another VAE ({differs})",
                "name its own: --vae DIR",
            )
        return vae

    @cached_property
    def tiny(self) -> TinyDecoder | None:
        """The tiny decoder, for previews: the one that was given, or the one beside the model."""
        place = self._tiny_given or self._preview or tiny_beside(self.folder)
        if place is None:
            return None
        made = self.metadata["encoders"]["vae"]
        tiny = load_tiny(place, made, "the model", device=self.device)
        tiny.decode_dtype = self._decode_dtype
        return tiny

    @property
    def decoder(self) -> VAE | TinyDecoder:
        """That of the images: the VAE, or the tiny decoder that was given in its place."""
        given = None if self._tiny_given is None else self.tiny
        return given or self.vae

    @cached_property
    def source(self) -> Dino:
        return self._dino("source")

    @cached_property
    def pose(self) -> Dino:
        return self._dino("pose")

    @cached_property
    def openpose(self) -> OpenPose:
        """Raises XmdptError with what to fetch if it is not found."""
        return OpenPose.load(self._openpose or DEFAULT_OPENPOSE, device=self.device)

    def find_openpose(self) -> OpenPose:
        """``openpose``, as a function."""
        return self.openpose

    def to(self, device: str | torch.device) -> None:
        """Move the loaded networks to ``device``; the others are loaded there."""
        self.device = torch.device(device)
        for name in (*PARTS, "openpose", "tiny"):
            if self.__dict__.get(name) is not None:
                getattr(self, name).to(self.device)

    def release(self) -> None:
        """Free both DINOv2 (4.5 GB for the giant one): they are loaded again when needed."""
        for part in ("source", "pose"):
            self.__dict__.pop(part, None)

    def find(self, openpose: NoOpenPoseError | None = None) -> None:
        """XmdptError naming all networks that are not found; nothing is loaded.

        ``openpose``: the error of OpenPose, if the inputs need it.
        """
        self._check_encoders()
        needed = [] if self._found else [self._needed(part) for part in PARTS]
        if openpose is not None:
            needed.append(_failed_openpose(self._openpose, openpose))
        find_all(needed)
        self._found = True

    @contextmanager
    def naming_all_missing(self) -> Iterator[None]:
        """Around the reading of inputs: one XmdptError names all networks that are not found,
        with OpenPose if an input needs it."""
        try:
            yield
        except NoOpenPoseError as err:
            self.find(err)
            raise
        self.find()

    def where(self, part: str) -> str:
        """The folder or hub id of an encoder. XmdptError for a toy that is in no folder."""
        given = self._encoder_given(part)
        if given is not None:
            return str(given)
        if self._encoders is not None:
            self._check_encoders()  # else a relative path could be taken for a hub id
            return str(self._encoders / PARTS[part].folder)
        folders = folders_of_encoders(self.folder, self.metadata.get("data"))
        record = self.metadata["encoders"][part]
        return find_encoder(part, record, folders, "the model was trained")

    @cached_property
    def _tiny_given(self) -> str | Path | None:
        """Where the tiny decoder is that was given as the VAE; None: a VAE was given, or nothing.

        Raises XmdptError if the model has none.
        """
        given = self._given["vae"]
        if is_tiny_word(given):
            return tiny_of(self.folder)
        return given if given is not None and is_tiny(given) else None

    def _encoder_given(self, part: str) -> str | Path | None:
        """The folder or hub id that was given for an encoder. A tiny decoder cannot encode: beside
        it the VAE is the model's, or its dataset's."""
        tiny = part == "vae" and self._tiny_given is not None
        return None if tiny else self._given[part]

    def _needed(self, part: str) -> Needed:
        name, option, what = PARTS[part]
        made = self.metadata["encoders"][part]
        hub_id = "" if made["toy"] or self._encoders else str(made["id"])
        given = self._given[part]
        with suppress(XmdptError):  # not found: ``find`` names it
            given = self._encoder_given(part)
        load: type[VAE] | type[Dino] = VAE if part == "vae" else Dino
        return Needed(
            what,
            option,
            name,
            lambda: load.find(self.where(part)),
            str(given or hub_id),
        )

    def _check_encoders(self) -> None:
        """ConfigError unless a given folder of encoders holds all that it should."""
        if self._encoders is not None:
            named = {PARTS[part].folder for part in PARTS if self._encoder_given(part) is not None}
            check_encoders(self._encoders, named)

    def _dino(self, part: str) -> Dino:
        made = self.metadata["encoders"][part]
        check_position_table(made)
        # as in ``xmdpt prepare``: float32, on a GPU under bfloat16 autocast
        dino = Dino.load(
            self.where(part),
            device=self.device,
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


def vae_for(sampler: Sampler, dataset: PairDataset, given: str | None = None) -> VAE | TinyDecoder:
    """What decodes a model's images of a dataset: the given VAE or tiny decoder, the model's own
    VAE (its decoder may be fine-tuned), or the dataset's. XmdptError if it is not found, and for a
    tiny decoder of other latents."""
    if is_tiny_word(given):
        given = str(tiny_of(sampler.folder))
    folders = folders_of_encoders(sampler.folder, dataset.path, sampler.metadata.get("data"))
    own = given or encoder_in("vae", folders)
    where = find_vae(dataset.manifest["encoders"], dataset.path, None if own is None else str(own))
    made = sampler.metadata["encoders"]["vae"]
    vae = load_decoder(where, made, "the model", device=sampler.device)
    vae.decode_dtype = sampler.dtype
    return vae
