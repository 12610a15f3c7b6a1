"""Quality of distilled models: ``python examples/experiments/distillation.py RUN --data D``.

Distils every teacher (run or model folder) to several numbers of steps with several seeds. The
held-out pairs of the dataset are generated with teacher and students from the same start noise, and
measured. Writes records.json, table.md and a contact sheet for each teacher into ``--out``; an
interrupted script resumes. The teacher's row is its converged sampling (50 steps of DDIM); the rows
"not distilled" are the teacher in the student's few steps. "to_teacher" is the PSNR to the
teacher's images, "sharpness" the strength of the image's edges relative to the ground truth's.

"within" is the largest distance from the teacher over the four metrics, in the bad direction and in
units of the teacher's own 95 % interval over the images: up to 1 is within the interval.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from held_out import LPIPS, HeldOut, mean_psnr
from held_out import MEASURES as ALL_MEASURES

from xmdpt_cli.config import resolve
from xmdpt_cli.distillation.config import DistillConfig
from xmdpt_cli.distillation.distill import distill
from xmdpt_cli.files import write_text
from xmdpt_cli.images import ImageArray, save_png
from xmdpt_cli.report.contact_sheet import contact_sheet
from xmdpt_cli.report.tables import Table
from xmdpt_cli.sampling.sampler import SamplingConfig

#: metric -> whether more is better
MEASURES = {
    name: ALL_MEASURES[name] for name in ("ssim_256", "torso_colour_error", "silhouette_iou", LPIPS)
}
CONVERGED = 50  # steps of DDIM
SHOWN = 6  # rows of a contact sheet

Record = dict[str, Any]


class Comparison:
    """A teacher and the students that are compared with it."""

    def __init__(self, data: str, teacher: Path, out: Path, preset: str | None) -> None:
        self.data, self.teacher, self.out, self.preset = data, teacher, out, preset
        self.name = teacher.name
        held_out = HeldOut(data, teacher)
        self.pairs = held_out.pairs
        defaults = held_out.sampler.sampling_config()
        guidance, power = defaults.guidance, defaults.power
        self.images: dict[str, list[ImageArray]] = {}
        self.records: list[Record] = []
        self.reference = held_out.generate(SamplingConfig(CONVERGED, guidance, power))
        self._add("teacher", CONVERGED, held_out, self.reference)
        for steps in (4, 2, 1):
            # at the student's timesteps
            config = SamplingConfig(steps, guidance, power, spacing="angle")
            self._add("not distilled", steps, held_out, held_out.generate(config))

    def add_student(self, steps: int, seed: int, settings: dict[str, Any]) -> None:
        """Distil, if that is not done, and measure."""
        folder = self.out / f"{self.name}-{steps}-steps-seed{seed}"
        config = resolve(
            DistillConfig,
            "distill",
            {"student_steps": steps, "seed": seed, **settings},
            preset=self.preset,
        )
        model = distill(config, self.teacher, self.data, folder, say=print).model
        held_out = HeldOut(self.data, model)
        images = held_out.generate(held_out.sampler.sampling_config())
        self._add("student", steps, held_out, images, seed)

    def _add(
        self,
        row: str,
        steps: int,
        held_out: HeldOut,
        images: list[ImageArray],
        seed: int | None = None,
    ) -> None:
        found = held_out.evaluate(images, intervals=True)
        record = {
            "teacher": self.name,
            "row": row,
            "steps": steps,
            "seed": seed,
            "scores": {name: found["rows"]["generated"][name] for name in MEASURES},
            "intervals": {name: found["intervals"]["generated"][name] for name in MEASURES},
            "sharpness": held_out.sharpness(images),
            "to_teacher": mean_psnr(images, self.reference),
        }
        record["within"] = self._within(record)
        self.records.append(record)
        if seed in (None, 0):
            self.images[f"{row}, {steps}"] = images
        print(json.dumps(record), flush=True)

    def _within(self, record: Record) -> float:
        """See the head of this file; 0: in no metric worse than the teacher."""
        teacher = self.records[0] if self.records else record
        worst = 0.0
        for name, more_is_better in MEASURES.items():
            value, (low, high) = teacher["scores"][name], teacher["intervals"][name]
            bad_end = low if more_is_better else high
            worst = max(worst, (record["scores"][name] - value) / (bad_end - value))
        return worst

    def sheet(self) -> ImageArray:
        """Ground truth, then a column for each row of the table."""
        chosen = [i * len(self.pairs) // SHOWN for i in range(SHOWN)]
        rows = [
            [self.pairs[i].ground_truth, *(images[i] for images in self.images.values())]
            for i in chosen
        ]
        return contact_sheet(rows, ["ground truth", *self.images])


def table(records: Sequence[Record]) -> str:
    """A Markdown table; students of several seeds are one row with the range over the seeds."""
    names = [*MEASURES, "sharpness", "to_teacher", "within"]
    groups: dict[tuple[str, str, int], list[Record]] = {}
    for record in records:
        groups.setdefault((record["teacher"], record["row"], record["steps"]), []).append(record)
    rows = []
    for (teacher, row, steps), group in groups.items():
        flat = [{**record["scores"], **record} for record in group]
        cells = [_cell([float(values[name]) for values in flat]) for name in names]
        rows.append([teacher, row, str(steps), str(len(group)), *cells])
    return Table("", ["model", "", "steps", "seeds", *names], rows).markdown()


def _cell(values: Sequence[float]) -> str:
    """The mean, and half the range over the seeds."""
    spread = f" ± {(max(values) - min(values)) / 2:.2g}" if len(values) > 1 else ""
    return f"{np.mean(values):.4g}{spread}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teacher", nargs="+", type=Path, help="run or model folder")
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--student-steps", type=int, nargs="+", default=[4, 2, 1])
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="optimizer steps [the preset's]")
    parser.add_argument("--preset", default="demo/distill-64")
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    records: list[Record] = []
    settings = {} if args.steps is None else {"steps": args.steps}
    for teacher in args.teacher:
        comparison = Comparison(args.data, teacher, args.out, args.preset)
        for steps in args.student_steps:
            for seed in args.seed:
                comparison.add_student(steps, seed, settings)
                known = [*records, *comparison.records]
                write_text(args.out / "records.json", json.dumps(known, indent=1))
                write_text(args.out / "table.md", table(known) + "\n")
        records += comparison.records
        save_png(args.out / f"{comparison.name}.png", comparison.sheet())
    print(table(records))


if __name__ == "__main__":
    main()
