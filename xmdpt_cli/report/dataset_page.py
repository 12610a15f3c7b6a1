"""A page (templates/dataset.html.j2) and a contact sheet of a prepared dataset, to check before
training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.data.manifest import read_manifest
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import human_bytes
from xmdpt_cli.images import fast_png_bytes
from xmdpt_cli.pose.keypoints import JOINTS
from xmdpt_cli.progress import Progress, silent
from xmdpt_cli.report.charts import bars, histogram
from xmdpt_cli.report.dataset_sheet import TEST_PAIRS, TRAIN_PAIRS, Strip, make_strip, pairs_sheet
from xmdpt_cli.report.dataset_statistics import SplitStatistics, evenly_spaced, split_statistics
from xmdpt_cli.report.dataset_tables import (
    network_table,
    reason_table,
    settings_table,
    shard_table,
    skipped_table,
)
from xmdpt_cli.report.pages import data_uri, render
from xmdpt_cli.storage.stores import Store
from xmdpt_cli.utils.counts import counted
from xmdpt_cli.utils.splits import SPLITS

SHEET, PAGE = "sheet.png", "report.html"


def write_report(store: Store, progress: Progress = silent) -> list[str]:
    """Write ``sheet.png`` and ``report.html`` into a prepared dataset's folder; their names.

    The page needs no other file and no network. The same dataset gives the same bytes.
    ``progress`` counts images. Raises XmdptError if the dataset is not finished or has lost a
    shard, or if the folder cannot be written.
    """
    manifest = read_manifest(store)
    counts = manifest["counts"]
    total = sum(int(count["images"]) for count in counts.values())
    progress("report", 0, total)
    splits: list[SplitStatistics] = []
    strips: list[Strip] = []
    for split in SPLITS:
        if not counts[split]["pairs"]:
            continue
        dataset = PairDataset(store, split)
        done = sum(one.images for one in splits)
        splits.append(split_statistics(dataset, progress, done, total))
        wanted = TRAIN_PAIRS if split == "train" else TEST_PAIRS
        strips += [make_strip(dataset, pair) for pair in evenly_spaced(dataset.pairs, wanted)]
    sheet = pairs_sheet(strips, {one.name: one.pairs for one in splits})
    _put(store, SHEET, fast_png_bytes(sheet))
    text = page(manifest, splits, strips)
    _put(store, PAGE, text.encode("utf-8", "backslashreplace"))
    return [SHEET, PAGE]


def _put(store: Store, name: str, data: bytes) -> None:
    try:
        store.write(name, data)
    except OSError as err:
        raise XmdptError(
            f"cannot write {store.url}/{name}: {err}", "make room or fix the permissions"
        ) from None


def page(
    manifest: dict[str, Any], splits: Sequence[SplitStatistics], strips: Sequence[Strip]
) -> str:
    """The HTML document; the same values and strips give the same text."""
    names = [split.name for split in splits]
    skipped = skipped_table(manifest["skipped"])
    return render(
        "dataset",
        title="Prepared dataset",
        toy=manifest.get("toy"),
        tiles=_tiles(manifest, splits),
        splits=splits,
        strips={name: [_figure(s) for s in strips if s.split == name] for name in names},
        names=names,
        **_charts(splits),
        without_joints=sum(split.joints_per_image[0] for split in splits),
        reasons=reason_table(manifest["skipped"]),
        skipped=skipped,
        skipped_more=len(manifest["skipped"]) - len(skipped.rows),
        networks=network_table(manifest),
        settings=settings_table(manifest),
        shards=shard_table(manifest["shards"]),
    )


def _tiles(
    manifest: dict[str, Any], splits: Sequence[SplitStatistics]
) -> list[tuple[str, str, str]]:
    """Value, its name, more about it."""

    def total(what: str) -> tuple[str, str, str]:
        counts = [(getattr(split, what), split.name) for split in splits]
        by_split = " · ".join(f"{count:,} {name}" for count, name in counts)
        return f"{sum(count for count, _ in counts):,}", what, by_split

    shards, skipped = manifest["shards"], len(manifest["skipped"])
    size = sum(int(shard["bytes"]) for shard in shards)
    return [
        total("pairs"),
        total("items"),
        total("images"),
        (f"{int(manifest['resolution'])} px", "resolution", "squashed to squares"),
        (human_bytes(size), "in shards", counted(len(shards), "file")),
        (f"{skipped:,}", "files left out", "why: see below" if skipped else "none"),
    ]


def _figure(strip: Strip) -> dict[str, Any]:
    height, width = strip.image.shape[:2]
    return {
        "key": strip.key,
        "views": strip.views,
        "joints": f"{strip.source_joints} and {strip.target_joints} joints",
        "width": width,
        "height": height,
        "source": data_uri("jpeg", strip.jpeg()),
    }


def _charts(splits: Sequence[SplitStatistics]) -> dict[str, Any]:
    names = [split.name for split in splits]
    items = {
        "Views per item": [split.views_per_item for split in splits],
        "Pairs per item": [split.pairs_per_item for split in splits],
    }
    found = [split.joints_per_image for split in splits]
    every = range(len(JOINTS) + 1)
    seen = [sum(split.seen[joint] for split in splits) for joint in range(len(JOINTS))]
    labels = [name.replace("_", " ") for name in JOINTS]
    images = sum(split.images for split in splits)
    return {
        "item_charts": [
            (title, histogram(names, counters, "items", title)) for title, counters in items.items()
        ],
        "joints_per_image": histogram(names, found, "images", "Joints per image", every, 290),
        "images_per_joint": bars(labels, seen, images, "images", "Images with each joint"),
    }
