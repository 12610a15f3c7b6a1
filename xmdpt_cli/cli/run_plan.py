"""What ``xmdpt train`` and ``xmdpt distill`` share: plan, result, encoders, local copy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from xmdpt_cli.cli.console import Talk, duration
from xmdpt_cli.cli.dry_run import estimate_lines, setting_lines, warn_of_room
from xmdpt_cli.cli.next_command import sample_command
from xmdpt_cli.cli.options import plain
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.files import human_bytes
from xmdpt_cli.training.run_config import RunConfig
from xmdpt_cli.utils.counts import counted

if TYPE_CHECKING:
    from xmdpt_cli.data.dataset import PairDataset
    from xmdpt_cli.training.build_dataloader import EncoderPaths
    from xmdpt_cli.training.loop import TrainResult
    from xmdpt_cli.training.task import Task
    from xmdpt_cli.training.validation import Decode


def print_plan(
    talk: Talk,
    task: Task,
    what: list[str],
    *,
    size: str,
    out: Path,
    device: str,
    force: bool,
) -> None:
    """Print the notes, the plan and the settings; XmdptError where the training would raise one.

    ``what``: lines about what is trained, the first of which the amount of work follows; ``size``:
    of the model; ``force``: as for the training.
    """
    import torch

    from xmdpt_cli.storage.ranks import World
    from xmdpt_cli.training.distributed import Distributed
    from xmdpt_cli.training.estimate import estimate_training
    from xmdpt_cli.training.run_folder import check_run
    from xmdpt_cli.training.task import LARGE
    from xmdpt_cli.training.trainer import micro_batch

    for note in task.notes():
        talk.warn(note)
    check_run(out, task, force)
    config, dataset = task.config, task.dataset
    where, world = torch.device(device), World.from_environment().size
    large = config.sharding == "auto" and size in LARGE
    sharded = world > 1 and (large or config.sharding == "fsdp")
    if config.batch_size:  # ConfigError if the batch does not divide
        micro_batch(config, Distributed(world_size=world, sharding="fsdp" if sharded else "ddp"))
    found = estimate_training(task, out, where, world, sharded)
    warn_of_room(talk, found, out, where)
    counts = found.parameters
    kept = f"{counted(config.keep_checkpoints, 'checkpoint')} of {human_bytes(found.checkpoint)}, "
    kept += "one more while it is written"
    if config.keep_every:
        kept += f", {config.steps // config.keep_every} kept for good"
    lines = [
        f"plan: {what[0]}, {pairs_of(dataset)}, {amount(config, len(dataset))}",
        *what[1:],
        f"parameters: {counts['training']:,} in training, {counts['inference']:,} in inference",
        *estimate_lines(found, f"{kept}, the model"),
        *setting_lines(config),
        "nothing was written (--dry-run)",
    ]
    plan = {"pairs": len(dataset), "toy": dataset.manifest["toy"], **found.to_json()}
    talk.result({**plan, "config": {**vars(config)}}, text="\n".join(lines))


def pairs_of(dataset: PairDataset) -> str:
    toy = " (TOY features)" if dataset.manifest["toy"] else ""
    return f"{counted(len(dataset), 'pair')}{toy}"


def amount(config: RunConfig, pairs: int) -> str:
    """Number of steps and epochs, for messages."""
    if not config.batch_size:
        return f"{counted(config.steps, 'step')}, batches as large as fit"
    epochs = config.steps * config.batch_size / pairs
    return f"{counted(config.steps, 'step')} of {config.batch_size} ({epochs:,.1f} epochs)"


def print_result(talk: Talk, done: TrainResult, out: Path, verb: str, steps: int) -> None:
    """Print what was done and the next command. ``verb``: "trained", "distilled"; ``steps``: of
    the configuration."""
    if done.skipped:
        talk.warn(f"not readable and replaced by others: {counted(done.skipped, 'pair')}")
    what = f"{verb} {counted(done.steps, 'step')} in {duration(done.seconds)}"
    if done.steps > steps:
        what = f"nothing to do, the run is at step {done.steps:,}, beyond --steps {steps}"
    elif not done.steps_per_second:
        what = f"nothing to do, the run is at step {done.steps:,} of {steps:,}"
    talk.result(plain(vars(done)), text=f"{what}: {done.model}\nnext: {sample_command(out)}")


def encoder_paths(
    config: RunConfig, vae: str | None, dino_source: str | None, dino_pose: str | None
) -> EncoderPaths:
    """The encoders that were given; ConfigError if the run does not use them."""
    from xmdpt_cli.training.build_dataloader import EncoderPaths

    if (dino_source is not None or dino_pose is not None) and not config.online:
        raise ConfigError("--dino-source and --dino-pose need --online")
    if vae is not None and not (config.online or config.validate_every):
        raise ConfigError("--vae needs --online or --validate-every")
    return EncoderPaths(vae, dino_source, dino_pose)


def local_copy(talk: Talk, data: str, cache: Path | None) -> str:
    """The dataset, or its copy in the folder ``cache``, which is made first."""
    if cache is None:
        return data
    from xmdpt_cli.data.fetch import fetch_dataset

    with talk.progress() as progress:
        return str(fetch_dataset(data, cache, progress))


def decoder_of(
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
