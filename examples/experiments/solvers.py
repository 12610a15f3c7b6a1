"""Quality against steps: ``python examples/experiments/solvers.py --data D --model RUN --out O``.

Generates the held-out pairs of a prepared dataset with every solver, spacing of timesteps and
number of steps, from the same start noise, and measures the images. Writes the records as JSON and
one plot per measure, and prints a Markdown table. "to_converged" is the PSNR against images of the
same model, noise and guidance after many steps of a second-order solver: it measures the solver,
not the model. "sharpness" is the strength of the image's edges relative to the ground truth's: too
few steps blur the image, which SSIM and PSNR reward. "to_uncached" is the PSNR against the images
without a cache across steps (``--cache``). LPIPS is computed with a random trunk.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from held_out import HeldOut, mean_psnr

from xmdpt_cli.diffusion import SOLVERS, SPACINGS
from xmdpt_cli.diffusion.guidance import evaluated_branches
from xmdpt_cli.diffusion.solvers import spaced
from xmdpt_cli.files import write_text
from xmdpt_cli.images import ImageArray
from xmdpt_cli.report.charts import Line, line_chart
from xmdpt_cli.report.tables import Table
from xmdpt_cli.sampling.sampler import SamplingConfig

PLOTS = {
    "ssim_256": "SSIM of held-out pairs",
    "to_converged": "PSNR in dB against the converged images",
}
CONVERGED = 250  # steps of DPM-Solver++(2M)


class Solvers:
    """One model whose sampling configurations are compared."""

    def __init__(self, data: str, model: Path, limit: int | None) -> None:
        self.held_out = HeldOut(data, model, limit)
        self.sampler = self.held_out.sampler
        self.converged: dict[tuple[float, float], list[ImageArray]] = {}

    def measure(self, config: SamplingConfig) -> dict[str, Any]:
        """The record of one sampling configuration, JSON-ready."""
        generate = self.held_out.generate
        key = (config.guidance, config.power)
        if key not in self.converged:
            many = SamplingConfig(CONVERGED, *key, config.seed, "dpmpp-2m", "trailing")
            self.converged[key] = generate(many)
        start = time.perf_counter()
        images = generate(config)
        seconds = time.perf_counter() - start
        scores = self.held_out.scores(images)
        scores["to_converged"] = mean_psnr(images, self.converged[key])
        if config.cache > 1:
            uncached = generate(dataclasses.replace(config, cache=1))
            scores["to_uncached"] = mean_psnr(images, uncached)
        return {
            "sampling": dataclasses.asdict(config),
            "forwards": self.forwards(config),
            "seconds": seconds,
            "scores": scores,
        }

    def forwards(self, config: SamplingConfig) -> int:
        """Evaluations of the network for one image."""
        schedule, (low, high) = self.sampler.schedule, config.interval
        times = spaced(config.spacing, config.steps, schedule)
        guided = [low <= t / schedule.steps <= high for t in times]
        scales = [config.guidance if inside else 1.0 for inside in guided]
        return sum(evaluated_branches(scales, config.cache))


def table(records: Sequence[dict[str, Any]]) -> str:
    """A Markdown table with one row per record."""
    names = list(dict.fromkeys(name for record in records for name in record["scores"]))
    rows = []
    for record in records:
        config = record["sampling"]
        low, high = config["interval"]
        guided = "all" if (low, high) == (0.0, 1.0) else f"{low} to {high}"
        scores = ["" if (v := record["scores"].get(n)) is None else f"{v:.4g}" for n in names]
        work = [f"{config['cache']}", str(record["forwards"]), f"{record['seconds']:.1f}"]
        settings = [config["solver"], config["spacing"], str(config["steps"]), guided]
        rows.append([*settings, *work, *scores])
    header = ["solver", "timesteps", "steps", "guided", "cache", "forwards", "seconds", *names]
    return Table("", header, rows).markdown()


def plot(records: Sequence[dict[str, Any]], measure: str, title: str) -> str:
    """SVG: the measure against the number of steps, one line per solver and spacing."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        config = record["sampling"]
        if tuple(config["interval"]) == (0.0, 1.0) and config["cache"] == 1:
            name = f"{config['solver']}, {config['spacing']}"
            lines.setdefault(name, []).append((config["steps"], record["scores"][measure]))
    return line_chart([Line(n, sorted(p)) for n, p in lines.items()], "steps", "", title).svg()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path, help="folder for records and plots")
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 6, 8, 12, 20, 50])
    parser.add_argument("--solver", nargs="+", choices=SOLVERS, default=list(SOLVERS))
    parser.add_argument("--spacing", nargs="+", choices=SPACINGS, default=list(SPACINGS))
    parser.add_argument(
        "--interval",
        action="append",
        help="guide only this part of the trajectory, as 0.1:0.8; again for several [all of it]",
    )
    parser.add_argument("--cache", type=int, nargs="+", default=[1], help="1: no cache")
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--limit", type=int, help="number of pairs [all]")
    parser.add_argument("--name", default="solvers", help="name of the files")
    args = parser.parse_args(arguments)
    torch.manual_seed(0)
    experiment = Solvers(args.data, args.model, args.limit)
    intervals = [tuple(map(float, part.split(":"))) for part in args.interval or ["0:1"]]
    records = []
    for interval, solver, spacing, steps, cache in itertools.product(
        intervals, args.solver, args.spacing, args.steps, args.cache
    ):
        config = experiment.sampler.sampling_config(
            steps=steps, solver=solver, spacing=spacing, interval=interval, cache=cache,
            guidance=args.guidance,
        )  # fmt: skip
        records.append(experiment.measure(config))
        print(records[-1], flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    write_text(args.out / f"{args.name}.json", json.dumps(records, indent=1))
    for measure, title in PLOTS.items():
        write_text(args.out / f"{args.name}-{measure}.svg", plot(records, measure, title))
    print(table(records))


if __name__ == "__main__":
    main()
