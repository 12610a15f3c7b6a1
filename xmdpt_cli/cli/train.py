"""``xmdpt train``: a prepared dataset -> a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from xmdpt_cli.cli.console import Talk, warn_if_busy
from xmdpt_cli.cli.help import panels
from xmdpt_cli.cli.options import (
    AsJson,
    DataDir,
    Device,
    pick_device,
    quiet_libraries,
    with_options,
)
from xmdpt_cli.cli.run_plan import amount, decoder_of, pairs_of, print_plan, print_result
from xmdpt_cli.cli.workspace import run_folder
from xmdpt_cli.cli.workspace_defaults import training_data
from xmdpt_cli.config import complete_preset, resolve
from xmdpt_cli.errors import ConfigError
from xmdpt_cli.training.config import TrainConfig


@panels(
    {
        "Run": "data data-cache out preset config force dry-run seed",
        "Model": "size resolution source-encoder pose-encoder conditioning condition-parts "
        "aggregation predictor mask-ratio mask-span backbone decode-layers",
        "Loss": "prediction schedule loss-weighting masked-noise repa-weight repa-layer "
        "timestep-power cond-drop-prob",
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
    data_cache: Annotated[
        Path | None,
        typer.Option(
            help="Folder for a local copy of a remote dataset; it is copied once, then read."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Run folder to write or to resume [runs/SIZE or runs/PRESET]."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Preset of settings, e.g. paper/S-256; xmdpt presets lists all.",
            autocompletion=complete_preset,
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with a [train] table of settings.")
    ] = None,
    vae: Annotated[
        str | None,
        typer.Option(
            help="VAE for --online and --validate-every: hub id or folder [the dataset's]."
        ),
    ] = None,
    dino_source: Annotated[
        str | None,
        typer.Option(help="Source DINOv2 for --online: hub id or folder [the dataset's]."),
    ] = None,
    dino_pose: Annotated[
        str | None, typer.Option(help="Pose DINOv2 for --online: hub id or folder [the dataset's].")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Resume with changed settings, where a run allows it.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and write nothing.")
    ] = False,
    device: Device = "auto",
    as_json: AsJson = False,
    **flags: Any,
) -> None:
    """Train X-MDPT on a prepared dataset.

    Uses the paper's losses and an EMA of the weights. Run the same command again to resume.
    """
    recipe = resolve(TrainConfig, "train", flags, file=config, preset=preset)
    if out is None:
        out = run_folder(recipe.size, preset, flags.get("size") is not None)
    quiet_libraries()
    from xmdpt_cli.data.fetch import fetch_dataset
    from xmdpt_cli.storage.ranks import World
    from xmdpt_cli.training.build_dataloader import EncoderPaths
    from xmdpt_cli.training.loop import train, training_pairs
    from xmdpt_cli.training.task import TrainTask

    encoders = EncoderPaths(vae, dino_source, dino_pose)
    if EncoderPaths(None, dino_source, dino_pose) != EncoderPaths() and not recipe.online:
        raise ConfigError("--dino-source and --dino-pose need --online")
    if vae is not None and not (recipe.online or recipe.validate_every):
        raise ConfigError("--vae needs --online or --validate-every")
    talk = Talk(as_json, quiet=World.from_environment().rank > 0)  # under torchrun rank 0 prints
    data = training_data(talk, data, out)
    if data_cache is not None:
        with talk.progress() as progress:
            data = str(fetch_dataset(data, data_cache, progress))
    warn_if_busy(talk)
    dataset = training_pairs(data, out)
    if dry_run:
        task = TrainTask(recipe, dataset)
        print_plan(talk, task, [f"size {recipe.size}"], recipe.size, out, pick_device(device))
        return
    talk.say(
        f"training size {recipe.size}, conditioning {recipe.conditioning}, "
        f"{pairs_of(dataset)}, {amount(recipe, len(dataset))}"
    )
    if recipe.conditioning == "tokens":
        talk.say("conditioning 'tokens' is our extension: it departs from the paper")
    decode = None
    if recipe.validate_every:
        decode = decoder_of(dataset, data, vae, talk, pick_device(device))
    with talk.progress() as progress:
        done = train(
            recipe,
            data,
            out,
            device=pick_device(device),
            progress=progress,
            warn=talk.warn,
            say=talk.say,
            encoders=encoders,
            decode=decode,
            force=force,
        )
    print_result(talk, done, out, "trained")
