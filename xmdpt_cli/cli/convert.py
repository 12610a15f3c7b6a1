"""``xmdpt convert``: a published checkpoint -> a model folder, and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from xmdpt_cli.cli import workspace
from xmdpt_cli.cli.console import Talk
from xmdpt_cli.cli.help import panels
from xmdpt_cli.cli.options import AsJson, quiet_libraries
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.files import check_writable, content

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from xmdpt_cli.model import XMDPT


@panels({"Conversion": "out to mask-ratio force"})
def convert(
    source: Annotated[
        Path,
        typer.Argument(
            help="Published checkpoint (ema_*.pt), or a model folder for --to published."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Model folder to write, or the .pt file for --to published "
            "[models/NAME, or NAME.pt]."
        ),
    ] = None,
    to: Annotated[
        Literal["folder", "published"],
        typer.Option(help="Format to write; folder: for xmdpt, published: for the authors' code."),
    ] = "folder",
    mask_ratio: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Mask ratio that the model was trained with [0.3]."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an existing model at --out.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Convert a published checkpoint to a model folder, or back."""
    quiet_libraries()
    if out is None:
        name = workspace.run_name(source)
        out = Path(f"{name}.pt") if to == "published" else workspace.MODELS / Path(name).stem
    talk = Talk(as_json)
    if to == "published":
        if mask_ratio is not None:
            raise ConfigError("--mask-ratio is not part of a published checkpoint")
        _to_published(source, out, force, talk)
    else:
        _to_folder(source, out, 0.3 if mask_ratio is None else mask_ratio, force, talk)


def _to_folder(source: Path, out: Path, mask_ratio: float, force: bool, talk: Talk) -> None:
    from xmdpt_cli.model.checkpoint import is_model_folder, published_metadata, save_model
    from xmdpt_cli.model.published import from_published, plain_state, steps_in_name

    if is_model_folder(source) or is_model_folder(source / "model"):
        raise ConfigError(
            f"{source} is already a model folder", "to write a published file: --to published"
        )
    free = not out.exists() or (out.is_dir() and not content(out))
    _check_kind(out, free, "model folder", is_model_folder(out))
    check_writable(out / "model.safetensors")
    state = plain_state(source)
    model = from_published(state.tensors, mask_ratio)
    metadata = published_metadata(model, trained_steps=steps_in_name(source))
    notes = list(state.notes)
    if model.mipnet is None:
        notes.append(
            "the checkpoint has no MIPNet: the model can sample, but not be trained further"
        )
    if free or force or not _is_there(out, "model folder", _same_model(out, model, metadata), talk):
        save_model(out, model, metadata)
    for note in notes:
        talk.say(note)
    described = {"out": str(out), "resolution": metadata["resolution"], **_described(model)}
    trained = metadata["trained_steps"]
    after = "" if trained is None else f", trained for {trained:,} steps"
    talk.result(
        {**described, "trained_steps": trained, "notes": notes},
        text=f"{_called(described)}{after}: {out}\n"
        f"next: xmdpt sample --model {out} --source person.jpg --pose pose.json",
    )


def _to_published(source: Path, out: Path, force: bool, talk: Talk) -> None:
    from xmdpt_cli.model.checkpoint import load_model
    from xmdpt_cli.model.published import is_published, plain_state, save_published, to_published

    if out.suffix not in (".pt", ".pth"):
        raise ConfigError(f"--out must be a .pt file with --to published, not {out}")
    free, what = not out.exists(), "published checkpoint"
    _check_kind(out, free, what, is_published(out))
    check_writable(out)
    model, metadata = load_model(source)
    state = to_published(model, metadata)
    if free or force or not _is_there(out, what, _equal(plain_state(out).tensors, state), talk):
        save_published(out, state)
    if metadata["toy"]:
        talk.warn("the model was trained on features of toy encoders, not of the published ones")
    described = {"out": str(out), "resolution": metadata["resolution"], **_described(model)}
    talk.result(
        {**described, "trained_steps": metadata["trained_steps"]},
        text=f"{_called(described)}, under the published names: {out}",
    )


def _check_kind(out: Path, free: bool, what: str, same: bool) -> None:
    """XmdptError unless ``out`` is free, or holds the ``same`` kind of thing."""
    if not free and not same:
        raise XmdptError(f"{out} exists and is not a {what}", "choose another --out")


def _is_there(out: Path, what: str, equal: bool, talk: Talk) -> bool:
    """Whether ``out`` already equals what would be written, as after an interruption; prints so.
    XmdptError if it is another one."""
    if not equal:
        raise XmdptError(
            f"{out} is already a {what}", "choose another --out, or --force to replace it"
        )
    talk.say(f"{out} is already this {what}: not written again")
    return True


def _same_model(out: Path, model: XMDPT, metadata: dict[str, Any]) -> bool:
    from xmdpt_cli.model.checkpoint import load_model

    try:
        there, known = load_model(out)
    except XmdptError:  # a broken one: --force replaces it
        return False
    same = all(known.get(key) == value for key, value in metadata.items())
    same = same and there.mask_ratio == model.mask_ratio
    return same and _equal(there.state_dict(), model.state_dict())


def _equal(there: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> bool:
    """Whether these are the same tensors under the same names."""
    return there.keys() == wanted.keys() and all(
        there[key].shape == value.shape and bool((there[key] == value).all())
        for key, value in wanted.items()
    )


def _described(model: XMDPT) -> dict[str, Any]:
    from xmdpt_cli.model import parameter_counts

    net = model.tdnet
    return {
        "size": None if model.size == "custom" else model.size,
        "depth": len(net.blocks),
        "width": model.width,
        "heads": net.heads,
        "mask_ratio": model.mask_ratio,
        "parameters": parameter_counts(model),
    }


def _called(described: dict[str, Any]) -> str:
    counts = described["parameters"]
    named = f"X-MDPT-{described['size']}" if described["size"] else "X-MDPT of no named size"
    return (
        f"{named} (depth {described['depth']}, width {described['width']}, "
        f"{described['heads']} heads), "
        f"{described['resolution']} px, {counts['paper']:,} parameters counted as in the paper "
        f"({counts['training']:,} in training, {counts['inference']:,} in inference)"
    )
