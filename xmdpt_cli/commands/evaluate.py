"""``xmdpt evaluate``: generated pictures -> named numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from xmdpt_cli.commands.options import AsJson, Device, pick_device, quiet_libraries
from xmdpt_cli.console import Talk, table
from xmdpt_cli.errors import ConfigError


def evaluate(
    generated: Annotated[Path, typer.Option(help="Folder of generated pictures.")],
    data: Annotated[
        str | None, typer.Option(help="Prepared dataset they were drawn from (xmdpt sample).")
    ] = None,
    target: Annotated[
        Path | None, typer.Option(help="Or: folder of ground truths with the same file names.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of --data they were drawn from.")] = "test",
    protocol: Annotated[
        str | None,
        typer.Option(help="cfld (to 256x176) or native (as is) [cfld; native below 256 px]."),
    ] = None,
    alexnet_weights: Annotated[
        str | None,
        typer.Option(help="LPIPS trunk: torchvision's file, toy, or off [torch hub's, else toy]."),
    ] = None,
    inception_weights: Annotated[
        str | None,
        typer.Option(help="FID network: torchvision's file, toy, toyconv, or off [as above]."),
    ] = None,
    wardrobe: Annotated[
        bool, typer.Option("--wardrobe", help="Add the toy measures for drawn people.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="JSON to write [GENERATED/metrics.json].")
    ] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure SSIM (two kinds), PSNR, L1, LPIPS and FID beside rows that calibrate them."""
    if (data is None) == (target is None):
        raise ConfigError("give either --data DIR or --target DIR: the ground truths")
    quiet_libraries()
    from xmdpt_cli.metrics.evaluate import evaluate_pairs, pair_folders
    from xmdpt_cli.metrics.protocols import mean_picture
    from xmdpt_cli.metrics.report import table as cells
    from xmdpt_cli.metrics.report import write_json
    from xmdpt_cli.sampling.truths import DatasetTruths, FolderTruths

    talk = Talk(as_json)
    where = pick_device(device)
    truths: DatasetTruths | FolderTruths
    if data is not None:
        truths = DatasetTruths(data, split, generated, device=where)
    else:
        assert target is not None
        found = pair_folders(generated, target)
        for path in (*found.generated_only[:3], *found.target_only[:3]):
            talk.warn(f"no partner for {path}")
        truths = FolderTruths(found.pairs)
    protocol = protocol or ("cfld" if truths.height >= 256 else "native")
    perceptual, features = networks(alexnet_weights, inception_weights, where, talk)
    with talk.progress() as progress:
        report = evaluate_pairs(
            truths.pairs(),
            protocol=protocol,
            lpips=perceptual,
            fid_features=features,
            real=truths.real(),
            mean_image=mean_picture(truths.real(), protocol),
            wardrobe=wardrobe,
            progress=progress,
        )
    for note in report.notes:
        talk.warn(note)
    if truths.toy:
        report.notes.append("toy: made with toy encoders")
    path = out or generated / "metrics.json"
    write_json(path, report)
    plain = cells(report)
    title = f"protocol {report.protocol}, {report.counts['generated']} pictures" + (
        ", TOY model" if truths.toy else ""
    )
    data_out = report.to_json()
    data_out.pop("images")
    talk.result(
        {**data_out, "file": str(path)},
        table(title, plain.header, plain.rows),
        text=f"written: {path}",
    )


def networks(lpips: str | None, fid: str | None, device: str, talk: Talk) -> tuple[Any, Any]:
    """The LPIPS and FID networks asked for; without word the real ones if they are there."""
    from xmdpt_cli.errors import XmdptError
    from xmdpt_cli.metrics.fid import inception_features, toy_features
    from xmdpt_cli.metrics.lpips_metric import Lpips

    perceptual = features = None
    if lpips != "off":
        try:
            perceptual = Lpips(lpips, device)
        except XmdptError as err:
            if lpips is not None:
                raise
            talk.warn(f"{err.message}: LPIPS with a random trunk, named lpips_alex_toy")
            perceptual = Lpips("toy", device)
    if fid == "toyconv":
        features = toy_features(device)
    elif fid != "off":
        try:
            features = inception_features(fid, device)
        except XmdptError as err:
            if fid is not None:
                raise
            talk.warn(f"{err.message}: FID with a random network, named fid_toyconv")
            features = toy_features(device)
    return perceptual, features
