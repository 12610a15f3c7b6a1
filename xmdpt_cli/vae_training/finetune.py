"""``xmdpt finetune-vae``: from a prepared dataset to a diffusers folder and a report.

The paper fine-tunes the decoder for 77 epochs and leaves the encoder alone (sec. 4.1), so latents
that are already made, and models trained on them, stay valid.
"""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from typing_extensions import TypedDict

from xmdpt_cli.files import only_process, write_text, writing
from xmdpt_cli.images import save_png
from xmdpt_cli.metrics.evaluation import Evaluation
from xmdpt_cli.metrics.lpips_metric import LpipsNetwork
from xmdpt_cli.progress import Progress, Say, silent, silently
from xmdpt_cli.report.evaluation_json import WrittenEvaluation, to_json, write_json
from xmdpt_cli.report.vae_sheet import Rebuilt, before_after
from xmdpt_cli.training.distributed import SINGLE_PROCESS, Distributed
from xmdpt_cli.utils import records
from xmdpt_cli.vae_training import folder
from xmdpt_cli.vae_training.evaluate import Images, make_report, measure, protocol_for, rebuild
from xmdpt_cli.vae_training.examples import spaced_indices
from xmdpt_cli.vae_training.folder import VAEStats
from xmdpt_cli.vae_training.loop import fit, make_stats
from xmdpt_cli.vae_training.plan import Plan
from xmdpt_cli.vae_training.trainer import VaeTrainer

REPORT, IMAGE, BEFORE = "report.json", "before_after.png", "before.json"
_SHOWN = 8  # test images in IMAGE


class _Before(TypedDict):
    """before.json: the measures before training, and what they depend on."""

    key: dict[str, Any]
    images: list[dict[str, Any]]


@dataclass(frozen=True)
class FineTuned:
    """The result of a finished training."""

    stats: VAEStats
    encoder: dict[str, str]  # sha256 before and after
    toy: bool  # a small VAE, or one that was a toy before
    report: Evaluation | None  # None: the dataset has no test images


def finetune(
    plan: Plan,
    out: Path,
    *,
    perceptual: LpipsNetwork | None = None,
    lpips: LpipsNetwork | None = None,
    notes: list[str] | None = None,
    dist: Distributed = SINGLE_PROCESS,
    progress: Progress = silent,
    say: Say = silently,
) -> FineTuned:
    """Train as planned into the folder ``out``, resume there, or return the finished result.

    Every rank calls it; rank 0 writes. Raises XmdptError if ``out`` holds something else, if the
    loss is not finite, and if the encoder has changed. ``say`` receives a message on resuming.
    """
    dist.split_batch(plan.config.batch_size)
    with dist.translate_errors(), ExitStack() as held:
        dist.run_on_main(partial(held.enter_context, only_process(out)))
        speak = progress if dist.is_main else silent
        return _finetune(plan, out, perceptual, lpips, notes or [], dist, speak, say)


def _finetune(
    plan: Plan,
    out: Path,
    perceptual: LpipsNetwork | None,
    lpips: LpipsNetwork | None,
    notes: list[str],
    dist: Distributed,
    progress: Progress,
    say: Say,
) -> FineTuned:
    vae, config, manifest = plan.vae, plan.config, plan.train.dataset.manifest
    start, started = vae.describe(), time.monotonic()
    shards = [s["sha256"] for s in manifest["shards"] if s["split"] == "train"]
    trunk = "none" if perceptual is None else perceptual.weights
    this = folder.identity(config, shards, vae, trunk)
    dist.run_on_main(partial(folder.start_training, out, this, config))
    record = dist.run_on_main(partial(folder.finished, out))
    if record is not None:
        return _known(out, record)
    trainer = VaeTrainer(vae, config, perceptual, dist)
    before = _measure_before(plan, out, lpips, dist, progress)
    shown = [] if plan.test is None else spaced_indices(plan.measured, _SHOWN)
    old = None if plan.test is None else rebuild(vae, plan.test, shown)
    fit(trainer, plan.train, out, progress, say)
    frozen = None if config.all_weights else this["encoder"]
    after_sha = dist.run_on_main(partial(folder.write_part, out, vae, frozen))
    encoder = {"before": this["encoder"], "after": after_sha}
    report = None
    if plan.test is not None and old is not None:
        after = measure(
            vae, plan.test, plan.measured, lpips, stage="after", dist=dist, progress=progress
        )
        report = make_report(plan.test.dataset.resolution, before, after, lpips, notes)
        dist.run_on_main(partial(_write_report, plan, out, report, shown, old))
    psnr = {} if report is None else {k: row["psnr"] for k, row in to_json(report)["rows"].items()}
    seconds = time.monotonic() - started
    stats = make_stats(trainer, len(plan.train), psnr.get("before"), psnr.get("after"), seconds)
    record = _record(plan, dist.world_size, start, shards, encoder, stats)
    dist.run_on_main(partial(folder.publish, out, vae, record))
    if dist.is_main:
        (out / BEFORE).unlink(missing_ok=True)
    return FineTuned(stats, encoder, vae.origin.toy, report)


def _record(
    plan: Plan,
    processes: int,
    start: dict[str, Any],
    shards: list[str],
    encoder: dict[str, str],
    stats: VAEStats,
) -> dict[str, Any]:
    """The content of xmdpt_training.json: how and from what the VAE was made."""
    tuned = "a decoder fine-tuned; encoder and latents are those of the VAE it started from"
    dataset = plan.train.dataset
    return {
        "what": "a small VAE trained from scratch: a toy" if plan.config.all_weights else tuned,
        "settings": asdict(plan.config),
        "processes": processes,
        "start": start,
        "encoder": encoder,
        "toy": plan.vae.origin.toy,
        "trained_on": {
            "data": PurePath(dataset.path).name,  # the folder may be published
            "images": len(plan.train),
            "resolution": dataset.resolution,
            "toy": bool(dataset.manifest["toy"]),
            "shards": shards,
        },
        "stats": asdict(stats),
    }


def _measure_before(
    plan: Plan, out: Path, lpips: LpipsNetwork | None, dist: Distributed, progress: Progress
) -> Images:
    """Metrics before training; kept in a file for a resumed training."""
    if plan.test is None:
        return []
    key = {
        "images": plan.measured,
        "lpips": None if lpips is None else lpips.weights,
        "protocol": protocol_for(plan.test.dataset.resolution).name,
    }
    kept = dist.run_on_main(lambda: records.read_if_there(_Before, out / BEFORE))
    if kept is not None and kept["key"] == key:
        images: Images = kept["images"]
        return images
    images = measure(
        plan.vae, plan.test, plan.measured, lpips, stage="before", dist=dist, progress=progress
    )

    def keep() -> None:
        with writing(out / BEFORE):
            write_text(out / BEFORE, json.dumps({"key": key, "images": images}))

    dist.run_on_main(keep)
    return images


def _write_report(
    plan: Plan, out: Path, report: Evaluation, shown: list[int], old: np.ndarray
) -> None:
    assert plan.test is not None
    new = rebuild(plan.vae, plan.test, shown)
    rows = [
        Rebuilt(
            plan.test.images[index],
            old[i],
            new[i],
            plan.test.dataset.keypoints(*plan.test.images.views[index]),
        )
        for i, index in enumerate(shown)
    ]
    with writing(out):
        save_png(out / IMAGE, before_after(rows))
        write_json(out / REPORT, to_json(report))


def _known(out: Path, record: dict[str, Any]) -> FineTuned:
    found = records.read_if_there(WrittenEvaluation, out / REPORT)
    known = [] if found is None else [f.name for f in fields(Evaluation) if f.name in found]
    report = Evaluation(**{name: found[name] for name in known}) if known else None
    toy = bool(record.get("toy"))
    return FineTuned(folder.stats_of(record), record["encoder"], toy, report)
