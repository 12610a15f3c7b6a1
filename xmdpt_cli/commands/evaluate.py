"""``xmdpt evaluate``: generated pictures -> named numbers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xmdpt_cli.commands.options import AsJson, Device, pick_device, quiet_libraries
from xmdpt_cli.console import Talk, table
from xmdpt_cli.errors import ConfigError, XmdptError

if TYPE_CHECKING:
    from xmdpt_cli.metrics.evaluate import Networks
    from xmdpt_cli.metrics.protocols import Protocol
    from xmdpt_cli.metrics.report import Report

METRICS = ("fid", "ssim", "lpips", "psnr")


def evaluate(
    generated: Annotated[
        Path | None,
        typer.Option(help="Folder of generated pictures [with --model: MODEL/evaluation]."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Draw the pairs of --data with this model first, or go on drawing."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Prepared dataset they were drawn from (xmdpt sample).")
    ] = None,
    target: Annotated[
        Path | None, typer.Option(help="Or: folder of ground truths, paired by file name.")
    ] = None,
    real: Annotated[
        Path | None,
        typer.Option(help="FID's real set with --target: folder of photographs [--target]."),
    ] = None,
    split: Annotated[str, typer.Option(help="Split of --data they were drawn from.")] = "test",
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            help="cfld, pidm, pcdms, clean, native (as is), or all; again for several "
            "[cfld; native below 256 px]."
        ),
    ] = None,
    height: Annotated[
        int | None, typer.Option(help="256 (x 176) or 512 (x 352) [by the ground truths].")
    ] = None,
    fid: Annotated[bool, typer.Option("--fid", help="Only FID, and what else is named.")] = False,
    ssim: Annotated[bool, typer.Option("--ssim", help="Only SSIM, and so on.")] = False,
    lpips: Annotated[bool, typer.Option("--lpips", help="Only LPIPS, and so on.")] = False,
    psnr: Annotated[bool, typer.Option("--psnr", help="Only PSNR, and so on.")] = False,
    kid: Annotated[bool, typer.Option("--kid", help="KID as well.")] = False,
    alexnet_weights: Annotated[
        str | None,
        typer.Option(help="LPIPS trunk: torchvision's file, toy, or off [torch hub's, else toy]."),
    ] = None,
    inception_weights: Annotated[
        str | None,
        typer.Option(help="FID network: torchvision's file, toy, toyconv, or off [as above]."),
    ] = None,
    tf_inception_weights: Annotated[
        str | None,
        typer.Option(help="FID network of --protocol clean: torch-fidelity's file, toy, or off."),
    ] = None,
    intervals: Annotated[
        bool, typer.Option(help="95 % intervals by bootstrap over pictures.")
    ] = True,
    wardrobe: Annotated[
        bool, typer.Option("--wardrobe", help="Add the toy measures for drawn people.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="JSON to write, a CSV and a page beside it [GENERATED/metrics.json]."),
    ] = None,
    reference: Annotated[
        bool, typer.Option("--reference", help="The paper's own calibration beside the numbers.")
    ] = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure generated pictures beside rows that calibrate the numbers, by named protocols.

    Without --fid, --ssim, --lpips or --psnr all are measured.
    """
    chosen = SimpleNamespace(**locals())
    if (data is None) == (target is None):
        raise ConfigError("give either --data DIR or --target DIR: the ground truths")
    if model is not None and data is None:
        raise ConfigError("--model needs --data DIR: the pairs to draw")
    if generated is None:
        if model is None:
            raise ConfigError("give --generated DIR: the pictures to measure, or --model DIR")
        if not Path(model).is_dir():
            raise ConfigError(f"no such model folder: {model}", "a hub id needs --generated DIR")
        generated = Path(model) / "evaluation"
    if real is not None and data is not None:
        raise ConfigError(
            "--real does not go with --data, whose training pictures are the real set"
        )
    quiet_libraries()
    from xmdpt_cli.metrics.evaluate import evaluate as measure
    from xmdpt_cli.metrics.page import write_page
    from xmdpt_cli.metrics.reference import references
    from xmdpt_cli.metrics.report import plain, write_json
    from xmdpt_cli.metrics.table_csv import write_csv

    talk = Talk(as_json)
    where = pick_device(device)
    if model is not None:
        _draw(chosen, generated, talk)
    truths = _truths(chosen, generated, where, talk)
    protocols = _protocols(protocol or [], height, truths.height)
    networks = _networks(chosen, protocols, where, talk)
    with talk.progress() as progress:
        reports = measure(
            truths.pairs(),
            protocols,
            networks=networks,
            real=truths.real(),
            wardrobe=wardrobe,
            intervals=intervals,
            progress=progress,
        )
    wanted = [name for name in METRICS if getattr(chosen, name)]
    for report in reports:
        if wanted:
            report.keep([*wanted, *(["kid"] if kid else [])])
        if truths.toy:
            report.notes.append("toy: made with toy encoders")
    for note in dict.fromkeys(note for report in reports for note in report.notes):
        talk.warn(note)
    path = out or generated / "metrics.json"
    write_json(path, plain(reports))
    write_csv(path.with_suffix(".csv"), reports)
    known = references(protocols) if reference else []
    title = f"{generated} against {data or target}"
    write_page(path.with_suffix(".html"), reports, truths.shown, title=title, reference=known)
    _tell(talk, reports, path, truths.toy, known)


def _draw(chosen: SimpleNamespace, out: Path, talk: Talk) -> None:
    """As ``xmdpt sample --model --data`` does by itself."""
    from xmdpt_cli.commands.sample_ways import RECIPE, draw_pairs
    from xmdpt_cli.data.ranks import World

    asked = SimpleNamespace(
        model=chosen.model, data=chosen.data, split=chosen.split, out=out, device=chosen.device,
        precision="auto", vae=None, max_memory=None, limit=None, batch_size="auto",
        compile_="auto", paper=False, interval=None, **dict.fromkeys(RECIPE),
    )  # fmt: skip
    draw_pairs(asked, talk, World())


def _truths(chosen: SimpleNamespace, generated: Path, where: str, talk: Talk) -> Any:
    from xmdpt_cli.metrics.folders import pair_folders, pictures_of
    from xmdpt_cli.sampling.truths import DatasetTruths, FolderTruths

    if chosen.data is not None:
        return DatasetTruths(chosen.data, chosen.split, generated, device=where)
    found = pair_folders(generated, chosen.target)
    for what, paths in (("generated", found.generated_only), ("target", found.target_only)):
        for path in paths[:3]:
            talk.warn(f"no partner for {path}")
        if len(paths) > 3:
            talk.warn(f"nor for {len(paths) - 3} more {what} pictures")
    return FolderTruths(found.pairs, pictures_of(chosen.real or chosen.target))


def _protocols(names: list[str], height: int | None, seen: int) -> list[Protocol]:
    """Those named, for pictures of the ground truths' height ``seen``."""
    from xmdpt_cli.metrics.protocols import LOWEST, PROTOCOLS, SIZES, get_protocol

    if "all" in names:
        names = list(PROTOCOLS)
    if not names:
        names = ["cfld" if seen >= LOWEST else "native"]
    # 750 x 1101 photographs are evaluated at 256 x 176 unless told otherwise; prepared 512 px not
    own = 512 if seen == max(SIZES) else LOWEST
    return [get_protocol(name, height or own) for name in dict.fromkeys(names)]


def _networks(
    chosen: SimpleNamespace, protocols: list[Protocol], device: str, talk: Talk
) -> Networks:
    """The LPIPS and FID networks asked for; without word the real ones if they are there."""
    from xmdpt_cli.metrics.evaluate import Networks
    from xmdpt_cli.metrics.features import inception_features, tensorflow_features, toy_features
    from xmdpt_cli.metrics.lpips_metric import Lpips

    every = not any(getattr(chosen, name) for name in METRICS)
    perceptual = None
    if chosen.alexnet_weights != "off" and (every or chosen.lpips):
        perceptual = _real_or_toy(
            lambda given: Lpips(given, device), chosen.alexnet_weights,
            lambda: Lpips("toy", device), "LPIPS with a random trunk, named lpips_alex_v0.1_toy",
            talk,
        )  # fmt: skip
    features = {}
    if every or chosen.fid or chosen.kid:
        asked = {protocol.inception for protocol in protocols}
        for kind, given, load in (
            ("torchvision", chosen.inception_weights, inception_features),
            ("tensorflow", chosen.tf_inception_weights, tensorflow_features),
        ):
            if kind not in asked or given == "off":
                continue
            if given == "toyconv":
                features[kind] = toy_features(device)
                continue
            features[kind] = _real_or_toy(
                lambda path, load=load: load(path, device), given,
                lambda: toy_features(device), "FID with a random network, named fid_toyconv", talk,
            )  # fmt: skip
    return Networks(perceptual, features, chosen.kid)


def _real_or_toy(load: Any, given: str | None, toy: Any, said: str, talk: Talk) -> Any:
    """The network given, or the real one; where that is not here and none is given, the toy."""
    try:
        return load(given)
    except XmdptError as err:
        if given is not None:
            raise
        talk.warn(f"{err.message}: {said}")
        return toy()


def _tell(
    talk: Talk, reports: list[Report], path: Path, toy: bool, known: list[dict[str, Any]]
) -> None:
    from xmdpt_cli.metrics.report import beside, plain
    from xmdpt_cli.metrics.report import table as cells

    shown = []
    for report in reports:
        rows = cells(report)
        title = f"protocol {report.protocol}, {report.counts['generated']} pictures"
        shown.append(table(title + (", TOY model" if toy else ""), rows.header, rows.rows))
    if len(reports) > 1:
        rows = beside(reports)
        shown.append(table("generated, by protocol", rows.header, rows.rows))
    if known:
        names = list(dict.fromkeys(key for row in known for key in row))
        lines = [[str(row.get(name, "-")) for name in names] for row in known]
        shown.append(table("printed in the paper (Table 1)", ["", *names[1:]], lines))
    found = plain(reports)
    for report in (found, *found["others"]):
        report.pop("images")
    talk.result(
        {**found, "file": str(path)},
        *shown,
        text=f"to look at: {path.with_suffix('.html')}; written: {path}, {path.stem}.csv",
    )
