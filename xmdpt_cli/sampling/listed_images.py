"""Many people in many poses, from a list: the model is loaded once, rows are batched together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from xmdpt_cli.diffusion import start_noise
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.files import only_process
from xmdpt_cli.images import Picture, unsquash
from xmdpt_cli.pose.formats.missing import MIN_SCORE
from xmdpt_cli.pose.framing import Fit
from xmdpt_cli.pose.tracking import EmptyFrames
from xmdpt_cli.progress import Progress, silent
from xmdpt_cli.sampling.batch_size import batch_size, in_batches
from xmdpt_cli.sampling.conditioning import Conditions
from xmdpt_cli.sampling.config import SamplingConfig
from xmdpt_cli.sampling.dataset_images import SHEET_ROWS
from xmdpt_cli.sampling.image_folder import OwnFolder, pair_name, sheet_row
from xmdpt_cli.sampling.inputs import Pose, View
from xmdpt_cli.sampling.metadata import image_facts
from xmdpt_cli.sampling.pair_list import Row
from xmdpt_cli.sampling.pipeline import XMDPTPipeline
from xmdpt_cli.sampling.png_writer import Writer

SECTION = 64  # rows whose inputs are in memory together


@dataclass
class Reading:
    """How the files of all rows are read (``sampling.inputs``)."""

    fit: Fit = "auto"
    pose_fit: Fit = "auto"
    person: int | None = None
    pose_person: int | None = None
    pose_size: tuple[int, int] | None = None
    min_score: float = MIN_SCORE
    empty_frames: EmptyFrames = "skip"


@dataclass
class _Job:
    """A row that was read."""

    row: Row
    view: View
    pose: Pose
    facts: dict[str, Any]
    name: str


@dataclass
class _Run:
    """What became of the rows so far."""

    files: dict[int, str] = field(default_factory=dict)  # by line
    errors: dict[int, XmdptError] = field(default_factory=dict)
    sheet: list[list[Picture]] = field(default_factory=list)
    sources: dict[str, None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    made: int = 0


def draw_rows(
    pipe: XMDPTPipeline,
    rows: Sequence[Row],
    config: SamplingConfig,
    out: Path,
    *,
    reading: Reading | None = None,
    square: bool = False,
    batch: int | None = None,
    progress: Progress = silent,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Generate the image of each row into ``out``; returns the record with ``rows``: for each its
    line and its ``file``, or the ``error`` by which it was left out (also said).

    ``out`` is held to as by ``draw_own``: nothing is replaced, nothing is made twice, other
    settings are an XmdptError. A row whose given name is there as another image is left out.
    """
    reading = reading or Reading()
    pipe.encoders.find()
    shared = pipe.sampler.described(config, pipe.encoders.vae)
    folder = OwnFolder(out, {**shared, "square": square}, say)
    run = _Run()
    with only_process(out):
        folder.check()
        for row in rows:
            if row.out:
                folder.reserve(row.out)
        progress("sample", 0, len(rows))
        for start in range(0, len(rows), SECTION):
            jobs = _read(pipe, rows[start : start + SECTION], config, reading, square, folder, run)
            for line, err in run.errors.items():
                if line >= rows[start].line:
                    say(f"line {line} is left out: {err.message}")
            missing = [job for job in jobs if not folder.is_made(job.name, job.facts)]
            done = start + len(jobs) - len(missing)
            progress("sample", done, len(rows))
            if jobs:
                folder.begin()
            with Writer() as writer:
                for drawn in _drawn(pipe, missing, config, batch, say):
                    for job, picture in drawn:
                        shown = picture if square else unsquash(picture)
                        (out / job.name).parent.mkdir(parents=True, exist_ok=True)
                        writer.put(out / job.name, shown, job.facts)
                    run.made += len(drawn)
                    done += len(drawn)
                    progress("sample", done, len(rows))
            _keep(pipe, jobs, out, square, run)
        progress("sample", len(rows), len(rows))
        record: dict[str, Any] = {**folder.settings, "files": [], "sheet": None}
        if run.files:
            folder.save_sheet(run.sheet, ("source", "pose", "generated"))
            record = folder.finish(list(run.files.values()), list(run.sources), run.notes)
    return {**record, "rows": [_told(row, run) for row in rows], "drawn": run.made}


def _read(
    pipe: XMDPTPipeline,
    rows: Sequence[Row],
    config: SamplingConfig,
    reading: Reading,
    square: bool,
    folder: OwnFolder,
    run: _Run,
) -> list[_Job]:
    """The rows that can be generated, in order; the others are in ``run.errors``."""
    views: dict[tuple[Path, Path | None], View] = {}
    jobs = []
    for row in rows:
        try:
            key = (row.source, row.source_keypoints)
            if key not in views:
                (views[key],) = pipe._read_views(
                    row.source,
                    row.source_keypoints,
                    reading.fit,
                    reading.person,
                    reading.min_score,
                )
            view, pose = views[key], _pose(pipe, row, reading, views[key])
            own = config if row.seed is None else replace(config, seed=row.seed)
            shared = pipe.sampler.described(own, pipe.encoders.vae)
            facts = image_facts(shared, [view], pose, 0, square)
            if row.out:
                folder.check_named(row.out, facts)
            name = row.out or folder.place(pair_name(view.name, pose.name), [facts])[0]
        except ConfigError:  # of the options: so it is with all rows
            raise
        except XmdptError as err:
            run.errors[row.line] = err
            continue
        run.files[row.line] = name
        run.sources[view.name] = None
        run.notes += [n for n in (*view.notes, *pose.notes) if n not in run.notes]
        jobs.append(_Job(row, view, pose, facts, name))
    return jobs


def _pose(pipe: XMDPTPipeline, row: Row, reading: Reading, view: View) -> Pose:
    poses = pipe._read_poses(
        row.pose,
        reading.pose_fit,
        reading.pose_person,
        reading.pose_size,
        view.size,
        reading.min_score,
        reading.empty_frames,
    )
    if len(poses) > 1:
        raise XmdptError(
            f"{row.pose} holds {len(poses)} poses, and a row is one image",
            "give each pose a file and a row, or use --source and --pose for a sequence",
        )
    return poses[0]


def _drawn(
    pipe: XMDPTPipeline,
    jobs: Sequence[_Job],
    config: SamplingConfig,
    batch: int | None,
    say: Callable[[str], None],
) -> Any:
    """[(job, picture), ...] a batch, of different people together."""
    if not jobs:
        return
    jobs = _by_view(jobs)
    conditions = _conditions(pipe, jobs)
    if pipe.most is not None:  # a limit was set: what samples and what encodes take turns
        pipe.encoders.release()
    shape = pipe.sampler.model.latent_shape
    places = list(range(len(jobs)))

    def work(part: Sequence[int]) -> list[tuple[_Job, Picture]]:
        seeds = [int(jobs[i].facts["sampling"]["seed"]) for i in part]
        noise = torch.cat([start_noise(shape, seed, [0]) for seed in seeds])
        latents = pipe.sampler.latents(noise, conditions.rows(list(part)), config)
        pictures = pipe.encoders.vae.decode(latents)
        return list(zip((jobs[i] for i in part), pictures, strict=True))

    yield from in_batches(places, batch or pipe.most or batch_size(pipe.sampler), work, say)


def _by_view(jobs: Sequence[_Job]) -> list[_Job]:
    """Rows of one source side by side, in the order in which sources are first seen."""
    order = {id(view): i for i, view in reversed(list(enumerate(job.view for job in jobs)))}
    return sorted(jobs, key=lambda job: order[id(job.view)])


def _conditions(pipe: XMDPTPipeline, jobs: Sequence[_Job]) -> Conditions:
    """Of all jobs, in order; each source is encoded once."""
    groups: dict[int, list[_Job]] = {}
    for job in jobs:
        groups.setdefault(id(job.view), []).append(job)
    return Conditions.join(
        [pipe._conditions([own[0].view], [job.pose for job in own]) for own in groups.values()]
    )


def _keep(pipe: XMDPTPipeline, jobs: Sequence[_Job], out: Path, square: bool, run: _Run) -> None:
    """Rows of the contact sheet."""
    for job in jobs[: SHEET_ROWS - len(run.sheet)]:
        files = [out / job.name]
        run.sheet.append(sheet_row([job.view], job.pose, files, pipe.resolution, square))


def _told(row: Row, run: _Run) -> dict[str, Any]:
    """What became of a row, for ``--json``."""
    asked = {"line": row.line, "source": str(row.source), "pose": str(row.pose)}
    if row.line in run.errors:
        err = run.errors[row.line]
        return {**asked, "error": err.message, "hint": err.hint}
    return {**asked, "file": run.files[row.line]}
