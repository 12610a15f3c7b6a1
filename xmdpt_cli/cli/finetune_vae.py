"""``xmdpt finetune-vae``: train the VAE's decoder, or a tiny one, on the training images."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xmdpt_cli.cli import workspace
from xmdpt_cli.cli.console import Talk, duration, table, warn_if_busy
from xmdpt_cli.cli.help import panels
from xmdpt_cli.cli.options import (
    AsJson,
    DataDir,
    Device,
    DryRun,
    pick_device,
    plain,
    quiet_libraries,
    with_options,
)
from xmdpt_cli.cli.workspace_defaults import choose_for_vae
from xmdpt_cli.config import resolve
from xmdpt_cli.errors import ConfigError
from xmdpt_cli.utils.counts import counted
from xmdpt_cli.vae_training.config import VaeConfig

if TYPE_CHECKING:
    from xmdpt_cli.encoders.vae import VAE
    from xmdpt_cli.metrics.lpips_metric import LpipsNetwork
    from xmdpt_cli.vae_training.finetune import FineTuned
    from xmdpt_cli.vae_training.plan import Plan

SECTION = "finetune_vae"


@panels(
    {
        "Run": "data out config vae decoder start limit dry-run seed",
        "Training": "epochs steps batch-size learning-rate ema all-weights cached-latents "
        "precision checkpoint-every",
        "Loss": "l1 mse lpips alexnet-weights face-weight foreground-weight full-share",
    }
)
@with_options(VaeConfig)
def finetune_vae(
    data: DataDir = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write or resume, diffusers format [vae/RESOLUTION; tiny: "
            "vae-tiny/RESOLUTION]."
        ),
    ] = None,
    vae: Annotated[
        str | None, typer.Option(help="VAE to start from: hub id or folder [the dataset's].")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            help="AutoencoderTiny that a tiny decoder starts from: hub id, folder, or none for "
            "random weights [madebyollin/taesd where it fits and is found, else none]."
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with a [finetune_vae] table.")
    ] = None,
    alexnet_weights: Annotated[
        str | None,
        typer.Option(
            help="AlexNet of LPIPS: file, toy, or off [torchvision's, downloaded; toy data: toy]."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Number of test images to evaluate on [all].")
    ] = None,
    dry_run: DryRun = False,
    device: Device = "auto",
    as_json: AsJson = False,
    **flags: Any,
) -> None:
    """Fine-tune the VAE's decoder, as the paper does.

    The encoder is not changed, so latents and models trained on them stay valid. With --decoder
    tiny, train a small network that imitates the decoder at a fraction of its cost. Run the same
    command again to resume.
    """
    recipe = resolve(VaeConfig, SECTION, flags, file=config)
    _check_tiny(recipe, start, flags)
    quiet_libraries()
    from xmdpt_cli.data.dataset import PairDataset
    from xmdpt_cli.storage.ranks import World
    from xmdpt_cli.training.distributed import Distributed
    from xmdpt_cli.vae_training.finetune import finetune
    from xmdpt_cli.vae_training.plan import lpips_networks, make_plan
    from xmdpt_cli.vae_training.tiny import start_tiny

    talk = Talk(as_json, quiet=World.from_environment().rank > 0)  # under torchrun rank 0 prints
    data, out = choose_for_vae(talk, data, out, tiny=recipe.tiny)
    warn_if_busy(talk)
    dist = Distributed.init(pick_device(device), "ddp") if not dry_run else Distributed()
    where = str(dist.device)
    network = _start(recipe, data, vae, where)
    tiny, begun = None, ""
    if recipe.tiny:
        dataset = PairDataset(data, "train")
        tiny, begun = start_tiny(dataset, network, start, seed=recipe.seed, dist=dist)
    plan = make_plan(recipe, data, network, limit, tiny)
    toy = bool(plan.train.dataset.manifest["toy"])
    with talk.progress() as progress:
        perceptual, measured, notes = lpips_networks(
            recipe, alexnet_weights, toy, where, dist, progress
        )
    summary = _plan(plan, toy, None if perceptual is None else perceptual.weights, begun)
    if dry_run:
        _dry_run(talk, recipe, plan, summary, perceptual, out, pick_device(device))
        return
    talk.say("; ".join(_plan_lines(summary)))
    for note in notes:
        talk.warn(note)
    with talk.progress() as progress:
        done = finetune(
            plan,
            out,
            perceptual=perceptual,
            lpips=measured,
            notes=notes,
            dist=dist,
            progress=progress,
            say=talk.say,
        )
    _print(talk, done, out, data, recipe)


def _dry_run(
    talk: Talk,
    recipe: VaeConfig,
    plan: Plan,
    summary: dict[str, Any],
    perceptual: LpipsNetwork | None,
    out: Path,
    device: str,
) -> None:
    """Print the estimate and the settings; XmdptError where the training would raise one."""
    import torch

    from xmdpt_cli.cli.dry_run import estimate_lines, setting_lines, warn_of_room
    from xmdpt_cli.storage.ranks import World
    from xmdpt_cli.vae_training.estimate import estimate_finetuning
    from xmdpt_cli.vae_training.finetune import identity_of
    from xmdpt_cli.vae_training.folder import check_training

    check_training(out, identity_of(plan, perceptual))
    where = torch.device(device)
    plan.vae.to(where)
    plan.decoder.to(where)
    found = estimate_finetuning(plan, perceptual, out, World.from_environment().size)
    warn_of_room(talk, found, out, where)
    lines = [
        *_plan_lines(summary),
        *estimate_lines(found, "the state twice while it is written, the network"),
        *setting_lines(recipe, plan.config),
        "nothing was written (--dry-run)",
    ]
    plain_plan = {**summary, **found.to_json(), "steps": plan.config.steps}
    talk.result({**plain_plan, "config": vars(plan.config)}, text="\n".join(lines))


def _start(recipe: VaeConfig, data: str, vae: str | None, device: str) -> VAE:
    """The VAE to train: as given, the dataset's, or a small untrained one."""
    from xmdpt_cli.data.dataset import PairDataset
    from xmdpt_cli.encoders.places import find_vae
    from xmdpt_cli.encoders.vae import VAE
    from xmdpt_cli.toy.encoders import toy_vae

    dataset = PairDataset(data, "train")
    if recipe.all_weights:
        if vae is not None:
            raise ConfigError(
                "--all-weights trains a new small VAE and does not start from another one",
                "leave out --vae, or leave out --all-weights to fine-tune that VAE's decoder",
            )
        made = toy_vae(dataset.resolution, recipe.seed)
        made.net.to(device)
        return made
    return VAE.load(find_vae(dataset.manifest["encoders"], data, vae), device=device)


def _check_tiny(recipe: VaeConfig, start: str | None, flags: dict[str, Any]) -> None:
    """ConfigError for options of a tiny decoder without --decoder tiny."""
    for name, given in (("start", start), ("full-share", flags.get("full_share"))):
        if given is not None and not recipe.tiny:
            raise ConfigError(
                f"--{name} is an option of --decoder tiny",
                f"add --decoder tiny, or leave out --{name}",
            )


def _plan(plan: Plan, toy: bool, trunk: str | None, begun: str) -> dict[str, Any]:
    """The plan as plain data. ``begun``: what a tiny decoder starts from."""
    from xmdpt_cli.files import human_bytes
    from xmdpt_cli.vae_training.trainer import trained_parts

    config = plan.config
    count = sum(p.numel() for p in trained_parts(plan.decoder, config.all_weights).parameters())
    decoder = "tiny decoder" if config.tiny else "decoder"
    targets = f"{config.full_share:g} x full decoder, {1 - config.full_share:g} x photographs"
    copies = 4 if config.ema else 3  # weights, Adam's two moments, the average
    return {
        "VAE": plan.vae.origin.id,
        "trains": "all weights" if config.all_weights else decoder,
        **({"starts_from": begun, "targets": targets} if config.tiny else {}),
        "parameters": count,
        "images": len(plan.train),
        "toy": toy,
        "steps": config.steps,
        "epochs": round(config.epochs, 2),
        "learning_rate": config.learning_rate,
        "latents": "the dataset's" if plan.train.cached else "encoded in every step",
        "LPIPS": f"{config.lpips:g} x {trunk}" if trunk else "none",
        "test_images": plan.measured,
        "state_on_disk": human_bytes(4 * count * copies),
    }


def _plan_lines(summary: dict[str, Any]) -> list[str]:
    """The plan as text, one line for each entry; ``toy`` only where it is true."""
    shown = {name: "yes" if value is True else value for name, value in summary.items()}
    return [f"{k.replace('_', ' ')}: {v}" for k, v in shown.items() if v is not False]


def _print(talk: Talk, done: FineTuned, out: Path, data: str, recipe: VaeConfig) -> None:
    from xmdpt_cli.report.evaluation_json import to_json
    from xmdpt_cli.report.evaluation_text import table as cells
    from xmdpt_cli.vae_training.finetune import REPORT, ROWS

    stats, tables, toy = done.stats, [], ", TOY VAE" if done.toy else ""
    rows = ROWS[recipe.decoder]
    lines = [f"{counted(stats.steps, 'step')} in {duration(stats.seconds)}: {out}"]
    report = None
    if done.report is not None:
        shown = cells(done.report)
        title = f"reconstructions, protocol {done.report.protocol}{toy}"
        tables.append(table(title, shown.header, shown.rows))
        columns = f"ground truth, {rows.first}, {rows.second}"
        lines.append(f"images ({columns}): {out / rows.image}; report: {out / REPORT}")
        report = {k: v for k, v in to_json(done.report).items() if k != "images"}
    else:
        lines.append("no report: the dataset has no test images")
    if recipe.tiny:
        lines.append("the latents, the encoder and the full decoder are unchanged")
        lines.append(f"next, the images differ from the full decoder's: xmdpt sample --vae {out}")
    elif recipe.all_weights:
        lines.append("the encoder is new: latents of another encoder do not fit this VAE")
        lines.append(f"next: xmdpt prepare --vae {out} ... (the whole dataset again), then train")
    else:
        lines.append(
            f"encoder unchanged, sha256 {done.encoder['after']}: cached latents remain valid"
        )
        here = out.parent == workspace.VAE
        lines.append("next: xmdpt sample" + ("" if here else f" --data {data} --vae {out}"))
    talk.result(
        plain(
            {
                "vae": out,
                **dataclasses.asdict(stats),
                "encoder": done.encoder,
                "toy": done.toy,
                "report": report,
            }
        ),
        *tables,
        text="\n".join(lines),
    )
