"""Whether a model, a prepared dataset and a VAE belong together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from xmdpt_cli.data.loader import PairDataset
from xmdpt_cli.encoders.identity import DIFFERENCE, dataset_note, old_tokens, tables_differ
from xmdpt_cli.encoders.vae import VAE
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.sampling.sampler import Sampler

#: what decides the shape and the size of features
_SHAPES = ("factor", "channels", "scale", "length", "width")


def encoder_mismatch(made: Mapping[str, Any], there: Mapping[str, Any]) -> str | None:
    """Why features of the encoder ``there`` are none for a model trained on those of ``made``.

    Both as ``describe`` names one encoder; None: they are. The files' sha256 decide. Where one is
    not known (a converted checkpoint says only which hub network it was), the ids of two hub
    networks must be the same; a local folder passes for any network of the same shapes, a toy for
    none.
    """
    named = f"{made['id']}, not {there['id']}"
    if made["sha256"] is not None and there["sha256"] is not None:
        if made["id"] == there["id"]:
            sums = (str(one["sha256"])[:12] for one in (made, there))
            named = f"two called {made['id']}: weights of sha256 {', not '.join(sums)}"
        return None if made["sha256"] == there["sha256"] else named
    if bool(made["toy"]) != bool(there["toy"]):
        return f"{named} (one of them is a toy)"
    if made["kind"] == there["kind"] == "hub" and made["id"] != there["id"]:
        return named
    for name in _SHAPES:
        if name in made and not math.isclose(made[name], there.get(name, math.nan)):
            return f"{named}: {name} {made[name]}, not {there.get(name)}"
    return None


def check_fit(sampler: Sampler, dataset: PairDataset, vae: VAE) -> None:
    """XmdptError if model, dataset and VAE do not belong together."""
    facts, manifest = sampler.facts, dataset.manifest
    if facts["resolution"] != manifest["resolution"]:
        raise XmdptError(
            f"the model draws {facts['resolution']} px, the dataset was prepared at "
            f"{manifest['resolution']} px",
            "prepare the dataset at the model's resolution: xmdpt prepare --size "
            f"{facts['resolution']}",
        )
    for part in ("vae", "source", "pose"):
        differs = encoder_mismatch(facts["encoders"][part], manifest["encoders"][part])
        if differs:
            raise XmdptError(
                f"the model was trained on features of another {part} encoder ({differs})",
                "prepare the dataset with the encoders the model was trained with",
            )
    channels, side, _ = sampler.model.latent_shape
    if vae.channels != channels or vae.factor * side != manifest["resolution"]:
        raise XmdptError(
            f"the VAE turns {side}x{side} latents with {vae.channels} channels into "
            f"{vae.factor * side} px; the model has {channels} channels for "
            f"{manifest['resolution']} px",
            "give the VAE the dataset was prepared with: --vae",
        )


def token_notes(sampler: Sampler, dataset: PairDataset) -> list[str]:
    """What to say where a dataset's tokens are not the published ones, or not the model's.

    The images of such a pair can be made; they are not those of the model's own tokens.
    """
    made, there = sampler.facts["encoders"], dataset.manifest["encoders"]
    notes = [dataset_note(dataset.manifest, dataset.path)]
    if tables_differ(made, there) and old_tokens(made):
        notes.append(
            f"the model was trained on tokens of an earlier version, {dataset.path} has the "
            f"published ones, which differ by {DIFFERENCE}: train it again on this dataset, or "
            "sample with the dataset it was trained on"
        )
    elif tables_differ(made, there):
        notes.append(
            f"the model was trained on the published tokens, and {dataset.path} has those of "
            "an earlier version: its images and numbers are not those of the published tokens"
        )
    return [note for note in notes if note is not None]
