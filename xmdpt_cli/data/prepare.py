"""Turn a listing into a prepared dataset: pictures squashed, features computed once, shards.

The folder: ``prepare.json`` (what it is being made from, written first), ``train-000000.tar``
and its index one after the other, ``dataset.json`` (the manifest, written last). Interrupted at
any point, the same call continues after the last whole shard and ends with the same bytes as an
undisturbed run: batches never cross a shard's border, so a shard depends on nothing before it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from xmdpt_cli.data.decode import DecodedGarment, DecodedView, decode_ahead
from xmdpt_cli.data.listing import Garment, Listing
from xmdpt_cli.data.lists import SPLITS
from xmdpt_cli.data.manifest import (
    FORMAT,
    MANIFEST,
    VERSION,
    claim_folder,
    finished_manifest,
    make_manifest,
)
from xmdpt_cli.data.shards import FLIP, ShardIndex, ShardWriter, ViewData, read_index
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.files import only_process
from xmdpt_cli.progress import Progress, silent
from xmdpt_cli.stores import Store, open_store


class FeatureEncoder(Protocol):
    """The frozen networks, behind one call."""

    def encode(
        self, pictures: NDArray[np.uint8], poses: NDArray[np.uint8]
    ) -> dict[str, torch.Tensor]:
        """Pictures and pose pictures, each uint8 (N, size, size, 3) -> tensors (N, ...).

        ``moments`` (N, 2C, h, w) fp16/fp32: the VAE's posterior mean and log variance;
        ``source_tokens`` and ``pose_tokens`` (N, L, W) bf16. All finite, whatever the input.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """What identifies the weights, fit for JSON, with ``"toy": bool``."""
        ...


@dataclass(frozen=True)
class ShardPlan:
    """One shard to be written."""

    name: str  # train-000000.tar
    split: str
    garments: list[Garment]


def plan_shards(
    listing: Listing, garments_per_shard: int = 64, limit: int | None = None
) -> list[ShardPlan]:
    """Which garment goes where: by split, then by key; at most ``limit`` garments per split."""
    plans = []
    for split in SPLITS:
        garments = listing.split(split)[:limit]
        for number, start in enumerate(range(0, len(garments), garments_per_shard)):
            part = garments[start : start + garments_per_shard]
            plans.append(ShardPlan(f"{split}-{number:06d}.tar", split, part))
    return plans


def prepare_dataset(
    listing: Listing,
    out: str | Path,
    *,
    size: int,
    encoder: FeatureEncoder,
    garments_per_shard: int = 64,
    batch_size: int = 16,
    limit: int | None = None,
    progress: Progress = silent,
    workers: int = 0,
) -> dict[str, Any]:
    """Write ``listing`` as shards below ``out`` and return the manifest.

    ``size``: side of the prepared squares in pixels; ``batch_size``: pictures per call of the
    encoder; ``limit``: at most so many garments per split; ``workers``: threads that decode
    ahead of the encoder (0: one per core, at most 8). A finished folder returns at once.

    Raises XmdptError if ``out`` holds something else or was begun with other settings, if the
    encoder gives values that are not finite, or if nothing usable is left.
    """
    store, out = open_store(out), Path(out)
    for name, value in (("size", size), ("garments_per_shard", garments_per_shard),
                        ("batch_size", batch_size), ("limit", limit)):  # fmt: skip
        if value is not None and value < 1:
            raise ConfigError(f"{name} must be at least 1, not {value}")
    with only_process(out):
        claim_folder(store, fingerprint(listing, size, encoder, garments_per_shard, limit))
        manifest = finished_manifest(store)
        if manifest is not None:
            return manifest
        store.remove(MANIFEST)  # a shard was lost: not finished any more
        plans = plan_shards(listing, garments_per_shard, limit)
        whole = {plan.name: read_index(store, plan.name) for plan in plans}
        todo = [garment for plan in plans if whole[plan.name] is None for garment in plan.garments]
        total = sum(len(garment.views) for plan in plans for garment in plan.garments)
        report = _Report(progress, total)
        pool = ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1))
        try:
            decoded = decode_ahead(pool, todo, size, ahead=2 * batch_size)
            indexes = []
            for plan in plans:
                index = whole[plan.name]
                if index is None:
                    index = _write_shard(store, plan, decoded, encoder, batch_size, report)
                else:
                    report.add(sum(len(garment.views) for garment in plan.garments), plan.name)
                indexes.append(index)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        return make_manifest(store, indexes, listing.problems, size, encoder.describe())


def fingerprint(
    listing: Listing,
    size: int,
    encoder: FeatureEncoder,
    garments_per_shard: int,
    limit: int | None,
) -> dict[str, Any]:
    """Everything the bytes depend on, apart from the pictures themselves."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "resolution": size,
        "garments_per_shard": garments_per_shard,
        "limit": limit,
        "dataset": {
            "garments": len(listing.garments),
            "images": listing.images(),
            "sha256": listing.digest(),
        },
        "encoders": encoder.describe(),
    }


class _Report:
    """Counts pictures for the progress listener."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0
        progress("prepare", 0, total)

    def add(self, pictures: int, shard: str) -> None:
        self.done += pictures
        self.progress("prepare", self.done, self.total, shard=shard)


def _write_shard(
    out: Store,
    plan: ShardPlan,
    decoded: Iterator[DecodedGarment],
    encoder: FeatureEncoder,
    batch_size: int,
    report: _Report,
) -> ShardIndex:
    """Encode and write one shard; a garment is written as soon as all its views are encoded."""
    skipped: list[tuple[str, str]] = []
    waiting: list[DecodedGarment] = []
    batch: list[DecodedView] = []
    try:
        with ShardWriter(out, plan.name, plan.split) as writer:
            # plan.garments first: zip must not take a garment of the next shard
            for garment, item in zip(plan.garments, decoded, strict=False):
                assert garment.key == item.key
                skipped += item.skipped
                waiting.append(item)
                for view in item.views.values():
                    batch.append(view)
                    if len(batch) == batch_size:
                        _encode(batch, encoder)
                        batch = []
                _write_complete(waiting, writer)
                report.add(len(garment.views), plan.name)
            if batch:
                _encode(batch, encoder)
            _write_complete(waiting, writer)
            assert not waiting
            return writer.finish(skipped)
    except OSError as err:
        raise XmdptError(
            f"cannot write {out.url}/{plan.name}: {err}",
            "make room or fix the permissions; the same command then continues with this shard",
        ) from err


def _write_complete(waiting: list[DecodedGarment], writer: ShardWriter) -> None:
    """Write and forget the garments at the head whose views all have their features."""
    while waiting and all(view.features is not None for view in waiting[0].views.values()):
        item = waiting.pop(0)
        if item.pairs:
            views = {
                name: ViewData(view.file, view.png, view.keypoints, view.features or {})
                for name, view in item.views.items()
            }
            writer.add(item.key, views, item.pairs)


def _encode(batch: list[DecodedView], encoder: FeatureEncoder) -> None:
    """Give every view of the batch its features, in both orientations."""
    pictures = np.stack([view.picture for view in batch])
    poses = np.stack([view.pose for view in batch])
    for view in batch:
        view.features = {}
    for suffix in ("", FLIP):
        if suffix == FLIP:  # pictures are mirrored, joints are not relabelled (published)
            pictures = np.ascontiguousarray(pictures[:, :, ::-1])
            poses = np.ascontiguousarray(poses[:, :, ::-1])
        with torch.no_grad():
            features = encoder.encode(pictures, poses)
        for name, tensor in features.items():
            assert tensor.shape[0] == len(batch), (name, tensor.shape)
            finite = torch.isfinite(tensor).flatten(1).all(dim=1).tolist()
            for view, row, good in zip(batch, tensor.detach().cpu(), finite, strict=True):
                if not good:
                    raise XmdptError(
                        f"the encoder gave {name} that are not finite for {view.file}",
                        "run the encoders in float32 or bfloat16",
                    )
                assert view.features is not None
                view.features[name + suffix] = row.clone()
