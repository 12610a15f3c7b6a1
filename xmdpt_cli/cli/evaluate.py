"""``xmdpt evaluate``: generated images -> named numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from xmdpt_cli.cli import evaluate_inputs as inputs
from xmdpt_cli.cli import evaluate_options as options
from xmdpt_cli.cli.console import Talk, table, warn_if_busy
from xmdpt_cli.cli.evaluate_networks import find_networks, load_networks
from xmdpt_cli.cli.evaluate_options import EvaluateOptions
from xmdpt_cli.cli.help import panels
from xmdpt_cli.cli.options import options_from, pick_device, quiet_libraries
from xmdpt_cli.utils.counts import counted

if TYPE_CHECKING:
    from xmdpt_cli.metrics.evaluation import Evaluation
    from xmdpt_cli.sampling.ground_truth import GroundTruth


@panels(
    {
        "Generated images": "generated model data split limit vae seeds",
        "Comparison of two folders": "target real",
        "Metrics": "fid ssim lpips psnr kid protocol height drop-last intervals synthetic "
        "reference",
        "Networks": "alexnet-weights inception-weights tf-inception-weights",
        "Output": "out",
    }
)
@options_from(EvaluateOptions)
def evaluate(chosen: EvaluateOptions) -> None:
    """Measure generated images by published protocols.

    Computes all metrics, or only those that are named with --fid, --ssim, --lpips and --psnr. The
    table also has rows for simple baselines, such as copies of the source.
    """
    model_given = chosen.model is not None
    options.check_together(chosen)
    if chosen.out is not None:
        options.check_report(chosen.out)
    quiet_libraries()
    options.check_drop_last(chosen)
    from xmdpt_cli.storage.ranks import World

    options.complete(chosen, Talk(chosen.as_json, quiet=World.from_environment().rank > 0))
    assert chosen.generated is not None
    folder = chosen.generated
    path = chosen.out or folder / "metrics.json"
    options.check_report(path)
    from xmdpt_cli.report.evaluation_json import over_seeds, plain, write_json
    from xmdpt_cli.report.evaluation_page import write_page
    from xmdpt_cli.report.evaluation_tables import paper_rows
    from xmdpt_cli.report.metrics_csv import write_csv
    from xmdpt_cli.training.distributed import Distributed

    dist = Distributed.init(pick_device(chosen.device), "ddp")
    talk, where = Talk(chosen.as_json, quiet=not dist.is_main), str(dist.device)
    warn_if_busy(talk)
    folders = [folder] if chosen.seeds == 1 else [folder / f"seed_{k}" for k in range(chosen.seeds)]
    measured: list[tuple[GroundTruth, list[Evaluation]]] = []
    with dist.translate_errors():
        networks = None
        if chosen.model is not None:
            find_networks(chosen, dist, talk)  # before images are generated
        for seed, folder in enumerate(folders):
            if chosen.model is not None:
                inputs.generate_missing(chosen, folder, None if chosen.seeds == 1 else seed, talk)
                dist.all_gather(None)  # wait until all parts are complete
            truth = inputs.ground_truth(chosen, folder, where, talk)
            if networks is None:
                if chosen.model is None:
                    find_networks(chosen, dist, talk)  # before images are measured
                networks = load_networks(chosen, where)
            measured.append((truth, inputs.measure(chosen, truth, networks, dist, talk)))
    if not dist.is_main:
        return
    truth, reports = measured[0]
    found: dict[str, Any] = plain(reports)
    if chosen.seeds > 1:
        found["seeds"] = over_seeds([own for _, own in measured])
    if model_given:
        found["condition"] = inputs.condition_similarity(chosen, where)
    for note in dict.fromkeys(note for report in reports for note in report.notes):
        talk.warn(note)
    inputs.keep_earlier(path, found, talk)
    write_json(path, found)
    write_csv(path.with_suffix(".csv"), reports)
    known = paper_rows(reports) if chosen.reference else []
    title = f"{folders[0]} against {chosen.data or chosen.target}"
    write_page(path.with_suffix(".html"), reports, truth.shown, title=title, reference=known)
    _print(talk, reports, found, path, truth.toy, known)


def _print(
    talk: Talk,
    reports: list[Evaluation],
    found: dict[str, Any],
    path: Path,
    toy: bool,
    known: list[dict[str, Any]],
) -> None:
    from xmdpt_cli.report.evaluation_text import beside, seeds_table
    from xmdpt_cli.report.evaluation_text import table as cells

    shown = []
    for report in reports:
        rows = cells(report)
        title = f"protocol {report.protocol}, {counted(report.counts['generated'], 'image')}"
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
        cells_ = [[str(row.get(name, "-")) for name in names] for row in known]
        shown.append(table("printed in the paper (Table 1)", ["", *names[1:]], cells_))
    if found.get("condition"):
        numbers = [[name, f"{value:.4g}"] for name, value in found["condition"].items()]
        shown.append(table("the condition vector (paper Fig. 5)", ["", "cosine"], numbers))
    data = {key: value for key, value in found.items() if key != "images"}
    data["others"] = [{k: v for k, v in o.items() if k != "images"} for o in found["others"]]
    weights = {name: known for report in reports for name, known in report.weights.items()}
    lines = [f"{name}: {network}" for name, network in weights.items()]
    lines.append(f"report: {path.with_suffix('.html')}, {path.name}, {path.stem}.csv")
    talk.result({**data, "file": str(path)}, *shown, text="\n".join(lines))
