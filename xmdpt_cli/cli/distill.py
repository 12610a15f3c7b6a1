"""``xmdpt distill``: a trained model -> a faster one of the same architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from xmdpt_cli.cli.console import Talk, warn_if_busy
from xmdpt_cli.cli.help import panels
from xmdpt_cli.cli.options import (
    AsJson,
    DataCache,
    DataDir,
    Device,
    DryRun,
    Force,
    OnlineDinoPose,
    OnlineDinoSource,
    TrainingVae,
    pick_device,
    quiet_libraries,
    with_options,
)
from xmdpt_cli.cli.run_plan import (
    amount,
    decoder_of,
    encoder_paths,
    local_copy,
    pairs_of,
    print_plan,
    print_result,
)
from xmdpt_cli.cli.workspace_defaults import choose_for_distilling
from xmdpt_cli.config import complete_preset, resolve
from xmdpt_cli.distillation.config import DistillConfig
from xmdpt_cli.errors import ConfigError
from xmdpt_cli.utils.counts import counted


@panels(
    {
        "Run": "model data data-cache out preset config force dry-run seed",
        "Student": "stage student-steps min-guidance max-guidance",
        "Optimization": "steps batch-size accumulate optimizer learning-rate warmup-steps decay "
        "weight-decay max-grad-norm ema ema-warmup",
        "Data": "swap swap-by flip online vae dino-source dino-pose",
        "Speed": "precision compile sharding",
        "Checkpoints and logging": "checkpoint-every keep-checkpoints keep-every log-every "
        "validate-every validation-pairs track",
    }
)
@with_options(DistillConfig)
def distill(
    model: Annotated[
        str | None,
        typer.Option(help="Teacher: model folder, run or hub id [newest that can be one]."),
    ] = None,
    data: DataDir = None,
    data_cache: DataCache = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Run folder to write or to resume [runs/TEACHER-4-steps or runs/TEACHER-guidance]."
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Preset of settings, e.g. distill/4-steps; xmdpt presets lists all.",
            autocompletion=complete_preset,
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with a [distill] table of settings.")
    ] = None,
    vae: TrainingVae = None,
    dino_source: OnlineDinoSource = None,
    dino_pose: OnlineDinoPose = None,
    force: Force = False,
    dry_run: DryRun = False,
    device: Device = "auto",
    as_json: AsJson = False,
    **flags: Any,
) -> None:
    """Distil a trained model into a faster one.

    The student has the teacher's architecture. It predicts with guidance in one evaluation instead
    of two, and samples in --student-steps steps. Run the same command again to resume.
    """
    recipe = resolve(DistillConfig, "distill", flags, file=config, preset=preset)
    if recipe.stage == "guidance" and flags.get("student_steps") is not None:
        raise ConfigError(
            "--student-steps needs --stage steps",
            "a student of stage guidance samples in any number of steps: leave the option out",
        )
    quiet_libraries()
    from xmdpt_cli.distillation.distill import check_out, distill
    from xmdpt_cli.distillation.task import DistillTask
    from xmdpt_cli.distillation.teacher import load_teacher
    from xmdpt_cli.sampling.hub import model_name
    from xmdpt_cli.storage.ranks import World
    from xmdpt_cli.training.loop import training_pairs

    encoders = encoder_paths(recipe, vae, dino_source, dino_pose)
    talk = Talk(as_json, quiet=World.from_environment().rank > 0)  # under torchrun rank 0 prints
    name = "guidance" if recipe.stage == "guidance" else f"{recipe.student_steps}-steps"
    chosen = choose_for_distilling(talk, model, data, out, recipe.stage, name)
    model, data, out = chosen.model, chosen.data, chosen.out
    teacher = load_teacher(model, recipe)
    check_out(out, teacher)
    data = local_copy(talk, data, data_cache)
    warn_if_busy(talk)
    dataset = training_pairs(data, out)
    size, pairs = teacher.model.size, pairs_of(dataset)
    toy = " (TOY model)" if teacher.metadata["toy"] else ""
    if recipe.stage == "steps":
        aim = f"to {counted(recipe.student_steps, 'sampling step')} of one evaluation"
    else:
        aim = "the guidance, to one evaluation per sampling step"
    if dry_run:
        task = DistillTask(recipe, dataset, teacher, model_name(model))
        what = [f"distil {aim}, size {size}", f"teacher: {model}{toy}, {_sampling(teacher)}"]
        where = pick_device(device)
        print_plan(talk, task, what, size=size, out=out, device=where, force=force)
        return
    talk.say(
        f"distilling {model}{toy}, size {size}, {aim}, {pairs}, {amount(recipe, len(dataset))}"
    )
    decode = None
    if recipe.validate_every:
        decode = decoder_of(dataset, data, vae, talk, pick_device(device))
    with talk.progress() as progress:
        done = distill(
            recipe,
            model,
            data,
            out,
            teacher=teacher,
            device=pick_device(device),
            progress=progress,
            warn=talk.warn,
            say=talk.say,
            encoders=encoders,
            decode=decode,
            force=force,
        )
    print_result(talk, done, out, "distilled", recipe.steps)


def _sampling(teacher: Any) -> str:
    """The teacher's evaluations per image, in words."""
    own = teacher.metadata["sampling"]
    steps, both = own["steps"], teacher.model.guidance_embed is None and own["guidance"] != 1
    evaluations = counted(2 * steps if both else steps, "evaluation")
    sampling = f"{counted(steps, 'sampling step')} with guidance {own['guidance']:g}"
    return f"{sampling}: {evaluations} an image"
