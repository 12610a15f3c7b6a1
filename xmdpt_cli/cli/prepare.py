"""``xmdpt prepare``: photographs and lists -> shards of features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xmdpt_cli.cli.console import Talk, warn_if_busy
from xmdpt_cli.cli.help import panels
from xmdpt_cli.cli.next_command import quote, train_command
from xmdpt_cli.cli.options import options_from, pick_device, quiet_libraries
from xmdpt_cli.cli.prepare_check import check
from xmdpt_cli.cli.prepare_options import PrepareOptions
from xmdpt_cli.cli.prepare_plan import Plan, say_plan, say_toys
from xmdpt_cli.cli.workspace import DATA
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import human_bytes
from xmdpt_cli.storage.stores import open_store
from xmdpt_cli.utils.counts import counted

LOSS = 0.01  # share of the images and pairs that may be left out before it is a failure


@panels(
    {
        "Dataset": "root out resolution layout pose frame limit seed write-annotations",
        "Networks": "encoders vae dino-source dino-pose openpose tokens vae-steps",
        "Execution": "batch-size workers strict dry-run",
        "Verification": "check repair",
    }
)
@options_from(PrepareOptions)
def prepare(chosen: PrepareOptions) -> None:
    """Turn a raw dataset into shards of encoded images.

    Resizes images, renders poses, and encodes them with the VAE and two DINOv2 networks. Run the
    same command again to resume.
    """
    quiet_libraries()
    talk = Talk(chosen.as_json)
    if chosen.check_dir is not None:
        _check(talk, chosen, chosen.check_dir)
    else:
        chosen.check()
        _prepare(talk, chosen)


def _check(talk: Talk, chosen: PrepareOptions, place: str) -> None:
    """Verify a dataset; with --repair and --root, prepare damaged shards again."""
    final = chosen.root is None or chosen.out is not None
    shards = check(talk, place, chosen.repair, final=final)
    if shards is None or chosen.root is None:
        return
    from xmdpt_cli.prepare.remake import remake_shards

    with talk.progress() as progress:
        made = remake_shards(
            place, shards, chosen.root, chosen.given(), device=pick_device(chosen.device),
            workers=chosen.workers, progress=progress, say=talk.say,
        )  # fmt: skip
    for name in made.changed:
        talk.warn(
            f"{name} was repaired, but its bytes differ from before: images have changed, or "
            "features are rounded differently (another number of threads, another device, other "
            "versions of the libraries or of xmdpt)"
        )
        talk.hint("runs trained on it cannot resume: start a new one (train --out DIR)")
    _report(talk, chosen, {made.size: place}, {made.size: made.manifest})


def _prepare(talk: Talk, chosen: PrepareOptions) -> None:
    from xmdpt_cli.datasets.find import find_dataset
    from xmdpt_cli.prepare.dataset_folder import check_output_folder
    from xmdpt_cli.prepare.networks import find_networks, load_openpose, load_pretrained
    from xmdpt_cli.prepare.pipeline import prepare_datasets
    from xmdpt_cli.prepare.workers import decode_processes
    from xmdpt_cli.storage.ranks import World
    from xmdpt_cli.toy.encoders import toy_encoders
    from xmdpt_cli.toy.train_encoders import make_toy_encoders_by_size

    assert chosen.root is not None
    world, outs, encoders = World.from_environment(), chosen.outs, chosen.encoder_paths
    for place in outs.values():  # before minutes are spent on loading networks
        check_output_folder(open_store(place))
    listing = find_dataset(
        chosen.root, layout=chosen.layout, detect=chosen.pose == "openpose", sizes=list(outs),
        seed=chosen.seed, strict=chosen.strict, frame=chosen.frame,
    )  # fmt: skip
    if world.rank == 0:
        for line in listing.describe():
            talk.say(f"found: {line}")
        warn_if_busy(talk)
    networks, detector = None, None
    workers = decode_processes(listing.images(), chosen.workers)
    with talk.progress() as progress:
        try:
            device = pick_device(chosen.device)
            find_networks(
                listing, encoders if isinstance(encoders, dict) else None, chosen.openpose
            )
            if encoders is None:  # untrained ones take as long and as many bytes
                networks = {size: toy_encoders(size, chosen.seed) for size in outs}
            else:
                networks = dict.fromkeys(outs, load_pretrained(encoders, device))
            detector = load_openpose(listing, chosen.openpose, device)
        except XmdptError as err:
            if not chosen.dry_run:
                raise
            talk.warn(f"the time cannot be estimated: {err.message}")
            talk.hint(err.hint)
        plan = None
        if world.rank == 0:
            settings = Plan(listing, outs, chosen.tokens, chosen.limit, workers, world)
            plan = say_plan(talk, settings, networks, detector)
            if encoders is None:
                say_toys(talk, outs, chosen.vae_steps)
        if chosen.dry_run:
            talk.result(plan or {"shards": 0}, text="nothing was written (--dry-run)")
            return
        if encoders is None:
            networks = make_toy_encoders_by_size(
                listing, outs, world, seed=chosen.seed, vae_steps=chosen.vae_steps,
                limit=chosen.limit, progress=progress,
            )  # fmt: skip
        assert networks is not None
        manifests = prepare_datasets(
            listing, outs, networks, detector=detector, tokens=chosen.tokens,
            batch_size=chosen.batch_size, limit=chosen.limit, strict=chosen.strict,
            workers=workers, world=world, progress=progress,
        )  # fmt: skip
    if world.rank == 0:
        _report(talk, chosen, outs, manifests)
    else:
        talk.say(f"rank {world.rank} is done")


def _write_pages(outs: dict[int, str], annotations: Path | None) -> list[str]:
    """Write the report pages, and the keypoints to ``annotations``; returns the paths."""
    from xmdpt_cli.datasets.export import write_annotations
    from xmdpt_cli.prepare.keypoint_rows import keypoint_rows
    from xmdpt_cli.report.dataset_page import write_report

    made = []
    for out in outs.values():
        made += [f"{out}/{name}" for name in write_report(open_store(out))]
    if annotations is not None:
        rows = keypoint_rows(open_store(next(iter(outs.values()))))
        made += [str(path) for path in write_annotations(rows, annotations)]
    return made


def _next(outs: dict[int, str], toy: bool) -> str:
    first = next(iter(outs.values()))
    here = len(outs) == 1 and Path(first).parent == DATA
    return f"next: {train_command(toy)}" + ("" if here else f" --data {quote(first)}")


def _report(
    talk: Talk,
    chosen: PrepareOptions,
    outs: dict[int, str],
    manifests: dict[int, dict[str, Any]],
) -> None:
    """Write the report pages and print the result; XmdptError if too much was left out."""
    made = _write_pages(outs, chosen.write_annotations)
    first = manifests[min(manifests)]
    skipped, counts = first["skipped"], first["counts"]
    for file, reason in skipped[:5]:
        talk.warn(f"left out: {file}: {reason}")
    if len(skipped) > 5:
        talk.warn(f"... and {len(skipped) - 5} more, listed in dataset.json")
    images = sum(split["images"] for split in counts.values())
    pairs = {split: counts[split]["pairs"] for split in counts}
    toy = " with TOY encoders (to try the workflow, not for results)" if first["toy"] else ""
    lines = []
    for size, manifest in manifests.items():
        total = human_bytes(sum(shard["bytes"] for shard in manifest["shards"]))
        lines.append(
            f"prepared {counted(images, 'image')} at {size} px{toy}: {pairs['train']} training and "
            f"{counted(pairs['test'], 'test pair')}, {total}, {len(skipped)} left out"
        )
    lines += [f"written: {path}" for path in made]
    too_many = len(skipped) > LOSS * (images + len(skipped))
    if not too_many:
        lines.append(_next(outs, first["toy"]))
    results = {
        str(size): {"out": outs[size], **{k: v for k, v in m.items() if k != "shards"}}
        for size, m in manifests.items()
    }
    only = next(iter(results.values())) if len(results) == 1 else {"datasets": results}
    talk.result({**only, "files": made}, text="\n".join(lines))
    if too_many:
        share = 100 * len(skipped) / (images + len(skipped))
        raise XmdptError(
            f"{share:.1f} % of the files and list rows are left out, more than 1 %; the rest is "
            "prepared and can be used",
            f"check that {chosen.root} is complete and its lists belong to it; see dataset.json",
        )
