"""Default values of options that depend on the workspace; each choice is printed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from xmdpt_cli.cli.console import Talk
from xmdpt_cli.cli.workspace import (
    RUNS,
    SAMPLES,
    TINY,
    VAE,
    Model,
    has_models,
    model_at,
    newest_dataset,
    newest_model,
    newest_teacher,
    read_record,
    run_name,
)
from xmdpt_cli.cli.workspace_links import (
    dataset_of,
    dataset_of_run,
    dataset_of_samples,
    decoded_by,
    tuned_vae,
)
from xmdpt_cli.encoders.places import LATENTS, is_tiny_word
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.toy import pretrained


def training_data(talk: Talk, given: str | None, out: Path) -> str:
    """The dataset to train on: ``given``, else that of the run in ``out``, else the newest."""
    if given is not None:
        return given
    dataset, reason = dataset_of_run(out), f"the dataset of {out}"
    if dataset is None:
        dataset, reason = newest_dataset()
    talk.say(f"data: {dataset.path} ({reason}), run: {out}")
    return str(dataset.path)


@dataclass(frozen=True)
class Choice:
    """What to sample with. ``data`` is None for the user's own images."""

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
    """Choose what was not given, and print the choices in one line.

    ``own``: the user's own images, which need no dataset. ``suffix``: of the output folder's name.
    For own images, the toy model of the package is chosen where there is no other, see
    ``toy_model``. A VAE that was fine-tuned on the model's dataset is chosen unless the model has
    its own. A tiny decoder must be asked for (``vae`` "tiny", or its folder), since its images
    differ.
    """
    notes = []
    known: Model | None
    toy = toy_model(model) if own or model is not None else None
    if toy is not None:
        why = "" if model is not None else "no model here: "
        notes.append(f"model: the toy model of the package ({why}it knows synthetic people only)")
        model, known = toy, _model_at(toy)
    elif model is None:
        known, reason = newest_model()
        model = str(known.path)
        notes.append(f"model: {known} ({reason})")
    else:
        known = _model_at(model)
    if data is None and not own:
        data, note = _data_for(known)
        notes.append(note)
    tuned = None
    if is_tiny_word(vae) or (vae is not None and (Path(vae) / LATENTS).is_file()):
        suffix = (suffix or ("-own" if own else "")) + "-tiny"
        if is_tiny_word(vae) and known is not None:  # a hub id: looked for when it is fetched
            of_model = known.tiny()
            vae = str(of_model or _tiny_for(known, data))
            reason = "the model's" if of_model else "trained on this dataset"
            notes.append(f"tiny decoder: {vae} ({reason})")
    elif vae is None and not (known and known.has_vae()):
        tuned = _tuned_for(known, data)
        if tuned is not None:
            vae = str(tuned)
            notes.append(f"VAE: {vae} (fine-tuned on this dataset)")
    if out is None:
        steps = None if known is None else known.steps
        name = model if toy is None else pretrained.NAME
        out = samples_folder(name, steps, suffix or ("-own" if own else ""), tuned)
        notes.append(f"out: {out}")
    _say(talk, notes)
    return Choice(model, data, vae, out)


def toy_model(model: str | None) -> str | None:
    """The folder of the package's toy model, if ``--model toy`` names it, or if no model is given
    and there is none in this folder; else None. XmdptError if it is named and not installed."""
    if model is None:
        wanted = pretrained.is_available() and not has_models()
    else:
        wanted = model == pretrained.NAME and not Path(model).exists()
    return str(pretrained.folder()) if wanted else None


def _model_at(model: str) -> Model | None:
    """The model in a folder; None for a hub id. XmdptError for a folder without a model: it needs
    no dataset."""
    known = model_at(model)
    if known is None and Path(model).is_dir():
        from xmdpt_cli.model.checkpoint import find_model

        find_model(Path(model))
    return known


def _data_for(model: Model | None) -> tuple[str, str]:
    """The dataset that a model was trained on, or the newest one for a model on the hub (None) or
    for none; and a note of the choice."""
    if model is None:
        dataset, reason = newest_dataset()
        path: str | Path = dataset.path
    else:
        path, reason = dataset_of(model)
    return str(path), f"data: {path} ({reason})"


def _say(talk: Talk, notes: list[str]) -> None:
    if notes:
        talk.say(", ".join(notes))


def _tiny_for(model: Model | None, data: str | None) -> Path:
    """The tiny decoder in the workspace, see ``_tuned_for``. XmdptError if there is none."""
    found = _tuned_for(model, data, tiny=True)
    if found is None:
        raise XmdptError(
            f"no tiny decoder in the model's folder, and none of its dataset in {TINY}/",
            "make one: xmdpt finetune-vae --decoder tiny; or name its folder: --vae DIR",
        )
    return found


def preview_decoder(model: str, vae: str | None) -> str | None:
    """The tiny decoder for previews: that of the model's dataset in the workspace, if any, unless
    ``vae`` names one or the model has its own."""
    known = model_at(model)
    if is_tiny_word(vae) or known is None or known.tiny():
        return None
    found = _tuned_for(known, None, tiny=True)
    return None if found is None else str(found)


def _tuned_for(model: Model | None, data: str | None, *, tiny: bool = False) -> Path | None:
    """The fine-tuned VAE of the dataset, or its tiny decoder; for own images, of the model's
    dataset."""
    if data is None and model is not None:
        try:
            data = str(dataset_of(model)[0])
        except XmdptError:  # own images need no dataset
            return None
    return None if data is None else tuned_vae(data, tiny=tiny)


@dataclass(frozen=True)
class Distillation:
    """The teacher, the dataset and the run folder of a distillation."""

    model: str
    data: str
    out: Path


def choose_for_distilling(
    talk: Talk, model: str | None, data: str | None, out: Path | None, stage: str, name: str
) -> Distillation:
    """Choose what was not given, and print the choices in one line.

    ``stage``: "guidance" or "steps"; ``name``: of the student, at the end of its run's folder. A
    run that exists keeps its teacher.
    """
    notes = []
    known: Model | None
    if model is None:
        known, reason = _teacher_of_run(out) or newest_teacher(stage)
        model = str(known.path)
        notes.append(f"model: {known} ({reason})")
    else:
        known = _model_at(model)
    if data is None:
        data, note = _data_for(known)
        notes.append(note)
    if out is None:
        out = RUNS / f"{run_name(model).removesuffix('-guidance')}-{name}"
        notes.append(f"out: {out}")
    _say(talk, notes)
    return Distillation(model, data, out)


def _teacher_of_run(out: Path | None) -> tuple[Model, str] | None:
    """The teacher of the run in ``out``, if it is still where it was."""
    record = None if out is None else read_record(out / "run.json")
    folder = (record or {}).get("teacher_folder")
    found = model_at(folder) if isinstance(folder, str) else None
    return None if found is None else (found, f"the teacher of {out}")


def samples_folder(
    model: str | Path, steps: int | None, suffix: str = "", vae: Path | None = None
) -> Path:
    """The default folder for the samples of a model: ``samples/<run>``.

    If it has samples of an earlier step of the run: ``samples/<run>-step_0400000``; if those were
    decoded by another VAE than ``vae``: ``samples/<run>-vae``.
    """
    folder = SAMPLES / f"{run_name(model)}{suffix}"
    record = read_record(folder / "samples.json")
    if record and steps is not None and record.get("trained_steps") not in (None, steps):
        folder = folder.with_name(f"{folder.name}-step_{steps:07d}")
        record = read_record(folder / "samples.json")
    if record and vae is not None and not decoded_by(record, vae):
        folder = folder.with_name(f"{folder.name}-vae")
    return folder


def choose_for_measuring(
    talk: Talk, generated: Path, data: str | None, vae: str | None
) -> tuple[str, str | None]:
    """The dataset that a folder of images was generated from, and its VAE; both are printed."""
    notes = []
    if data is None:
        path, reason = dataset_of_samples(generated), f"what {generated} was generated from"
        if path is None:
            dataset, reason = newest_dataset()
            path = dataset.path
        data = str(path)
        notes.append(f"data: {data} ({reason})")
    if is_tiny_word(vae):
        vae = str(_tiny_for(None, data))
    if vae is None:
        tuned, tiny = tuned_vae(data), tuned_vae(data, tiny=True)
        record = read_record(generated / "samples.json")
        if tiny is not None and record is not None and decoded_by(record, tiny):
            vae = str(tiny)
            notes.append(f"VAE: {vae} (the tiny decoder of these samples)")
        # not for samples that were decoded before the VAE was fine-tuned
        elif tuned is not None and (record is None or decoded_by(record, tuned)):
            vae = str(tuned)
            notes.append(f"VAE: {vae} (fine-tuned on this dataset)")
    _say(talk, notes)
    return data, vae


def choose_for_vae(
    talk: Talk, data: str | None, out: Path | None, *, tiny: bool = False
) -> tuple[str, Path]:
    """The dataset that a VAE is fine-tuned on, and the VAE's folder; both are printed.

    ``tiny``: of a tiny decoder of the VAE's latents.
    """
    notes = []
    if data is None:
        data, note = _data_for(None)
        notes.append(note)
    if out is None:
        from xmdpt_cli.data.manifest import read_manifest
        from xmdpt_cli.storage.stores import open_store

        out = (TINY if tiny else VAE) / str(read_manifest(open_store(data))["resolution"])
        notes.append(f"out: {out}")
    _say(talk, notes)
    return data, out
