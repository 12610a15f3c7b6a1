"""``xmdpt finetune-vae``: from a prepared dataset to a diffusers folder and a report.

The paper fine-tunes the decoder for 77 epochs and leaves the encoder alone (sec. 4.1), so latents
that are already made, and models trained on them, stay valid. A tiny decoder is trained for the
same latents, with the photographs and the full decoder's images as targets.
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

from xmdpt_cli.encoders.decoder import Decoder
from xmdpt_cli.encoders.tiny_decoder import TinyDecoder
from xmdpt_cli.files import only_process, write_text, writing
from xmdpt_cli.images import save_png
from xmdpt_cli.metrics.evaluation import Evaluation
from xmdpt_cli.metrics.lpips_metric import LpipsNetwork
from xmdpt_cli.progress import Progress, Say, silent, silently
from xmdpt_cli.report.evaluation_json import WrittenEvaluation, to_json, write_json
from xmdpt_cli.report.vae_sheet import Rebuilt, reconstructions
from xmdpt_cli.training.distributed import SINGLE_PROCESS, Distributed
from xmdpt_cli.utils import records
from xmdpt_cli.vae_training import folder
from xmdpt_cli.vae_training.evaluate import (
    Images,
    Rebuild,
    make_report,
    measure,
    protocol_for,
    rebuild,
)
from xmdpt_cli.vae_training.examples import spaced_indices
from xmdpt_cli.vae_training.folder import VAEStats
from xmdpt_cli.vae_training.loop import fit, make_stats
from xmdpt_cli.vae_training.plan import Plan
from xmdpt_cli.vae_training.trainer import VaeTrainer

REPORT, BEFORE = "report.json", "before.json"
_SHOWN = 8  # test images in the sheet


@dataclass(frozen=True)
class Rows:
    """The rows of the report, and the sheet of both reconstructions."""

    first: str
    second: str
    both: str  # the second compared with the first; empty: no such row
    image: str


ROWS = {
    "full": Rows("before", "after", "", "before_after.png"),
    "tiny": Rows("full decoder", "tiny decoder", "tiny against full", "full_tiny.png"),
}


class _Before(TypedDict):
    """before.json: the measures before training, and what they depend on."""

    key: dict[str, Any]
    images: list[dict[str, Any]]


@dataclass(frozen=True)
class FineTuned:
    """The result of a finished training."""

    stats: VAEStats
    encoder: dict[str, str]  # sha256 before and after
    toy: bool  # a small VAE, one that was a toy before, or a decoder of its latents
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


def identity_of(plan: Plan, perceptual: LpipsNetwork | None) -> dict[str, Any]:
    """The identity of the training of a plan; call before anything is trained."""
    config, manifest = plan.config, plan.train.dataset.manifest
    shards = [s["sha256"] for s in manifest["shards"] if s["split"] == "train"]
    trunk = "none" if perceptual is None else perceptual.weights
    full = plan.vae if config.tiny else None
    return folder.identity(config, shards, plan.decoder, trunk, full)


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
    vae, decoder, config = plan.vae, plan.decoder, plan.config
    start, started = decoder.describe(), time.monotonic()
    this = identity_of(plan, perceptual)
    dist.run_on_main(partial(folder.start_training, out, this, config))
    record = dist.run_on_main(partial(folder.finished, out))
    if record is not None:
        return _known(out, record)
    trainer = VaeTrainer(vae, config, perceptual, dist, decoder)
    measures = Measures(plan, lpips, dist, progress)
    first = measures.first(out)
    shown = [] if plan.test is None else spaced_indices(plan.measured, _SHOWN)
    old = None if plan.test is None else rebuild(vae, vae, plan.test, shown)
    fit(trainer, plan.train, out, progress, say)
    frozen = None if config.all_weights else this["encoder"]
    after_sha = dist.run_on_main(partial(folder.write_part, out, decoder, frozen))
    encoder = {"before": this["encoder"], "after": after_sha}
    report, rows = None, ROWS[config.decoder]
    if plan.test is not None and old is not None:
        found = {rows.first: first, **measures.second()}
        report = make_report(plan.test.dataset.resolution, found, lpips, notes)
        dist.run_on_main(partial(_write_report, plan, out, report, shown, old))
    psnr = {} if report is None else {k: row["psnr"] for k, row in to_json(report)["rows"].items()}
    seconds = time.monotonic() - started
    before, after = psnr.get(rows.first), psnr.get(rows.second)
    stats = make_stats(trainer, len(plan.train), before, after, seconds)
    record = _record(plan, dist.world_size, start, this["images"], encoder, stats)
    dist.run_on_main(partial(folder.publish, out, decoder, record))
    if dist.is_main:
        (out / BEFORE).unlink(missing_ok=True)
    return FineTuned(stats, encoder, decoder.origin.toy, report)


def _record(
    plan: Plan,
    processes: int,
    start: dict[str, Any],
    shards: list[str],
    encoder: dict[str, str],
    stats: VAEStats,
) -> dict[str, Any]:
    """The content of xmdpt_training.json: how and from what the network was made."""
    dataset, full = plan.train.dataset, {}
    if isinstance(plan.decoder, TinyDecoder):
        what, full = plan.decoder.about(), {"full_decoder": plan.vae.describe()}
    elif plan.config.all_weights:
        what = "a small VAE trained from scratch: a toy"
    else:
        what = "a decoder fine-tuned; encoder and latents are those of the VAE it started from"
    return {
        "what": what,
        "settings": asdict(plan.config),
        "processes": processes,
        "start": start,
        **full,
        "encoder": encoder,
        "toy": plan.decoder.origin.toy,
        "trained_on": {
            "data": PurePath(dataset.path).name,  # the folder may be published
            "images": len(plan.train),
            "resolution": dataset.resolution,
            "toy": bool(dataset.manifest["toy"]),
            "shards": shards,
        },
        "stats": asdict(stats),
    }


@dataclass(frozen=True)
class Measures:
    """The rows of the report of one training."""

    plan: Plan
    lpips: LpipsNetwork | None
    dist: Distributed
    progress: Progress

    def first(self, out: Path) -> Images:
        """The VAE's metrics before training; kept in a file for a resumed training."""
        test = self.plan.test
        if test is None:
            return []
        key = {
            "images": self.plan.measured,
            "lpips": None if self.lpips is None else self.lpips.weights,
            "protocol": protocol_for(test.dataset.resolution).name,
        }
        kept = self.dist.run_on_main(lambda: records.read_if_there(_Before, out / BEFORE))
        if kept is not None and kept["key"] == key:
            images: Images = kept["images"]
            return images
        images = self._measure(ROWS[self.plan.config.decoder].first, self._by(self.plan.vae))

        def keep() -> None:
            with writing(out / BEFORE):
                write_text(out / BEFORE, json.dumps({"key": key, "images": images}))

        self.dist.run_on_main(keep)
        return images

    def second(self) -> dict[str, Images]:
        """The trained decoder's metrics; those of a tiny one against the full decoder, too."""
        rows, made = ROWS[self.plan.config.decoder], self._by(self.plan.decoder)
        found = {rows.second: self._measure(rows.second, made)}
        if rows.both:
            found[rows.both] = self._measure(rows.both, made, self._by(self.plan.vae))
        return found

    def _by(self, decoder: Decoder) -> Rebuild:
        assert self.plan.test is not None
        return partial(rebuild, self.plan.vae, decoder, self.plan.test)

    def _measure(self, stage: str, made_of: Rebuild, target_of: Rebuild | None = None) -> Images:
        assert self.plan.test is not None
        return measure(
            made_of,
            self.plan.test,
            self.plan.measured,
            self.lpips,
            stage=stage,
            target_of=target_of,
            dist=self.dist,
            progress=self.progress,
        )


def _write_report(
    plan: Plan, out: Path, report: Evaluation, shown: list[int], old: np.ndarray
) -> None:
    assert plan.test is not None
    rows, new = ROWS[plan.config.decoder], rebuild(plan.vae, plan.decoder, plan.test, shown)
    lines = [
        Rebuilt(
            plan.test.images[index],
            old[i],
            new[i],
            plan.test.dataset.keypoints(*plan.test.images.views[index]),
        )
        for i, index in enumerate(shown)
    ]
    with writing(out):
        save_png(out / rows.image, reconstructions(lines, rows.first, rows.second))
        write_json(out / REPORT, to_json(report))


def _known(out: Path, record: dict[str, Any]) -> FineTuned:
    found = records.read_if_there(WrittenEvaluation, out / REPORT)
    known = [] if found is None else [f.name for f in fields(Evaluation) if f.name in found]
    report = Evaluation(**{name: found[name] for name in known}) if known else None
    toy = bool(record.get("toy"))
    return FineTuned(folder.stats_of(record), record["encoder"], toy, report)
