"""``xmdpt train``: a prepared dataset -> a model."""

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
from xmdpt_cli.cli.workspace import run_folder
from xmdpt_cli.cli.workspace_defaults import toy_model, training_data
from xmdpt_cli.config import complete_preset, resolve
from xmdpt_cli.training.config import TrainConfig
from xmdpt_cli.training.config_notes import departures


@panels(
    {
        "Run": "data data-cache init-from out preset config force dry-run seed",
        "Model": "size resolution source-encoder pose-encoder conditioning condition-parts "
        "aggregation predictor mask-ratio mask-span backbone decode-layers patch positions qk-norm",
        "Loss": "prediction schedule loss-weighting masked-noise repa-weight repa-layer "
        "repa-projector repa-norm repa-until attention-flow-weight attention-flow-joints "
        "attention-flow-layers contrastive-weight model-guidance timestep-sampling timestep-power "
        "logit-mean logit-std cond-drop-prob",
        "Optimization": "steps batch-size accumulate optimizer learning-rate warmup-steps decay "
        "weight-decay max-grad-norm ema ema-warmup",
        "Data": "swap swap-by flip online vae dino-source dino-pose",
        "Speed": "precision compile sharding",
        "Checkpoints and logging": "checkpoint-every keep-checkpoints keep-every log-every "
        "validate-every validation-pairs track",
        "Sampling defaults of the model": "sampling-steps sampling-solver guidance power",
    }
)
@with_options(TrainConfig)
def train(
    data: DataDir = None,
    data_cache: DataCache = None,
    init_from: Annotated[
        str | None,
        typer.Option(
            help="Model whose weights a new run starts from: model folder, run, hub id, or toy "
            "[random weights]."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Run folder to write or to resume [runs/SIZE, runs/PRESET or runs/FILE]."
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Preset of settings, e.g. paper/S-256; xmdpt presets lists all.",
            autocompletion=complete_preset,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help='TOML file with a [train] table of settings; base = "PRESET" above it inherits.'
        ),
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
    """Train X-MDPT on a prepared dataset.

    Uses the paper's losses and an EMA of the weights. Run the same command again to resume.
    """
    recipe = resolve(TrainConfig, "train", flags, file=config, preset=preset)
    if out is None:
        out = run_folder(recipe.size, flags.get("size") is not None, preset, config)
    quiet_libraries()
    from xmdpt_cli.storage.ranks import World
    from xmdpt_cli.training.loop import train, training_pairs
    from xmdpt_cli.training.run_folder import find_initial_weights
    from xmdpt_cli.training.task import TrainTask

    encoders = encoder_paths(recipe, vae, dino_source, dino_pose)
    talk = Talk(as_json, quiet=World.from_environment().rank > 0)  # under torchrun rank 0 prints
    data = training_data(talk, data, out)
    data = local_copy(talk, data, data_cache)
    warn_if_busy(talk)
    dataset = training_pairs(data, out)
    if init_from is not None:
        init_from = toy_model(init_from) or init_from
    if dry_run:
        task = TrainTask(recipe, dataset, find_initial_weights(init_from, out))
        where, what = pick_device(device), [f"size {recipe.size}"]
        if task.initial is not None:
            what.append(f"initial weights: {task.initial.source}")
        print_plan(talk, task, what, size=recipe.size, out=out, device=where, force=force)
        return
    talk.say(
        f"training size {recipe.size}, conditioning {recipe.conditioning}, "
        f"{pairs_of(dataset)}, {amount(recipe, len(dataset))}"
    )
    if init_from is not None:
        talk.say(f"initial weights: {init_from}")
    if found := departures(recipe):
        talk.say(f"this departs from the paper: {', '.join(found)}")
    decode = None
    if recipe.validate_every:
        decode = decoder_of(dataset, data, vae, talk, pick_device(device))
    with talk.progress() as progress:
        done = train(
            recipe,
            data,
            out,
            init_from=init_from,
            device=pick_device(device),
            progress=progress,
            warn=talk.warn,
            say=talk.say,
            encoders=encoders,
            decode=decode,
            force=force,
        )
    print_result(talk, done, out, "trained", recipe.steps)
