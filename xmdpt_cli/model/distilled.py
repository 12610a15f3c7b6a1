"""What xmdpt.json says about a distilled model: its schema, and whether it fits the model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Len
from typing_extensions import TypedDict

from xmdpt_cli.diffusion.solvers import POLICY
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.utils.records import COPY_AGAIN


class TeacherRecord(TypedDict):
    """The model that a student was distilled from."""

    sha256: str  # of its weights (``Sampler.identity``)
    name: str  # of its folder, or its hub id
    trained_steps: int | None
    conditioning: str
    prediction: str


class Distilled(TypedDict):
    """How a student was distilled, and what it can sample."""

    stage: Literal["guidance", "steps"]
    steps: Annotated[int, Ge(1)] | None  # its sampling steps; None (stage "guidance"): any number
    guidance: Annotated[list[float], Len(2, 2)]  # lowest and highest scale
    power: float  # of the guidance schedule
    loss: str
    teacher: TeacherRecord


def check_distilled(metadata: Mapping[str, Any], path: Path, guidance_embed: bool) -> None:
    """XmdptError if the metadata contradicts itself, or the model's input of the guidance scale.

    ``path``: of xmdpt.json, for messages. The fields' types are already checked.
    """
    record: Distilled | None = metadata.get("distilled")
    if (record is not None) != guidance_embed:
        own = "has" if guidance_embed else "lacks"
        raise XmdptError(
            f"{path} does not fit the model: a distilled model, and no other, has the guidance "
            f"scale as an input; the model {own} it, {path.name} "
            f"{'lacks' if record is None else 'has'} the entry distilled",
            COPY_AGAIN,
        )
    if record is None:
        return
    low, high = record["guidance"]
    if not 1 <= low <= high < float("inf"):
        what = f"distilled.guidance should be a range from 1 upwards, not {low:g} to {high:g}"
    elif (record["steps"] is None) != (record["stage"] == "guidance"):
        what = f"distilled.steps cannot be {record['steps']} with stage {record['stage']!r}"
    elif metadata["prediction"] not in ("v", "flow"):
        what = f"a distilled model predicts 'v' or 'flow', not {metadata['prediction']!r}"
    else:
        _check_defaults(record, metadata["sampling"], path)
        return
    raise XmdptError(f"{path} is damaged: {what}", COPY_AGAIN)


def _check_defaults(record: Distilled, sampling: Mapping[str, Any], path: Path) -> None:
    """XmdptError if the student cannot sample with its own sampling defaults."""
    own = {"solver": "ddim", **sampling}
    (low, high), few = record["guidance"], record["steps"] is not None
    needed = {  # entry -> whether it fits, what it should be
        "steps": (not few or own["steps"] == record["steps"], record["steps"]),
        "solver": ((own["solver"] == POLICY) == few, POLICY if few else f"another than {POLICY}"),
        "power": (not few or own["power"] == record["power"], record["power"]),
        "guidance": (low <= own["guidance"] <= high, f"{low:g} to {high:g}"),
    }
    for name, (fits, wanted) in needed.items():
        if not fits:
            raise XmdptError(
                f"{path}: sampling.{name} is {own[name]}, the model was distilled for {wanted}",
                f"correct the entry, or {COPY_AGAIN}",
            )
