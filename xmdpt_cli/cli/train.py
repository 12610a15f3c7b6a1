"""``xmdpt train``: a prepared dataset -> a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xmdpt_cli.cli.console import Talk, duration, warn_if_busy
from xmdpt_cli.cli.help import panels
from xmdpt_cli.cli.next_command import sample_command
from xmdpt_cli.cli.options import (
    AsJson,
    DataDir,
    Device,
    pick_device,
    plain,
    quiet_libraries,
    with_options,
)
from xmdpt_cli.cli.workspace import run_folder
from xmdpt_cli.cli.workspace_defaults import training_data
from xmdpt_cli.config import complete_preset, resolve
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.files import human_bytes
from xmdpt_cli.training.config import TrainConfig

if TYPE_CHECKING:
    from xmdpt_cli.data.dataset import PairDataset
    from xmdpt_cli.training.task import TrainTask
    from xmdpt_cli.training.validation import Decode


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
    toy = " (TOY features)" if dataset.manifest["toy"] else ""
    if dry_run:
        task = TrainTask(recipe, dataset)
        for note in task.notes():
            talk.warn(note)
        _plan(talk, task, out, pick_device(device))
        return
    talk.say(
        f"training size {recipe.size}, conditioning {recipe.conditioning}, {len(dataset)} pairs"
        f"{toy}, {_amount(recipe, len(dataset))}"
    )
    if recipe.conditioning == "tokens":
        talk.say("conditioning 'tokens' is our extension: it departs from the paper")
    decode = (
        _decoder(dataset, data, vae, talk, pick_device(device)) if recipe.validate_every else None
    )
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
    if done.skipped:
        talk.warn(f"{done.skipped:,} pairs could not be read and were replaced by others")
    what = f"trained {done.steps} steps in {duration(done.seconds)}"
    if not done.steps_per_second:
        what = f"all {done.steps} steps were already done"
    talk.result(
        plain(vars(done)),
        text=f"{what}: {done.model}\nnext: {sample_command(out)}",
    )


def _plan(talk: Talk, task: TrainTask, out: Path, device: str) -> None:
    """Print the estimate and the settings."""
    import torch

    from xmdpt_cli.cli.dry_run import estimate_lines, setting_lines, warn_of_room
    from xmdpt_cli.storage.ranks import World
    from xmdpt_cli.training.estimate import estimate_training
    from xmdpt_cli.training.task import LARGE

    recipe, dataset = task.config, task.dataset
    where, world = torch.device(device), World.from_environment().size
    sharded = recipe.sharding == "fsdp" or (recipe.sharding == "auto" and recipe.size in LARGE)
    found = estimate_training(task, out, where, world, sharded and world > 1)
    warn_of_room(talk, found, out, where)
    counts, toy = found.parameters, " (TOY features)" if dataset.manifest["toy"] else ""
    kept = f"{recipe.keep_checkpoints} checkpoints of {human_bytes(found.checkpoint)}, one more "
    kept += "while it is written"
    if recipe.keep_every:
        kept += f", {recipe.steps // recipe.keep_every} kept for good"
    lines = [
        f"plan: size {recipe.size}, {len(dataset)} pairs{toy}, {_amount(recipe, len(dataset))}",
        f"parameters: {counts['training']:,} in training, {counts['inference']:,} in inference",
        *estimate_lines(found, f"{kept}, the model"),
        *setting_lines(recipe),
        "nothing was written (--dry-run)",
    ]
    plan = {"pairs": len(dataset), "toy": dataset.manifest["toy"], **found.to_json()}
    talk.result({**plan, "config": {**vars(recipe)}}, text="\n".join(lines))


def _amount(recipe: TrainConfig, pairs: int) -> str:
    """Number of steps and epochs, for messages."""
    if not recipe.batch_size:
        return f"{recipe.steps} steps, batches as large as fit"
    epochs = recipe.steps * recipe.batch_size / pairs
    return f"{recipe.steps} steps of {recipe.batch_size} ({epochs:.1f} epochs)"


def _decoder(
    dataset: PairDataset, data: str | Path, vae: str | None, talk: Talk, device: str
) -> Decode | None:
    """Decodes the latents of the validation; None, with a warning, if the VAE is not found."""
    from xmdpt_cli.encoders.places import find_vae
    from xmdpt_cli.encoders.vae import VAE

    try:
        found = VAE.load(find_vae(dataset.manifest["encoders"], data, vae), device=device)
    except XmdptError as err:
        if vae is not None:
            raise
        talk.warn(err.message)
        return None
    return found.decode
