"""From a listing of a raw dataset to a prepared one.

A shard goes through these stages, an item at a time (``make_shard``):

    decode and resize (``decode``, on ``workers``) -> keypoints where the listing has none
    (``features``) -> VAE moments and DINOv2 tokens (``features``) -> write (``shard_writer``)

The folder then holds ``prepare.json`` (the settings, written first), the shards with their
indexes, and ``dataset.json`` (the manifest, written last). Interrupted at any point, the same call
continues with the unfinished shards and ends with the same bytes as an undisturbed run,
whether one process or many make them. (On a CPU the networks' rounding depends on torch's number
of threads: bytes are compared at the same number.)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from xmdpt_cli.data.index import ShardIndex, index_name, read_index
from xmdpt_cli.data.manifest import finished_manifest
from xmdpt_cli.datasets.listing import Listing
from xmdpt_cli.errors import ConfigError
from xmdpt_cli.files import only_process
from xmdpt_cli.prepare.dataset_folder import (
    describe_poses,
    fingerprint,
    make_manifest,
    remove_parts,
    skipped_files,
    start_or_resume,
)
from xmdpt_cli.prepare.features import TOKEN_TYPES, FeatureEncoder, PoseDetector
from xmdpt_cli.prepare.make_shard import Settings, Target, make_shard
from xmdpt_cli.prepare.plan import ShardPlan, plan_shards, share
from xmdpt_cli.prepare.workers import Decoders
from xmdpt_cli.progress import Progress, silent
from xmdpt_cli.storage.ranks import ProcessGroup, World
from xmdpt_cli.storage.stores import Store, open_store

__all__ = ["FeatureEncoder", "PoseDetector", "World", "prepare_dataset", "prepare_datasets"]

ITEMS_PER_SHARD = 64


def prepare_dataset(
    listing: Listing,
    out: str | Path,
    *,
    size: int,
    encoder: FeatureEncoder,
    **options: Any,
) -> dict[str, Any]:
    """``prepare_datasets`` for one size: write ``listing`` below ``out``, return the manifest."""
    return prepare_datasets(listing, {size: out}, {size: encoder}, **options)[size]


def prepare_datasets(
    listing: Listing,
    outs: Mapping[int, str | Path],
    encoders: Mapping[int, FeatureEncoder],
    *,
    detector: PoseDetector | None = None,
    tokens: str = "bf16",
    items_per_shard: int = ITEMS_PER_SHARD,
    batch_size: int = 16,
    limit: int | None = None,
    strict: bool = False,
    workers: int = 0,
    world: World | None = None,
    remake: Collection[str] | None = None,
    progress: Progress = silent,
) -> dict[int, dict[str, Any]]:
    """Write ``listing`` as shards, one dataset a size, in one pass over the images.

    ``outs``: side of the prepared squares in pixels -> folder or URL; ``encoders``: those of each
    size; ``detector``: finds the keypoints that the listing does not have; ``tokens``: ``"bf16"``,
    or ``"fp8"`` with a scale a token; ``batch_size``: images per call of an encoder; ``limit``: at
    most so many items per split; ``strict``: the first image that cannot be used is an error;
    ``workers``: processes that decode ahead of the encoders (0: threads of this process; a script
    that uses processes needs ``if __name__ == "__main__"``); ``world``: rank and number of
    processes, all called with the same arguments; each returns when all have
    finished; ``remake``: existing shards to make again, in one process. Each is replaced once its
    successor is complete and read back, the manifest last.

    Returns the manifests by size. A finished folder returns at once. Raises XmdptError if a folder
    holds something else or was started with other settings, if the encoder gives values that are
    not finite, or if nothing usable is left.
    """
    _check(outs, encoders, tokens, items_per_shard, batch_size, limit, workers)
    world = world or World()
    if listing.without_keypoints() == 0:
        detector = None
    elif detector is None:
        raise ConfigError(
            f"{listing.without_keypoints()} images have no keypoints", "give a pose detector"
        )
    settings = Settings(detector, tokens, batch_size, strict, replace=remake is not None)
    if remake is not None and (world.size > 1 or len(outs) > 1):
        raise ConfigError("shards are made again by one process, one dataset at a time")
    targets = [Target(size, open_store(out), encoders[size]) for size, out in sorted(outs.items())]
    with ExitStack() as stack:
        for target in targets:
            if target.store.folder is not None:
                lock = ".lock" if world.size == 1 else f".lock-{world.rank}"
                stack.enter_context(only_process(target.store.folder, lock))
        group = ProcessGroup(targets[0].store, world)
        try:
            for target in targets:
                recorded = fingerprint(listing, target, settings, items_per_shard, limit)
                start_or_resume(target.store, recorded, group, keep=remake is not None)
            if remake is not None:
                settings = replace(settings, left_out=skipped_files(targets[0].store))
            plans = plan_shards(listing, items_per_shard, limit)
            made = _make_shards(targets, plans, settings, workers, group, remake or (), progress)
            manifests = {
                target.size: _finish(target, plans, made, listing, settings, group)
                for target in targets
            }
        except BaseException as err:
            with suppress(Exception):  # the first error is the one to report
                group.beat(failure=str(err) or type(err).__name__)
            raise
        group.close()
        return manifests


def _make_shards(
    targets: Sequence[Target],
    plans: Sequence[ShardPlan],
    settings: Settings,
    workers: int,
    group: ProcessGroup,
    remake: Collection[str],
    progress: Progress,
) -> dict[tuple[int, str], ShardIndex]:
    """Make the unfinished shards of this rank; returns all of its indexes by (size, name)."""
    mine = share(plans, group.world)
    made: dict[tuple[int, str], ShardIndex] = {}
    missing: dict[str, list[Target]] = {}
    for plan in mine:
        for target in targets:
            index = read_index(target.store, plan.name)
            if index is None or plan.name in remake:
                missing.setdefault(plan.name, []).append(target)
            else:
                made[target.size, plan.name] = index
    total, done = sum(plan.images for plan in mine), 0
    progress("prepare", 0, total)

    def report(images: int, shard: str) -> None:
        nonlocal done
        done += images
        group.beat()
        progress("prepare", done, total, shard=shard)

    for plan in mine:
        if plan.name not in missing:
            report(plan.images, plan.name)
    todo = [
        (item, [target.size for target in missing[plan.name]])
        for plan in mine
        if plan.name in missing
        for item in plan.items
    ]
    if not todo:
        return made
    ahead = max(2 * settings.batch_size, 8 * workers)
    with Decoders(workers, [target.size for target in targets], ahead) as pool:
        decoded = pool.decode(todo)
        for plan in mine:
            if plan.name in missing:
                indexes = make_shard(plan, missing[plan.name], decoded, settings, report)
                for target, index in zip(missing[plan.name], indexes, strict=True):
                    made[target.size, plan.name] = index
    return made


def _finish(
    target: Target,
    plans: Sequence[ShardPlan],
    made: dict[tuple[int, str], ShardIndex],
    listing: Listing,
    settings: Settings,
    group: ProcessGroup,
) -> dict[str, Any]:
    """Rank 0 waits for all shards and writes the manifest; the others wait for that."""
    store = target.store
    if group.world.rank != 0:
        return group.wait(lambda: finished_manifest(store), "rank 0 to write the manifest")
    manifest = None if settings.replace else finished_manifest(store)
    if manifest is not None:
        return manifest
    indexes = []
    for plan in plans:
        index = made.get((target.size, plan.name))
        if index is None:
            index = group.wait(partial(_finished_index, store, plan.name), plan.name)
        indexes.append(index)
    if group.world.size > 1:
        remove_parts(store)  # of an interrupted run; all ranks have finished writing
    return make_manifest(
        store,
        indexes,
        listing.problems,
        target.size,
        target.encoder.describe(),
        {"tokens": settings.tokens, "poses": describe_poses(settings)},
    )


def _finished_index(store: Store, name: str) -> ShardIndex | None:
    """The index of a shard that another rank makes; None until it is finished."""
    return None if store.size(index_name(name)) is None else read_index(store, name)


def _check(
    outs: Mapping[int, str | Path],
    encoders: Mapping[int, FeatureEncoder],
    tokens: str,
    items_per_shard: int,
    batch_size: int,
    limit: int | None,
    workers: int,
) -> None:
    """Raises ConfigError for impossible arguments."""
    numbers = {"items_per_shard": items_per_shard, "batch_size": batch_size, "limit": limit}
    for name, value in [*(("resolution", size) for size in outs), *numbers.items()]:
        if value is not None and value < 1:
            raise ConfigError(f"{name} must be at least 1, not {value}")
    if workers < 0:
        raise ConfigError(f"workers must be at least 0, not {workers}")
    if tokens not in TOKEN_TYPES:
        raise ConfigError(f"tokens are stored as {' or '.join(TOKEN_TYPES)}, not {tokens!r}")
    if not outs or outs.keys() != encoders.keys():
        raise ConfigError("give at least one size, and an encoder for each")
    if len({str(out) for out in outs.values()}) < len(outs):
        raise ConfigError("two sizes cannot be written to the same folder")
