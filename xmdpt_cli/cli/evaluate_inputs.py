"""The inputs of ``xmdpt evaluate``: generated images, ground truths, protocols."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xmdpt_cli.cli import workspace
from xmdpt_cli.cli.console import Talk
from xmdpt_cli.cli.evaluate_options import EvaluateOptions
from xmdpt_cli.cli.next_command import quote
from xmdpt_cli.cli.options import pick_device
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.progress import say_resuming
from xmdpt_cli.utils.counts import counted

if TYPE_CHECKING:
    from xmdpt_cli.metrics.evaluate import Networks
    from xmdpt_cli.metrics.evaluation import Evaluation
    from xmdpt_cli.metrics.protocols import Protocol
    from xmdpt_cli.sampling.ground_truth import GroundTruth
    from xmdpt_cli.training.distributed import Distributed

ITEMS = 256  # whose condition vectors are compared, at most


def generate_missing(chosen: EvaluateOptions, out: Path, seed: int | None, talk: Talk) -> None:
    """Generate missing images like ``xmdpt sample``, with the settings of the existing ones."""
    from xmdpt_cli.sampling.dataset_images import generate_with
    from xmdpt_cli.sampling.record import OTHER_OUT, RECORD, read_record
    from xmdpt_cli.storage.ranks import World

    assert chosen.model is not None
    assert chosen.data is not None
    names = ("steps", "solver", "guidance", "power", "interval", "cache", "seed")
    precisions = {"float32": "fp32", "bfloat16": "bf16"}
    try:
        record = read_record(out) if (out / RECORD).exists() else {}
        sampling = {name: record.get("sampling", {}).get(name) for name in names}
        with talk.progress() as progress:
            generate_with(
                chosen.model,
                chosen.data,
                out,
                sampling=sampling if seed is None else {**sampling, "seed": seed},
                split=chosen.split,
                vae=chosen.vae,
                device=pick_device(chosen.device),
                precision=precisions.get(record.get("precision", ""), "auto"),
                limit=chosen.limit,
                shard=World.from_environment(),
                progress=say_resuming(progress, talk.say, "images"),
                notify=talk.warn,
            )
    except XmdptError as err:
        if err.hint != OTHER_OUT:
            raise
        hint = f"name another folder: --generated DIR; or delete {quote(out)}"
        raise XmdptError(err.message, hint) from err


def ground_truth(chosen: EvaluateOptions, generated: Path, device: str, talk: Talk) -> GroundTruth:
    """The ground truths for a folder of images: a dataset, or the folder --target."""
    from xmdpt_cli.encoders.places import is_tiny_word, tiny_of
    from xmdpt_cli.metrics.folders import images_in, images_not_read, pair_folders
    from xmdpt_cli.model.checkpoint import find_model
    from xmdpt_cli.sampling import hub
    from xmdpt_cli.sampling.ground_truth import DatasetGroundTruth, FolderGroundTruth
    from xmdpt_cli.sampling.record import RECORD, SHEET
    from xmdpt_cli.utils.image_types import say_not_read, why_not_read

    if chosen.data is not None:
        vae = chosen.vae
        if is_tiny_word(vae) and chosen.model is not None:  # a model on the hub
            vae = str(tiny_of(find_model(hub.fetch(chosen.model))))
        return DatasetGroundTruth(
            chosen.data, chosen.split, generated, device=device, limit=chosen.limit, vae=vae
        )
    assert chosen.target is not None
    found = pair_folders(generated, chosen.target)
    own_sheet = generated / SHEET if (generated / RECORD).exists() else None
    without = [path for path in found.generated_only if path != own_sheet]
    for what, paths in (("generated", without), ("target", found.target_only)):
        for path in paths[:3]:
            talk.warn(f"no partner for {path}")
        if len(paths) > 3:
            talk.warn(f"no partner for {counted(len(paths) - 3, f'more {what} image')}")
    photographs = images_in(chosen.real or chosen.target)
    unread = found.not_read + (images_not_read(chosen.real) if chosen.real else [])
    if unread:
        talk.warn(say_not_read([path.name for path in unread]))
        talk.hint(why_not_read(unread[0].name) or "")
    return FolderGroundTruth(found.pairs, photographs)


def protocols_for(names: list[str], height: int | None, seen: int) -> list[Protocol]:
    """The named protocols, for ground truths of height ``seen``."""
    from xmdpt_cli.metrics.protocols import LOWEST, PROTOCOLS, SIZES, get_protocol

    if "all" in names:
        names = list(PROTOCOLS)
    if not names:
        names = ["cfld" if seen >= LOWEST else "native"]
    # 750 x 1101 photographs are evaluated at 256 x 176 by default, prepared 512 px images are not
    own = 512 if seen == max(SIZES) else LOWEST
    return [get_protocol(name, height or own) for name in dict.fromkeys(names)]


def measure(
    chosen: EvaluateOptions, seen: GroundTruth, networks: Networks, dist: Distributed, talk: Talk
) -> list[Evaluation]:
    """An evaluation by each protocol; the same for all processes."""
    from xmdpt_cli.metrics.evaluate import Ranks, evaluate
    from xmdpt_cli.metrics.registry import registered
    from xmdpt_cli.toy.measures import TOY_METRICS

    ranks = Ranks(dist.world_size, seen.names, dist.all_gather, dist.run_on_main)
    with talk.progress() as progress:
        reports = evaluate(
            seen.pairs(dist.rank, dist.world_size),
            protocols_for(chosen.protocols, chosen.height, seen.height),
            networks=networks,
            reference=seen.reference_set(),
            only=chosen.only,
            extra=[*registered(), *(TOY_METRICS if chosen.synthetic else ())],
            intervals=chosen.intervals,
            drop_last=chosen.drop_last,
            ranks=ranks,
            progress=progress,
        )
    for report in reports:
        if seen.toy:
            report.notes.append("toy: made with toy encoders")
        report.notes += seen.notes
    return reports


def keep_earlier(path: Path, report: dict[str, Any], talk: Talk) -> None:
    """Rename an earlier report that has more metrics or images than the new one: FID of a complete
    test set takes hours."""
    before = workspace.read_record(path)
    try:
        metrics = [set(one["rows"]["generated"]) for one in (before or {}, report)]
        images = [int(one["counts"]["generated"]) for one in (before or {}, report)]
    except workspace.UNEXPECTED:  # there is none, or it is another program's
        return
    if metrics[0] <= metrics[1] and images[0] <= images[1]:
        return
    stem = next(s for n in count(1) if not path.with_stem(s := f"{path.stem}-{n}").exists())
    for file in (path, path.with_suffix(".csv"), path.with_suffix(".html")):
        if file.exists():
            file.rename(file.with_stem(stem))
    talk.say(f"the earlier report has more metrics or images: kept as {path.with_stem(stem)}")


def condition_similarity(chosen: EvaluateOptions, where: str) -> dict[str, float]:
    """Similarity of condition vectors of one person's views, and of two people (paper Fig. 5).
    Empty if the dataset has no person with two views."""
    from xmdpt_cli.data.dataset import PairDataset
    from xmdpt_cli.sampling import hub
    from xmdpt_cli.sampling.sampler import Sampler
    from xmdpt_cli.training.validation_metrics import similarity
    from xmdpt_cli.training.validation_pairs import read_views

    assert chosen.model is not None
    assert chosen.data is not None
    sampler = Sampler.load(hub.fetch(chosen.model), where, "fp32")
    dataset = PairDataset(chosen.data, chosen.split)
    scale = float(sampler.metadata["encoders"]["vae"]["scale"])
    views = read_views(dataset, list(range(len(dataset))), scale, ITEMS)
    return {} if views is None else similarity(sampler.model, views, sampler.device)
