"""Whether a model, a prepared dataset and a VAE belong together."""

from __future__ import annotations

from xmdpt_cli.data.loader import PairDataset
from xmdpt_cli.encoders.identity import (
    DIFFERENCE,
    dataset_note,
    encoder_difference,
    old_tokens,
    tables_differ,
)
from xmdpt_cli.encoders.vae import VAE
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.sampling.sampler import Sampler


def check_fit(sampler: Sampler, dataset: PairDataset, vae: VAE) -> None:
    """XmdptError if model, dataset and VAE do not belong together."""
    metadata, manifest = sampler.metadata, dataset.manifest
    if metadata["resolution"] != manifest["resolution"]:
        raise XmdptError(
            f"the model draws {metadata['resolution']} px, the dataset was prepared at "
            f"{manifest['resolution']} px",
            "prepare the dataset at the model's resolution: xmdpt prepare --size "
            f"{metadata['resolution']}",
        )
    for part in ("vae", "source", "pose"):
        differs = encoder_difference(metadata["encoders"][part], manifest["encoders"][part])
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
    made, there = sampler.metadata["encoders"], dataset.manifest["encoders"]
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
