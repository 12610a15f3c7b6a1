"""What a command takes from the workspace where its options are not given; said in one line."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from xmdpt_cli.cli.console import Talk
from xmdpt_cli.cli.workspace import (
    RUNS,
    VAE,
    Model,
    dataset_of,
    dataset_of_run,
    dataset_of_samples,
    decoded_by,
    model_at,
    newest_dataset,
    newest_model,
    quote,
    read_record,
    samples_folder,
    tuned_vae,
)
from xmdpt_cli.errors import XmdptError


def training_data(talk: Talk, given: str | None, out: Path) -> str:
    """The dataset to train on: as given, the one the run in ``out`` has, or the newest."""
    if given is not None:
        return given
    known = dataset_of_run(out)
    if known is not None:
        talk.say(f"data: {known.path} (what {out} was begun with), run: {out}")
        return str(known.path)
    newest, count = newest_dataset()
    talk.say(f"data: {newest.path} (newest of {count}), run: {out}")
    return str(newest.path)


class Choice(NamedTuple):
    """What to sample with, given or chosen. ``data`` is None for the user's own images."""

    model: str
    data: str | None
    vae: str | None
    out: Path


def choose_for_sampling(
    talk: Talk,
    model: str | None,
    data: str | None,
    vae: str | None,
    out: Path | None,
    *,
    own: bool = False,
    suffix: str = "",
) -> Choice:
    """Fill in what was not given, and say so in one line.

    ``own``: the user's own images, which need no dataset. ``suffix``: of the folder's name.
    A VAE fine-tuned on the model's dataset is taken unless the model brings its own.
    """
    said = []
    if model is None:
        newest, count = newest_model()
        known: Model | None = newest
        model = str(newest.path)
        said.append(f"model: {newest} (newest of {count})")
    else:
        known = model_at(model)
    if data is None and not own:
        if known is None:  # a hub id
            dataset, count = newest_dataset()
            found, why = dataset.path, f"newest of {count}"
        else:
            found, why = dataset_of(known)
        data = str(found)
        said.append(f"data: {data} ({why})")
    tuned = None
    if vae is None and not (known and known.brings_vae()):
        tuned = _tuned_for(known, data)
        if tuned is not None:
            vae = str(tuned)
            said.append(f"VAE: {vae} (fine-tuned on this dataset)")
    if out is None:
        steps = None if known is None else known.steps
        out = samples_folder(model, steps, suffix or ("-own" if own else ""), tuned)
        said.append(f"out: {out}")
    if said:
        talk.say(", ".join(said))
    return Choice(model, data, vae, out)


def _tuned_for(model: Model | None, data: str | None) -> Path | None:
    """The fine-tuned VAE of the dataset, or for own images of the one the model was trained on."""
    if data is None and model is not None:
        try:
            data = str(dataset_of(model)[0])
        except XmdptError:  # own images need no dataset
            return None
    return None if data is None else tuned_vae(data)


def choose_for_measuring(
    talk: Talk, generated: Path, data: str | None, vae: str | None
) -> tuple[str, str | None]:
    """The dataset that a folder of images was generated from, and its VAE; said in one line."""
    said = []
    if data is None:
        known = dataset_of_samples(generated)
        if known is None:
            newest, count = newest_dataset()
            known, why = newest.path, f"newest of {count}"
        else:
            why = f"what {generated} was generated from"
        data = str(known)
        said.append(f"data: {data} ({why})")
    if vae is None:
        tuned = tuned_vae(data)
        record = read_record(generated / "samples.json")
        # samples decoded before it was fine-tuned are compared with what they were decoded by
        if tuned is not None and (record is None or decoded_by(record, tuned)):
            vae = str(tuned)
            said.append(f"VAE: {vae} (fine-tuned on this dataset)")
    if said:
        talk.say(", ".join(said))
    return data, vae


def choose_for_vae(talk: Talk, data: str | None, out: Path | None) -> tuple[str, Path]:
    """The dataset that a VAE is fine-tuned on, and the VAE's folder; said in one line."""
    said = []
    if data is None:
        newest, count = newest_dataset()
        data = str(newest.path)
        said.append(f"data: {data} (newest of {count})")
    if out is None:
        from xmdpt_cli.data.manifest import read_manifest
        from xmdpt_cli.storage.stores import open_store

        out = VAE / str(read_manifest(open_store(data))["resolution"])
        said.append(f"out: {out}")
    if said:
        talk.say(", ".join(said))
    return data, out


def next_sample(run: Path) -> str:
    """How to sample from a run: nothing need be named where it is the newest of the workspace."""
    return "xmdpt sample" if run.parent == RUNS else f"xmdpt sample --model {quote(run)}"
