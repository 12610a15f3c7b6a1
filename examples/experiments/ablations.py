"""What single settings do: python examples/experiments/ablations.py FOLDER --data D --out O

FOLDER holds one TOML file a row. All files have the same base, which is the first row of the table,
and a comment in the first line, which is the row's name there:

    # min-SNR weighting (arXiv 2303.09556)
    base = "demo/tokens-64"

    [train]
    loss_weighting = "min-snr"

Each row is trained with each seed, into O/ROW-seedN/. The model generates the held-out pairs of
the dataset with its default sampling, from the same start noise; they are measured. O gets
records.json, table.md (means, and differences to the base of the same seed, with 95 % intervals
over the seeds) and differences.svg and .png; with --curve also curve.svg and .png.

With --equal compute a row gets as many steps as fit into the FLOPs of the base's run, so cheaper
rows train longer. FLOPs are counted: matrix products, convolutions and attention of the model and
its loss, not the optimizer. The file's own number of steps is not used. With --equal both each
row is trained for the larger of the two numbers of steps and measured at both, and O gets a report
of each, in O/equal-steps and O/equal-compute. The learning rate of all rows is constant then
(after the warm-up), since a rate that decays ends at one number of steps.

An interrupted command continues: rows that are measured are kept, a half-trained run resumes.
Several processes may work on the same O: each takes a run that no other one has. O keeps its base,
--steps, --equal and dataset (settings.json); a command with others needs another O. The report has
every finished run of FOLDER's rows, also with seeds and rows that this command does not name.

--curve N measures a run at N points, if it is given from the start. These scores are those of the
averaged weights (EMA). Where the learning rate decays, a run that ends at such a point would have
a better score than this one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ablation_report import BASE, Record, write_report
from held_out import HeldOut
from safetensors.torch import load_file

from xmdpt_cli.config import differing, layers, resolve
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.files import content, only_process, write_text, writing
from xmdpt_cli.training.checkpoint import EMA, step_of, steps_in
from xmdpt_cli.training.config import TrainConfig
from xmdpt_cli.training.estimate import pair_flops
from xmdpt_cli.training.loop import train, training_pairs
from xmdpt_cli.training.run_folder import differences, other_run, read_run
from xmdpt_cli.training.task import TrainTask
from xmdpt_cli.utils import records

RECORD, FLOPS, SETTINGS = "ablation.json", "flops.json", "settings.json"
_KEYS = {"settings", "steps", "scores", "curve", "flops"}  # of a record
#: settings that a campaign sets itself
_OWN = ("steps", "seed", "checkpoint_every", "keep_checkpoints", "keep_every")


class Row(NamedTuple):
    """A row of the table: a configuration, trained with several seeds."""

    name: str
    title: str
    config: TrainConfig


def read_rows(folder: Path) -> list[Row]:
    """The base, then the rows of a folder by name. Raises ConfigError."""
    rows, bases = [], {}
    for file in sorted(folder.glob("*.toml")):
        found = layers(TrainConfig, "train", file=file)
        title = file.read_text(encoding="utf-8-sig").partition("\n")[0]
        if file.stem == BASE:
            raise ConfigError(f"{file}: {BASE!r} is the name of the base's row", "rename the file")
        if len(found) < 2 or not title.startswith("#"):
            raise ConfigError(f"{file} needs a comment in its first line and a base")
        bases[found[-2].where] = file
        rows.append(
            Row(file.stem, title.lstrip("# "), resolve(TrainConfig, "train", {}, file=file))
        )
    if not rows:
        raise ConfigError(f"{folder} has no .toml files", "name a folder with one file a row")
    if len(bases) != 1:
        named = ", ".join(f"{base} ({file.name})" for base, file in bases.items())
        raise ConfigError(f"the files of {folder} need one base, not {named}")
    (base,) = bases
    return [Row(BASE, base, resolve(TrainConfig, "train", {}, preset=base)), *rows]


class Campaign:
    """Runs of all rows with all seeds in one folder."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.data, self.out, self.limit = args.data, args.out, args.limit
        self.points, self.equal = args.curve, args.equal
        rows = read_rows(args.folder)
        names = [row.name for row in rows]
        unknown = set(args.rows or ()) - set(names)
        if unknown:
            raise ConfigError(
                f"no such row in {args.folder}: {', '.join(sorted(unknown))}",
                f"its rows are {', '.join(names)}",
            )
        self.named = {BASE, *(args.rows or names)}  # the others are only reported
        self.steps = args.steps or rows[0].config.steps  # of the base
        self.seeds = args.seed
        for seed in self.seeds:
            replace(rows[0].config, seed=seed)  # ConfigError for an impossible one
        self.all_rows = self._constant(rows) if self.equal == "both" else rows
        self.rows = [row for row in self.all_rows if row.name in self.named]
        manifest = training_pairs(self.data, self.out).manifest
        # as a run's folder records them
        self.shards = [shard["sha256"] for shard in manifest["shards"]]
        self._keep_settings()

    def _constant(self, rows: list[Row]) -> list[Row]:
        """The rows with runs that are the same after a step, however many follow, without those
        that cannot be. Raises ConfigError."""
        if self.points:
            raise ConfigError("--equal both measures at two points of its own", "without --curve")
        rows = [row._replace(config=replace(row.config, decay="none")) for row in rows]
        bound = [row.name for row in rows if row.config.fixed_length and row.name in self.named]
        if bound:
            raise ConfigError(
                f"what a step of {', '.join(bound)} does depends on the number of steps",
                "--equal steps or --equal compute",
            )
        return [row for row in rows if not row.config.fixed_length]

    def _keep_settings(self) -> None:
        """Write settings.json. Raises XmdptError if the folder has other settings."""
        file = self.out / SETTINGS
        settings = {
            "base": self.all_rows[0].title,
            "steps": self.steps,
            "equal": self.equal,
            "data": self.shards,
        }
        with only_process(self.out, ".settings.lock", wait=True):
            before = records.read_if_there(dict[str, Any], file)
            differs = differences(before or settings, settings)
            if "data" in differs:
                differs["data"] = "another prepared dataset"
            if differs:
                hint = "choose another --out, or give the same settings to continue"
                raise other_run(self.out, "comparison", differs, hint)
            if before is None:
                write_text(file, json.dumps(settings, indent=1))

    def flops(self, row: Row) -> float:
        """FLOPs of a step; kept in a file, since counting takes seconds."""
        file, key = self.out / FLOPS, json.dumps(settings_of(row.config))
        known = records.read_if_there(dict[str, float], file) or {}
        if key not in known:
            task = TrainTask(row.config, training_pairs(self.data, self.out))
            counted = {key: pair_flops(task) * row.config.batch_size}
            with only_process(self.out, ".flops.lock", wait=True):
                known = (records.read_if_there(dict[str, float], file) or {}) | counted
                write_text(file, json.dumps(known, indent=1))
        return known[key]

    def lengths(self, row: Row) -> dict[str, int]:
        """The number of steps by what is equal: the steps, the compute, or both."""
        if row.name == BASE or self.equal == "steps":
            compute = self.steps
        else:
            compute = max(1, int(self.steps * self.flops(self.rows[0]) / self.flops(row)))
        both = {"steps": self.steps, "compute": compute}
        return {equal: both[equal] for equal in self.reports().values()}

    def reports(self) -> dict[Path, str]:
        """The folder of each report, and what is equal in it."""
        if self.equal == "both":
            return {self.out / f"equal-{equal}": equal for equal in ("steps", "compute")}
        return {self.out: self.equal}

    def config(self, row: Row, seed: int) -> TrainConfig:
        """The row's configuration with the number of steps and checkpoints of this campaign."""
        lengths = self.lengths(row).values()
        steps = max(lengths)
        every = max(1, steps // self.points) if self.points else 0
        if min(lengths) < steps:
            every = min(lengths)
        return replace(
            row.config,
            steps=steps,
            seed=seed,
            keep_checkpoints=1,
            checkpoint_every=every or row.config.checkpoint_every,
            keep_every=every,
        )

    def folder(self, row: Row, seed: int) -> Path:
        return self.out / f"{row.name}-seed{seed}"

    def record(self, row: Row, seed: int) -> Record | None:
        """The record of a run that is trained and measured as this campaign would; else None."""
        file = self.folder(row, seed) / RECORD
        try:
            found: Record = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # missing or damaged: the run is measured
            return None
        if not isinstance(found, dict) or not found.keys() >= _KEYS:
            return None
        config = self.config(row, seed)
        same = found["settings"] == settings_of(config) and found["steps"] == config.steps
        same = same and found.get("limit", self.limit) == self.limit
        run = read_run(file.parent)
        same = same and run is not None and run["data"] == self.shards
        measured = {point["steps"] for point in found["curve"]} | {found["steps"]}
        return found if same and measured >= set(self.lengths(row).values()) else None

    def run(self, row: Row, seed: int) -> None:
        """Train and measure."""
        config, folder = self.config(row, seed), self.folder(row, seed)
        flops = self.flops(row)
        print(f"{folder.name}: {config.steps} steps of {flops / 1e9:.4g} GFLOP", flush=True)
        done = train(config, self.data, folder, say=print, warn=print)
        if done.steps != config.steps:
            raise XmdptError(
                f"{folder} is trained for {done.steps} steps already, more than {config.steps}",
                "choose another --out",
            )
        held_out = HeldOut(self.data, done.model, self.limit)
        record = {
            "row": row.name,
            "title": row.title,
            "seed": seed,
            "steps": config.steps,
            "flops": flops,
            "settings": settings_of(config),
            "limit": self.limit,
            "steps_per_second": done.steps_per_second,
            "scores": _scores(held_out),
        }
        record["curve"] = self._curve(folder, held_out, record, config.keep_every)
        write_text(folder / RECORD, json.dumps(record, indent=1))
        scores = ", ".join(f"{name} {value:.4g}" for name, value in record["scores"].items())
        print(f"{folder.name}: {scores}", flush=True)

    def _curve(self, folder: Path, held_out: HeldOut, record: Record, every: int) -> list[Record]:
        """Scores by training step, the last one's included; none where no checkpoint is kept."""
        if not every:
            return []
        found: list[Record] = []
        points = self.points or 2
        for checkpoint in steps_in(folder / "checkpoints"):
            if step_of(checkpoint) < record["steps"] and len(found) < points - 1:
                held_out.sampler.model.load_state_dict(load_file(checkpoint / EMA))
                found.append({"steps": step_of(checkpoint), "scores": _scores(held_out)})
        return [*found, {"steps": record["steps"], "scores": record["scores"]}]

    def seeds_of(self, row: Row) -> list[int]:
        """The seeds with which the row has a run, by this command or an earlier one."""
        prefix = f"{row.name}-seed"
        found = [name.removeprefix(prefix) for name in content(self.out) if name.startswith(prefix)]
        return sorted(int(seed) for seed in found if seed.isdecimal())

    def report(self) -> None:
        """Write what is measured so far, if anything is."""
        with only_process(self.out, ".report.lock", wait=True):  # another process writes it, too
            runs = [
                (row, self.record(row, seed))
                for row in self.all_rows
                for seed in self.seeds_of(row)
            ]
            done = [  # the title may have changed since
                (record | {"title": row.title}, self.lengths(row))
                for row, record in runs
                if record is not None
            ]
            if not done:  # every row failed: a report of before remains
                return
            for folder, equal in self.reports().items():
                read = [
                    at(record, lengths[equal]) if self.equal == "both" else record
                    for record, lengths in done
                ]
                how = "equal counted compute" if equal == "compute" else "equal steps"
                write_report(folder, read, f"{self.steps} steps of the base, {how}")

    def tables(self) -> str:
        """The tables that ``report`` wrote, and where."""
        files = [path for out in self.reports() if (path := out / "table.md").is_file()]
        if not files:
            return "no report: nothing is measured"
        tables = "\n".join(file.read_text(encoding="utf-8") for file in files)
        return f"{tables}\nwritten: {', '.join(map(str, files))}"


def settings_of(config: TrainConfig) -> dict[str, Any]:
    """The settings that differ from the defaults and do not belong to the campaign."""
    return {key: value for key, (value, _) in differing(config).items() if key not in _OWN}


def at(record: Record, steps: int) -> Record:
    """The record with the scores that its run had after a number of steps, without its curve."""
    points = {point["steps"]: point["scores"] for point in record["curve"]}
    scores = record["scores"] if steps == record["steps"] else points[steps]
    return {**record, "steps": steps, "scores": scores, "curve": []}


def _scores(held_out: HeldOut) -> dict[str, float]:
    """The scores of the model's default sampling."""
    return held_out.scores(held_out.generate(held_out.sampler.sampling_config()))


def run_all(campaign: Campaign) -> list[str]:
    """Every seed of every row, the first seed of all rows first. Returns the errors of rows."""
    errors = []
    for seed in campaign.seeds:
        for row in campaign.rows:
            name = campaign.folder(row, seed).name
            if campaign.record(row, seed) is not None:
                continue
            with ExitStack() as stack:
                try:
                    stack.enter_context(only_process(campaign.out, f".{name}.lock"))
                except XmdptError:
                    continue  # another process has it
                try:
                    if campaign.record(row, seed) is None:  # it may just have been measured
                        campaign.run(row, seed)
                except XmdptError as err:  # for example a loss that is not finite: the others go on
                    errors.append(f"{name}: {err.message}")
                    print(f"error: {errors[-1]}", flush=True)
            campaign.report()
    campaign.report()
    return errors


def at_least_one(text: str) -> int:
    """An integer from 1, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder with a TOML file for each row")
    parser.add_argument("--data", required=True, help="prepared dataset with held-out pairs")
    parser.add_argument("--out", required=True, type=Path, help="folder for runs and report")
    parser.add_argument(
        "--seed", type=int, nargs="+", default=[0, 1, 2], help="seeds of each row [0 1 2]"
    )
    parser.add_argument("--steps", type=at_least_one, help="steps of the base's run [the base's]")
    parser.add_argument(
        "--equal",
        choices=("compute", "steps", "both"),
        default="compute",
        help="what all rows have in common [compute]",
    )
    parser.add_argument("--rows", nargs="+", help="names of files without .toml [all]")
    parser.add_argument(
        "--curve", type=at_least_one, default=0, help="points of a run to measure [the end]"
    )
    parser.add_argument("--limit", type=at_least_one, help="number of held-out pairs [all]")
    args = parser.parse_args(arguments)
    try:
        with writing(args.out):
            args.out.mkdir(parents=True, exist_ok=True)
        campaign = Campaign(args)
        errors = run_all(campaign)
    except KeyboardInterrupt:
        print("interrupted: the same command continues", file=sys.stderr)
        raise SystemExit(130) from None
    except XmdptError as err:
        hint = f"\nhint: {err.hint}" if err.hint else ""
        print(f"error: {err.message}{hint}", file=sys.stderr)
        raise SystemExit(err.exit_code) from None
    print(campaign.tables())
    if errors:
        raise SystemExit("\n".join(errors))


if __name__ == "__main__":
    main()
