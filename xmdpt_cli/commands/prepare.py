"""``xmdpt prepare``: photographs and lists -> shards of features."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xmdpt_cli.commands.options import AsJson, Device, human_bytes, pick_device, quiet_libraries
from xmdpt_cli.console import Talk
from xmdpt_cli.errors import ConfigError

LOSS_WARNED = 0.01  # share of the files that may be left out before it is said aloud


def prepare(
    root: Annotated[Path, typer.Option(help="Dataset folder: pictures and lists.")],
    out: Annotated[Path, typer.Option(help="Prepared dataset to write, or to go on with.")],
    size: Annotated[int, typer.Option(help="Side of the prepared squares in pixels.")] = 256,
    encoders: Annotated[
        str, typer.Option(help="'pretrained' networks, or 'toy': small ones, made on the spot.")
    ] = "pretrained",
    vae: Annotated[
        str | None, typer.Option(help="VAE: hub id or folder [stabilityai/sd-vae-ft-mse].")
    ] = None,
    dino_source: Annotated[
        str | None, typer.Option(help="Source DINOv2: hub id or folder [facebook/dinov2-giant].")
    ] = None,
    dino_pose: Annotated[
        str | None, typer.Option(help="Pose DINOv2: hub id or folder [facebook/dinov2-base].")
    ] = None,
    vae_steps: Annotated[
        int, typer.Option(min=1, help="Training steps of the toy VAE (toy encoders only).")
    ] = 600,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the toy encoders.")] = 0,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many garments of each split.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures per encoder call.")] = 16,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Resize, draw poses, encode with the VAE and DINOv2, write shards; goes on if interrupted."""
    quiet_libraries()
    given = {"--vae": vae, "--dino-source": dino_source, "--dino-pose": dino_pose}
    check_choice(encoders, [name for name, value in given.items() if value is not None], size)
    from xmdpt_cli.data.deepfashion import find_dataset
    from xmdpt_cli.data.prepare import prepare_dataset
    from xmdpt_cli.encoders.bundle import Encoders, load_encoders
    from xmdpt_cli.encoders.dino import DEFAULT_POSE, DEFAULT_SOURCE
    from xmdpt_cli.encoders.vae import DEFAULT_VAE
    from xmdpt_cli.training.toy import make_toy_encoders

    talk = Talk(as_json)
    listing = find_dataset(root)
    for line in listing.describe():
        talk.say(f"found: {line}")
    networks: Encoders
    with talk.progress() as progress:
        if encoders == "toy":
            networks = make_toy_encoders(
                listing,
                out / "encoders",
                size=size,
                seed=seed,
                vae_steps=vae_steps,
                limit=limit,
                progress=progress,
            ).encoders
        else:
            networks = load_encoders(
                vae or DEFAULT_VAE,
                dino_source or DEFAULT_SOURCE,
                dino_pose or DEFAULT_POSE,
                device=pick_device(device),
            )
        manifest = prepare_dataset(
            listing,
            out,
            size=size,
            encoder=networks,
            batch_size=batch_size,
            limit=limit,
            progress=progress,
        )
    skipped = manifest["skipped"]
    for file, reason in skipped[:5]:
        talk.warn(f"left out: {file}: {reason}")
    if len(skipped) > 5:
        talk.warn(f"... and {len(skipped) - 5} more: all are in {out / 'dataset.json'}")
    counts = manifest["counts"]
    images = sum(split["images"] for split in counts.values())
    size_on_disk = human_bytes(sum(shard["bytes"] for shard in manifest["shards"]))
    if len(skipped) > LOSS_WARNED * (images + len(skipped)):
        share = 100 * len(skipped) / (images + len(skipped))
        talk.warn(
            f"{share:.0f} % of the files are left out: is {root} whole, are the lists its own?"
        )
    toy = " with TOY encoders (for trying the way, not for results)" if manifest["toy"] else ""
    talk.result(
        {"out": str(out), **{k: v for k, v in manifest.items() if k != "shards"}},
        text=f"prepared {images} pictures at {size} px{toy}: {counts['train']['pairs']} training "
        f"and {counts['test']['pairs']} test pairs, {size_on_disk}, {len(skipped)} left out\n"
        f"next: xmdpt train --data {out} --out RUN",
    )


def check_choice(encoders: str, named: list[str], size: int) -> None:
    """ConfigError for options that do not go together."""
    if encoders not in ("pretrained", "toy"):
        raise ConfigError(f"--encoders is 'pretrained' or 'toy', not {encoders!r}")
    if encoders == "toy" and named:
        raise ConfigError(f"{named[0]} names a network, --encoders toy makes its own: choose one")
    if size < 16 or size % 16:
        raise ConfigError(f"--size must be a multiple of 16 from 16 on, not {size}")
