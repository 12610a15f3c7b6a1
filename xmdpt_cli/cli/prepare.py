"""``xmdpt prepare``: photographs and lists -> shards of features."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from xmdpt_cli.cli.console import Talk, warn_if_busy
from xmdpt_cli.cli.help import panels
from xmdpt_cli.cli.options import AsJson, Device, pick_device, quiet_libraries
from xmdpt_cli.cli.prepare_check import check
from xmdpt_cli.cli.prepare_encoders import (
    find_networks,
    find_openpose,
    pretrained,
    say_toys,
    toy,
)
from xmdpt_cli.cli.prepare_plan import Plan, say_plan
from xmdpt_cli.cli.prepare_repair import given_options, remake
from xmdpt_cli.cli.workspace import DATA, next_train, quote
from xmdpt_cli.encoders.identity import dataset_note
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.files import human_bytes
from xmdpt_cli.storage.stores import is_url, open_store

if TYPE_CHECKING:
    from xmdpt_cli.datasets.listing import Listing
    from xmdpt_cli.encoders.bundle import Encoders
    from xmdpt_cli.encoders.openpose import OpenPose

LOSS = 0.01  # share of the images and pairs that may be left out before it is a failure


@panels(
    {
        "Dataset": "root out size layout pose frame limit seed write-annotations",
        "Networks": "encoders vae dino-source dino-pose openpose tokens vae-steps",
        "How it runs": "batch-size workers strict dry-run",
        "Verify": "check repair",
    }
)
def prepare(
    context: typer.Context,
    root: Annotated[
        Path | None,
        typer.Option(help="Raw dataset: a folder of images, with pair lists if there are any."),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(help="Folder or URL to write, or to resume [data/SIZE]."),
    ] = None,
    size: Annotated[
        list[int] | None,
        typer.Option(help="Side of the square images in pixels; repeat for a second size [256]."),
    ] = None,
    layout: Annotated[
        str,
        typer.Option(
            metavar="<layout>",
            help="Layout of ROOT: auto, deepfashion, or people (one folder of images per person).",
        ),
    ] = "auto",
    pose: Annotated[
        Literal["auto", "openpose"],
        typer.Option(
            help="Source of keypoints; auto: the dataset's, else OpenPose, openpose: always."
        ),
    ] = "auto",
    frame: Annotated[
        str,
        typer.Option(
            help="Frame of the keypoint files: 256x176, 256x256-padded, pixels, fractions, WxH; "
            "auto: detected from the values."
        ),
    ] = "auto",
    openpose: Annotated[
        str | None,
        typer.Option(help="OpenPose: hub id, folder or body file [lllyasviel/Annotators]."),
    ] = None,
    encoders: Annotated[
        str,
        typer.Option(
            help="Encoders: pretrained, toy (small ones, trained now), or a folder that holds them."
        ),
    ] = "pretrained",
    vae: Annotated[
        str | None, typer.Option(help="VAE: hub id or folder [stabilityai/sd-vae-ft-mse].")
    ] = None,
    dino_source: Annotated[
        str | None, typer.Option(help="Source DINOv2: hub id or folder [facebook/dinov2-giant].")
    ] = None,
    dino_pose: Annotated[
        str | None, typer.Option(help="Pose DINOv2: hub id or folder [facebook/dinov2-base].")
    ] = None,
    tokens: Annotated[
        Literal["bf16", "fp8"],
        typer.Option(help="Number type of the stored DINOv2 tokens; fp8: half the bytes."),
    ] = "bf16",
    vae_steps: Annotated[
        int | None,
        typer.Option(min=1, help="Training steps of the toy VAE [600; above 128 px: 1200]."),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            min=0, help="Random seed of the pairs of your own images, and of toy encoders."
        ),
    ] = 0,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first LIMIT people of each split [all].")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per batch of the encoders.")] = 16,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0, help="Number of processes that decode images; 0: threads [one per core]."
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first file that cannot be used.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the plan (images, bytes, time) and write nothing."),
    ] = False,
    check_dir: Annotated[
        str | None,
        typer.Option("--check", help="Prepared dataset to verify, instead of preparing one."),
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Repair what can be repaired, with --check.")
    ] = False,
    write_annotations: Annotated[
        Path | None,
        typer.Option(
            help="Folder to which all keypoints are also written, in both published formats."
        ),
    ] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Turn a raw dataset into shards of encoded images.

    Resizes images, renders poses, and encodes both with the VAE and two DINOv2. The same command
    again resumes.
    """
    quiet_libraries()
    talk = Talk(as_json)
    from xmdpt_cli.utils.devices import cores

    processes = cores() if workers is None else workers
    if check_dir is not None:
        final = root is None or out is not None
        shards = check(talk, check_dir, repair, final=final)
        if shards is None or root is None:
            return
        manifests = remake(
            talk, check_dir, shards, root, given_options(context), device=pick_device(device),
            workers=lambda listing: _worth(processes, listing),
        )  # fmt: skip
        made_in = dict.fromkeys(manifests, check_dir)
        _report(talk, root, made_in, manifests, _after(made_in, write_annotations))
        return
    if repair:
        raise ConfigError("--repair goes with --check DIR")
    if root is None:
        raise ConfigError(
            "which images? give --root, the raw dataset",
            "xmdpt prepare --root DeepFashion; or --check DIR, to verify a prepared dataset",
        )
    sizes = sorted(set(size or [256]))
    places = (
        [out]
        if out and len(sizes) == 1
        else [f"{out or DATA}".rstrip("/") + f"/{n}" for n in sizes]
    )
    outs = dict(zip(sizes, places, strict=True))
    given = {"--vae": vae, "--dino-source": dino_source, "--dino-pose": dino_pose}
    _check_choice(encoders, [name for name, value in given.items() if value], outs)
    from xmdpt_cli.datasets.find import find_dataset
    from xmdpt_cli.prepare.dataset_folder import refuse_strangers
    from xmdpt_cli.prepare.pipeline import prepare_datasets
    from xmdpt_cli.storage.ranks import World
    from xmdpt_cli.toy.encoders import toy_encoders

    world = World.from_environment()
    for place in outs.values():  # before minutes are spent on loading networks
        refuse_strangers(open_store(place))
    listing = find_dataset(
        root, layout=layout, detect=pose == "openpose", sizes=sizes, seed=seed, strict=strict,
        frame=frame,
    )  # fmt: skip
    if world.rank == 0:
        for line in listing.describe():
            talk.say(f"found: {line}")
        warn_if_busy(talk)
    networks: dict[int, Encoders] | None = None
    detector: OpenPose | None = None

    plan = Plan(listing, outs, tokens, limit, processes, world)
    with talk.progress() as progress:
        try:
            where = pick_device(device)
            find_networks(listing, encoders, vae, dino_source, dino_pose, openpose)
            if encoders != "toy":
                shared = pretrained(encoders, vae, dino_source, dino_pose, where)
                networks = dict.fromkeys(sizes, shared)
            else:  # untrained ones take as long and as many bytes
                networks = {side: toy_encoders(side, seed) for side in sizes}
            detector = find_openpose(listing, openpose, where)
        except XmdptError as err:
            if not dry_run:
                raise
            talk.warn(f"the time it takes is unknown: {err.message}")
            talk.hint(err.hint)
        plan_data = say_plan(talk, plan, networks, detector) if world.rank == 0 else None
        if encoders == "toy" and world.rank == 0:
            say_toys(talk, outs, vae_steps)
        if dry_run:
            talk.result(plan_data or {"shards": 0}, text="nothing was written (--dry-run)")
            return
        if encoders == "toy":
            networks = toy(listing, outs, seed, vae_steps, limit, world, progress)
        assert networks is not None
        manifests = prepare_datasets(
            listing, outs, networks, detector=detector, tokens=tokens, batch_size=batch_size,
            limit=limit, strict=strict, workers=_worth(processes, listing), world=world,
            progress=progress,
        )  # fmt: skip
        if world.rank != 0:
            talk.say(f"rank {world.rank} is done")
            return
        made = _after(outs, write_annotations)
    _report(talk, root, outs, manifests, made)


def _worth(processes: int, listing: Listing) -> int:
    """Processes take a second to start: a few images are decoded in threads."""
    return processes if listing.images() >= 500 else 0


def _check_choice(encoders: str, named: list[str], outs: dict[int, str]) -> None:
    """ConfigError for options that do not go together."""
    if encoders != "pretrained" and named:
        raise ConfigError(f"{named[0]} names a network, --encoders {encoders} others: choose one")
    if encoders not in ("pretrained", "toy") and not Path(encoders).is_dir():
        raise ConfigError(
            f"--encoders is 'pretrained', 'toy' or a folder of encoders, not {encoders!r}"
        )
    if encoders == "toy" and any(is_url(out) for out in outs.values()):
        raise ConfigError(
            "toy encoders are made in the output folder, and this one is behind a URL",
            "prepare into a folder first; then --encoders FOLDER/encoders",
        )
    for size in outs:
        if size < 16 or size % 16:
            raise ConfigError(f"--size must be a multiple of 16 from 16 on, not {size}")


def _after(outs: dict[int, str], annotations: Path | None) -> list[str]:
    """What people look at before they train, and the keypoints if asked for."""
    from xmdpt_cli.datasets.export import write_annotations
    from xmdpt_cli.prepare.keypoint_rows import keypoint_rows
    from xmdpt_cli.report.dataset import write_report

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
    return f"next: {next_train(toy)}" + ("" if here else f" --data {quote(first)}")


def _report(
    talk: Talk,
    root: Path,
    outs: dict[int, str],
    manifests: dict[int, dict[str, Any]],
    made: list[str],
) -> None:
    """The result; XmdptError if too much was lost."""
    first = manifests[min(manifests)]
    skipped, counts = first["skipped"], first["counts"]
    for file, reason in skipped[:5]:
        talk.warn(f"left out: {file}: {reason}")
    if len(skipped) > 5:
        talk.warn(f"... and {len(skipped) - 5} more: all are in dataset.json")
    images = sum(split["images"] for split in counts.values())
    pairs = {split: counts[split]["pairs"] for split in counts}
    toy = " with TOY encoders (for trying the way, not for results)" if first["toy"] else ""
    lines = []
    for size, manifest in manifests.items():
        total = human_bytes(sum(shard["bytes"] for shard in manifest["shards"]))
        lines.append(
            f"prepared {images} images at {size} px{toy}: {pairs['train']} training and "
            f"{pairs['test']} test pairs, {total}, {len(skipped)} left out"
        )
        note = dataset_note(manifest, outs[size])
        if note is not None:
            talk.warn(note)
    lines += [f"look at: {path}" for path in made]
    lines.append(_next(outs, first["toy"]))
    results = {
        str(size): {"out": outs[size], **{k: v for k, v in m.items() if k != "shards"}}
        for size, m in manifests.items()
    }
    only = next(iter(results.values())) if len(results) == 1 else {"datasets": results}
    talk.result({**only, "files": made}, text="\n".join(lines))
    if len(skipped) > LOSS * (images + len(skipped)):
        share = 100 * len(skipped) / (images + len(skipped))
        raise XmdptError(
            f"{share:.1f} % of the files and list rows are left out, more than 1 %; the rest is "
            "prepared and can be used",
            f"is {root} whole, are the lists its own? All reasons are in dataset.json",
        )
