"""What ``xmdpt evaluate`` puts together: pictures, protocols, networks."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from xmdpt_cli.cli import workspace
from xmdpt_cli.cli.console import Talk
from xmdpt_cli.cli.workspace_defaults import choose_for_measuring, choose_for_sampling
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.files import check_writable

if TYPE_CHECKING:
    from xmdpt_cli.metrics.download import Published
    from xmdpt_cli.metrics.evaluate import Networks
    from xmdpt_cli.metrics.evaluation import Evaluation
    from xmdpt_cli.metrics.protocols import Protocol
    from xmdpt_cli.training.distributed import Distributed

METRICS = ("fid", "ssim", "lpips", "psnr")  # options that choose
GARMENTS = 256  # whose condition vectors are compared, at most


def check_together(chosen: SimpleNamespace) -> None:
    """ConfigError for options that do not go together."""
    if chosen.target is not None:
        for name in ("data", "model", "limit", "vae"):
            if getattr(chosen, name) is not None:
                raise ConfigError(f"--{name} does not go with --target, which compares two folders")
        if chosen.generated is None:
            raise ConfigError("--target needs --generated DIR: the images to measure")
    elif chosen.real is not None:
        raise ConfigError(
            "--real goes with --target; of a dataset the training images are the reference set"
        )
    if chosen.seeds > 1 and chosen.model is None and (chosen.generated or chosen.target):
        raise ConfigError("--seeds needs --model DIR, which generates with each of them")


def check_drop_last(chosen: SimpleNamespace) -> None:
    """ConfigError where --drop-last would drop nothing: by protocol, or by what is measured."""
    if not chosen.drop_last:
        return
    from xmdpt_cli.metrics.protocols import NAMES, PROTOCOLS, get_protocol

    able = {name: get_protocol(name).batches for name in NAMES}
    names = [*PROTOCOLS] if "all" in chosen.protocol else chosen.protocol or ["cfld"]
    other = [name for name in names if not able[name]]
    if other:
        hint = " ".join(f"--protocol {name}" for name, batches in able.items() if batches)
        raise ConfigError(
            f"--drop-last: the evaluator of {', '.join(other)} drops no batch", f"take {hint}"
        )
    asked = [name for name in METRICS if getattr(chosen, name)]
    if asked and not any(kind in able[name] for name in names for kind in asked):
        raise ConfigError(
            f"--drop-last: only FID and LPIPS drop a batch, not {', '.join(asked)}",
            "leave it out, or add --fid or --lpips",
        )


def check_report(path: Path) -> None:
    """An error unless the three files of a report can be written, before anything is measured."""
    if path.is_dir():
        raise ConfigError(f"a folder, not a file: {path}", f"--out {path / 'metrics.json'}")
    if path.suffix != ".json":
        beside = "; a CSV and an HTML page are written beside it"
        raise ConfigError(
            f"--out names a JSON file, not {path}{beside}", f"--out {path.with_suffix('.json')}"
        )
    for suffix in (".json", ".csv", ".html"):
        check_writable(path.with_suffix(suffix))


def choose(chosen: SimpleNamespace, talk: Talk) -> None:
    """Fill in from the workspace what was not given; ``model`` stays None if only to measure."""
    if chosen.target is not None:
        return
    if chosen.generated is not None and chosen.model is None:
        chosen.data, chosen.vae = choose_for_measuring(
            talk, chosen.generated, chosen.data, chosen.vae
        )
        return
    found = choose_for_sampling(
        talk, chosen.model, chosen.data, chosen.vae, chosen.generated,
        suffix="-seeds" if chosen.seeds > 1 else "",
    )  # fmt: skip
    chosen.model, chosen.data, chosen.vae = found.model, found.data, found.vae
    chosen.generated = found.out


def draw(chosen: SimpleNamespace, out: Path, seed: int | None, talk: Talk) -> None:
    """Generate what is missing, as ``xmdpt sample`` does, with the settings of what is there."""
    from xmdpt_cli.cli.sample_modes import generate_pairs
    from xmdpt_cli.cli.sample_options import SampleOptions
    from xmdpt_cli.sampling.record import OTHER_OUT, RECORD, read_record
    from xmdpt_cli.storage.ranks import World

    record = read_record(out) if (out / RECORD).exists() else {}
    sampling = record.get("sampling", {})
    interval = sampling.get("interval")
    precision = {"float32": "fp32", "bfloat16": "bf16"}.get(record.get("precision", ""), "auto")
    asked = SampleOptions(
        model=chosen.model, data=chosen.data, split=chosen.split, out=out, device=chosen.device,
        precision=precision, vae=chosen.vae, limit=chosen.limit,
        interval=interval and f"{interval[0]}:{interval[1]}",
        **{k: sampling.get(k) for k in ("steps", "solver", "guidance", "power")},
        seed=sampling.get("seed") if seed is None else seed,
    )  # fmt: skip
    try:
        generate_pairs(asked, talk, World.from_environment())
    except XmdptError as err:
        if err.hint != OTHER_OUT:
            raise
        hint = f"name another folder: --generated DIR; or delete {workspace.quote(out)}"
        raise XmdptError(err.message, hint) from err


def truths(chosen: SimpleNamespace, generated: Path, where: str, talk: Talk) -> Any:
    from xmdpt_cli.metrics.folders import images_not_read, pair_folders, pictures_of
    from xmdpt_cli.sampling.ground_truth import DatasetGroundTruth, FolderGroundTruth
    from xmdpt_cli.utils.image_types import say_not_read, why_not_read

    if chosen.data is not None:
        return DatasetGroundTruth(
            chosen.data, chosen.split, generated, device=where, limit=chosen.limit, vae=chosen.vae
        )
    found = pair_folders(generated, chosen.target)
    for what, paths in (("generated", found.generated_only), ("target", found.target_only)):
        for path in paths[:3]:
            talk.warn(f"no partner for {path}")
        if len(paths) > 3:
            talk.warn(f"nor for {len(paths) - 3} more {what} pictures")
    photographs = pictures_of(chosen.real or chosen.target)
    unread = found.not_read + (images_not_read(chosen.real) if chosen.real else [])
    if unread:
        talk.warn(say_not_read([path.name for path in unread]))
        talk.hint(why_not_read(unread[0].name) or "")
    return FolderGroundTruth(found.pairs, photographs)


def instruments(chosen: SimpleNamespace, seen: Any, device: str) -> tuple[list[Protocol], Networks]:
    """The protocols and the networks asked for, for ground truths like these."""
    protocols = _protocols(chosen.protocol, chosen.height, seen.height)
    return protocols, _networks(chosen, device)


def measure(
    chosen: SimpleNamespace,
    seen: Any,
    protocols: list[Protocol],
    networks: Networks,
    dist: Distributed,
    talk: Talk,
) -> list[Evaluation]:
    """An evaluation by each protocol; the same for all processes."""
    from xmdpt_cli.metrics.evaluate import Ranks, evaluate
    from xmdpt_cli.metrics.registry import registered
    from xmdpt_cli.toy.measures import TOY_METRICS

    only = [name for name in METRICS if getattr(chosen, name)]
    only += ["kid"] if only and chosen.kid else []
    ranks = Ranks(dist.world_size, seen.names, dist.all_gather, dist.run_on_main)
    with talk.progress() as progress:
        reports = evaluate(
            seen.pairs(dist.rank, dist.world_size),
            protocols,
            networks=networks,
            reference=seen.reference_set(),
            only=only,
            extra=[*registered(), *(TOY_METRICS if chosen.synthetic else ())],
            intervals=chosen.intervals,
            drop_last=chosen.drop_last,
            ranks=ranks,
            progress=progress,
        )
    for report in reports:
        if seen.toy:
            report.notes.append("toy: made with toy encoders")
        if seen.note is not None:
            report.notes.append(seen.note)
    return reports


def keep_earlier(path: Path, report: dict[str, Any], talk: Talk) -> None:
    """A report that says more than the new one, of other metrics or more images, gets another name:
    FID of a whole test set takes hours."""
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
    talk.say(f"the earlier report, which says more, is kept as {path.with_stem(stem)}")


def invariance(chosen: SimpleNamespace, where: str) -> dict[str, float]:
    """How alike condition vectors of one person's views are, and of two people (paper Fig. 5).
    Empty for a model without the vector, or a dataset without two views of anybody."""
    from xmdpt_cli.data.loader import PairDataset
    from xmdpt_cli.sampling import hub
    from xmdpt_cli.sampling.sampler import Sampler
    from xmdpt_cli.training.validation_metrics import similarity
    from xmdpt_cli.training.validation_pairs import read_views

    sampler = Sampler.load(hub.fetch(chosen.model), where, "fp32")
    dataset = PairDataset(chosen.data, chosen.split)
    scale = float(sampler.metadata["encoders"]["vae"]["scale"])
    views = read_views(dataset, list(range(len(dataset))), scale, GARMENTS)
    return {} if views is None else similarity(sampler.model, views, sampler.device)


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


def find_networks(chosen: SimpleNamespace, dist: Distributed, talk: Talk) -> None:
    """Settle which networks measure, and download what is missing: before minutes of work.

    Random weights are used where they are asked for, and for a toy dataset, which is said.
    Raises XmdptError naming every network that is not there.
    """
    from xmdpt_cli.data.manifest import read_manifest
    from xmdpt_cli.metrics.download import choose, download
    from xmdpt_cli.metrics.features import require_torch_fidelity
    from xmdpt_cli.storage.stores import open_store

    toy = chosen.data is not None and bool(read_manifest(open_store(chosen.data)).get("toy"))
    needed = _needed(chosen)
    for name, (network, random) in needed.items():
        if toy and getattr(chosen, name) is None:
            setattr(chosen, name, network.toys[-1])
            talk.warn(
                f"toy dataset: {network.use} with random weights, named {random} "
                f"(for the published ones: {network.option} PATH)"
            )
    if "tf_inception_weights" in needed and chosen.tf_inception_weights not in ("off", "toyconv"):
        require_torch_fidelity()
    values = {needed[name][0]: getattr(chosen, name) for name in needed}
    with talk.progress() as progress:
        dist.run_on_main(lambda: download(choose(values), progress))


def _needed(chosen: SimpleNamespace) -> dict[str, tuple[Published, str]]:
    """The networks of the metrics asked for: option -> its file, its name with random weights."""
    from xmdpt_cli.metrics.features import INCEPTION, TF_INCEPTION
    from xmdpt_cli.metrics.lpips_metric import ALEXNET
    from xmdpt_cli.metrics.protocols import PROTOCOLS, get_protocol

    every = not any(getattr(chosen, name) for name in METRICS)
    needed = {}
    if every or chosen.lpips:
        needed["alexnet_weights"] = (ALEXNET, "lpips_alex_v0.1_toy")
    if every or chosen.fid or chosen.kid:
        names = chosen.protocol or ["native"]
        names = list(PROTOCOLS) if "all" in names else names
        kinds = {get_protocol(name).inception for name in names}
        if "torchvision" in kinds:
            needed["inception_weights"] = (INCEPTION, "fid_toyconv")
        if "tensorflow" in kinds:
            needed["tf_inception_weights"] = (TF_INCEPTION, "fid_toyconv")
    return needed


def _networks(chosen: SimpleNamespace, device: str) -> Networks:
    """The LPIPS and FID networks that ``find_networks`` settled."""
    from xmdpt_cli.metrics.evaluate import Networks
    from xmdpt_cli.metrics.features import inception_features, tensorflow_features, toy_features
    from xmdpt_cli.metrics.lpips_metric import LpipsNetwork

    needed = _needed(chosen)
    perceptual = None
    if "alexnet_weights" in needed and chosen.alexnet_weights != "off":
        perceptual = LpipsNetwork(chosen.alexnet_weights, device)
    features = {}
    for kind, name, load in (
        ("torchvision", "inception_weights", inception_features),
        ("tensorflow", "tf_inception_weights", tensorflow_features),
    ):
        given = getattr(chosen, name)
        if name in needed and given != "off":
            features[kind] = toy_features(device) if given == "toyconv" else load(given, device)
    return Networks(perceptual, features, chosen.kid)
