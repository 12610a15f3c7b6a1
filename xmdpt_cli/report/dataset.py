"""A contact sheet and a page about a prepared dataset, to check before training."""

from __future__ import annotations

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.data.manifest import read_manifest
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.images import fast_png_bytes
from xmdpt_cli.progress import Progress, silent
from xmdpt_cli.report.dataset_page import page
from xmdpt_cli.report.dataset_sheet import TEST_PAIRS, TRAIN_PAIRS, Strip, make_strip, pairs_sheet
from xmdpt_cli.report.dataset_statistics import SplitStatistics, evenly_spaced, split_statistics
from xmdpt_cli.storage.stores import Store
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
