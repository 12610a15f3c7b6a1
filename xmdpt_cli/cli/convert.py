"""``xmdpt convert``: a published checkpoint -> a model folder, and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from xmdpt_cli.cli import workspace
from xmdpt_cli.cli.console import Talk
from xmdpt_cli.cli.help import panels
from xmdpt_cli.cli.options import AsJson, quiet_libraries
from xmdpt_cli.errors import ConfigError
from xmdpt_cli.utils.counts import counted

if TYPE_CHECKING:
    from xmdpt_cli.model.convert import Converted


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
    from xmdpt_cli.model.convert import convert_to_folder, convert_to_published

    published = to == "published"
    if out is None:
        name = workspace.run_name(source)
        out = Path(f"{name}.pt") if published else workspace.MODELS / Path(name).stem
    if published and mask_ratio is not None:
        raise ConfigError("--mask-ratio is not part of a published checkpoint")
    talk = Talk(as_json)
    if published:
        done = convert_to_published(source, out, replace=force)
    else:
        ratio = 0.3 if mask_ratio is None else mask_ratio
        done = convert_to_folder(source, out, ratio, replace=force)
    if not done.written:
        kind = "published checkpoint" if published else "model folder"
        talk.say(f"{out} is already this {kind}: not written again")
    for note in done.notes:
        talk.say(note)
    if published and done.metadata["toy"]:
        talk.warn("the model was trained on features of toy encoders, not of the published ones")
    steps = done.metadata["trained_steps"]
    described = _described(done)
    text = f"{_sentence(described)}, under the published names: {out}"
    if not published:
        trained = "" if steps is None else f", trained for {counted(steps, 'step')}"
        text = (
            f"{_sentence(described)}{trained}: {out}\n"
            f"next: xmdpt sample --model {out} --source person.jpg --pose pose.json"
        )
    notes = {} if published else {"notes": done.notes}
    talk.result({"out": str(out), **described, "trained_steps": steps, **notes}, text=text)


def _described(done: Converted) -> dict[str, Any]:
    """Size and parameters of the model, ready for JSON."""
    from xmdpt_cli.model import parameter_counts

    model = done.model
    return {
        "resolution": done.metadata["resolution"],
        "size": None if model.size == "custom" else model.size,
        "depth": len(model.tdnet.blocks),
        "width": model.width,
        "heads": model.tdnet.heads,
        "mask_ratio": model.mask_ratio,
        "parameters": parameter_counts(model),
    }


def _sentence(described: dict[str, Any]) -> str:
    counts = described["parameters"]
    name = f"X-MDPT-{described['size']}" if described["size"] else "X-MDPT of no named size"
    return (
        f"{name} (depth {described['depth']}, width {described['width']}, "
        f"{described['heads']} heads), {described['resolution']} px, {counts['paper']:,} "
        f"parameters counted as in the paper ({counts['training']:,} in training, "
        f"{counts['inference']:,} in inference)"
    )
