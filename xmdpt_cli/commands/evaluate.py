"""``xmdpt evaluate``: generated pictures -> named numbers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xmdpt_cli.commands import evaluate_ways as ways
from xmdpt_cli.commands.options import AsJson, Device, pick_device, quiet_libraries
from xmdpt_cli.console import Talk, table
from xmdpt_cli.errors import ConfigError

if TYPE_CHECKING:
    from xmdpt_cli.metrics.report import Report


def evaluate(
    generated: Annotated[
        Path | None,
        typer.Option(help="Folder of generated pictures [with --model: MODEL/evaluation]."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Draw the pairs of --data with this model first, or go on drawing."),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="Draw with so many seeds, and say how the numbers spread.")
    ] = 1,
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
    if seeds > 1 and model is None:
        raise ConfigError("--seeds needs --model DIR, which draws with each of them")
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
    from xmdpt_cli.metrics.page import write_page
    from xmdpt_cli.metrics.reference import references
    from xmdpt_cli.metrics.report import over_seeds, plain, write_json
    from xmdpt_cli.metrics.table_csv import write_csv
    from xmdpt_cli.training.team import Team

    team = Team.start(pick_device(device), "ddp")
    talk, where = Talk(as_json, quiet=not team.first), str(team.device)
    folders = [generated] if seeds == 1 else [generated / f"seed_{k}" for k in range(seeds)]
    measured, by = [], None
    with team.together():
        if model is not None:
            ways.find_networks(chosen, team, talk)  # before images are generated
        for seed, folder in enumerate(folders):
            if model is not None:
                ways.draw(chosen, folder, None if seeds == 1 else seed, talk)
                team.gather(None)  # all parts are there
            truths = ways.truths(chosen, folder, where, talk)
            if by is None:
                ways.find_networks(chosen, team, talk)  # before they are measured
                by = ways.instruments(chosen, truths, where)
            measured.append((truths, ways.measure(chosen, truths, *by, team, talk)))
    if not team.first:
        return
    (truths, reports), path = measured[0], out or generated / "metrics.json"
    found: dict[str, Any] = plain(reports)
    if seeds > 1:
        found["seeds"] = over_seeds([own for _, own in measured])
    if model is not None:
        found["condition"] = ways.invariance(chosen, where)
    for note in dict.fromkeys(note for report in reports for note in report.notes):
        talk.warn(note)
    write_json(path, found)
    write_csv(path.with_suffix(".csv"), reports)
    known = references(reports) if reference else []
    title = f"{folders[0]} against {data or target}"
    write_page(path.with_suffix(".html"), reports, truths.shown, title=title, reference=known)
    _tell(talk, reports, found, path, truths.toy, known)


def _tell(
    talk: Talk,
    reports: list[Report],
    found: dict[str, Any],
    path: Path,
    toy: bool,
    known: list[dict[str, Any]],
) -> None:
    from xmdpt_cli.metrics.report import beside, seeds_table
    from xmdpt_cli.metrics.report import table as cells

    shown = []
    for report in reports:
        rows = cells(report)
        title = f"protocol {report.protocol}, {report.counts['generated']} pictures"
        shown.append(table(title + (", TOY model" if toy else ""), rows.header, rows.rows))
    if len(reports) > 1:
        rows = beside(reports)
        shown.append(table("generated, by protocol", rows.header, rows.rows))
    if "seeds" in found:
        rows = seeds_table(found["seeds"])
        shown.append(
            table("generated, over seeds: mean, standard deviation", rows.header, rows.rows)
        )
    if known:
        names = list(dict.fromkeys(key for row in known for key in row))
        lines = [[str(row.get(name, "-")) for name in names] for row in known]
        shown.append(table("printed in the paper (Table 1)", ["", *names[1:]], lines))
    if found.get("condition"):
        numbers = [[name, f"{value:.4g}"] for name, value in found["condition"].items()]
        shown.append(table("the condition vector (paper Fig. 5)", ["", "cosine"], numbers))
    told = {key: value for key, value in found.items() if key != "images"}
    told["others"] = [{k: v for k, v in o.items() if k != "images"} for o in found["others"]]
    weights = {name: known for report in reports for name, known in report.weights.items()}
    said = [f"{name}: {network}" for name, network in weights.items()]
    said.append(f"to look at: {path.with_suffix('.html')}; written: {path}, {path.stem}.csv")
    talk.result({**told, "file": str(path)}, *shown, text="\n".join(said))
