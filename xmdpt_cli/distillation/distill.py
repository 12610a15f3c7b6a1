"""``xmdpt distill``: a teacher and a prepared dataset -> a faster model of the same size."""

from __future__ import annotations

from pathlib import Path

from typing_extensions import Unpack

from xmdpt_cli.distillation.config import DistillConfig
from xmdpt_cli.distillation.task import DistillTask
from xmdpt_cli.distillation.teacher import load_teacher
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.sampling.hub import model_name
from xmdpt_cli.sampling.sampler import Sampler
from xmdpt_cli.training.loop import FitOptions, TrainResult, fit, training_pairs
from xmdpt_cli.training.task import LARGE


def distill(
    config: DistillConfig,
    model: str | Path,
    data: str | Path,
    out: Path,
    *,
    teacher: Sampler | None = None,
    **options: Unpack[FitOptions],
) -> TrainResult:
    """Distil, or resume distilling, in the run folder ``out``; a collective under torchrun.

    ``model``: the teacher, as ``load_teacher`` takes it; ``teacher``: the same, if it is already
    loaded; ``options`` as in ``training.loop.fit``. Raises XmdptError if the model cannot be the
    teacher, if the dataset's features are not those it was trained on, and as ``train`` does.
    """
    if teacher is None:
        teacher = load_teacher(model, config)
    check_out(out, teacher)
    return fit(
        config,
        lambda: DistillTask(config, training_pairs(data, out), teacher, model_name(model)),
        out,
        large=teacher.model.size in LARGE,
        **options,
    )


def check_out(out: Path, teacher: Sampler) -> None:
    """XmdptError if ``out`` is the teacher's run, or its folder or a folder in it."""
    if teacher.folder is None:
        return
    folder = teacher.folder.resolve()
    run, place = folder.parent, out.resolve()
    if place.is_relative_to(folder) or (place == run and (run / "run.json").is_file()):
        what = "is in" if folder in place.parents else "is"
        raise XmdptError(f"--out {out} {what} the teacher's own folder", "choose another --out")
