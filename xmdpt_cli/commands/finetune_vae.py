"""``xmdpt finetune-vae``: train the VAE's decoder on the training pictures."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from xmdpt_cli.commands.options import AsJson, DataDir, Device, pick_device, plain, quiet_libraries
from xmdpt_cli.console import Talk, duration


def finetune_vae(
    data: DataDir,
    out: Annotated[Path, typer.Option(help="Folder for the fine-tuned VAE (diffusers format).")],
    vae: Annotated[
        str | None, typer.Option(help="VAE to start from: hub id or folder [the dataset's].")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 10_000,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures per step.")] = 4,
    learning_rate: Annotated[float | None, typer.Option(help="AdamW's [chosen to fit].")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Fine-tune the decoder alone (paper): latents, and models trained on them, stay valid."""
    quiet_libraries()
    import numpy as np

    from xmdpt_cli.data.loader import PairDataset
    from xmdpt_cli.encoders.vae import VAE
    from xmdpt_cli.errors import XmdptError
    from xmdpt_cli.sampling.generate import find_vae
    from xmdpt_cli.training.toy import DatasetPictures
    from xmdpt_cli.training.vae_loop import train_vae

    talk = Talk(as_json)
    dataset = PairDataset(data, "train")
    where = find_vae(dataset.manifest["encoders"], data, vae)
    network = VAE.load(where, device=pick_device(device))
    try:
        test = DatasetPictures(PairDataset(data, "test"))
        held_out = np.stack([test[i] for i in range(min(32, len(test)))])
    except XmdptError:
        held_out = None
    with talk.progress() as progress:
        stats = train_vae(
            network,
            DatasetPictures(dataset),
            out=out,
            held_out=held_out,
            steps=steps,
            batch_size=batch_size,
            lr=learning_rate,
            seed=seed,
            decoder_only=True,
            progress=progress,
        )
    before, after = stats.psnr_before, stats.psnr
    gain = "" if before is None or after is None else f", PSNR {before:.2f} -> {after:.2f} dB"
    talk.result(
        plain(dataclasses.asdict(stats)),
        text=f"fine-tuned {stats.steps} steps in {duration(stats.seconds)}{gain} (held out)"
        f": {out}\n"
        f"next: xmdpt sample --vae {out} ...",
    )
