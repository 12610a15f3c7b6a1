"""``xmdpt sample``: a model and a prepared dataset -> pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xmdpt_cli.commands.options import AsJson, DataDir, Device, pick_device, quiet_libraries
from xmdpt_cli.console import Talk


def sample(
    data: DataDir,
    model: Annotated[Path, typer.Option(help="Model folder (RUN/model of xmdpt train).")],
    out: Annotated[Path, typer.Option(help="Folder for the PNGs and the contact sheet.")],
    split: Annotated[str, typer.Option(help="Which pairs to draw: test or train.")] = "test",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many pairs.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="DDIM steps [the model's].")] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Guidance scale gamma (eq. 6) [the model's].")
    ] = None,
    power: Annotated[
        float | None, typer.Option(help="Power alpha of its schedule (eq. 6) [the model's].")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="A picture depends on it and its pair.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Pairs drawn together.")] = 8,
    vae: Annotated[
        str | None, typer.Option(help="VAE to decode with: hub id or folder [the dataset's].")
    ] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Draw every pair: the source's person in the target's pose; resumes what is there."""
    quiet_libraries()
    from xmdpt_cli.data.loader import PairDataset
    from xmdpt_cli.encoders.vae import VAE
    from xmdpt_cli.sampling.generate import find_vae, generate
    from xmdpt_cli.sampling.sampler import Sampler

    talk = Talk(as_json)
    where = pick_device(device)
    sampler = Sampler.load(model, where)
    dataset = PairDataset(data, split)
    decoder = VAE.load(find_vae(dataset.manifest["encoders"], data, vae), device=where)
    recipe = sampler.recipe(steps=steps, guidance=guidance, power=power, seed=seed)
    with talk.progress() as progress:
        record = generate(
            sampler,
            dataset,
            decoder,
            out,
            recipe,
            limit=limit,
            batch_size=batch_size,
            progress=progress,
        )
    toy = " (TOY model)" if record["toy"] else ""
    talk.result(
        {"out": str(out), **record},
        text=f"{record['pictures']} pictures{toy} in {out}, to look at: {record['sheet']}\n"
        f"next: xmdpt evaluate --data {data} --generated {out}",
    )
