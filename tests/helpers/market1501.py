"""A reader of Market-1501 for pose transfer, as somebody outside of the package would write it.

``bounding_box_{train,test}/0002_c1s1_000451_03.jpg`` (64 wide, 128 high; the first four digits are
the person), ``market-pairs-{train,test}.csv`` (``from,to``) and
``market-annotation-{train,test}.csv`` (``name:keypoints_y:keypoints_x`` in pixels).
"""

from __future__ import annotations

from pathlib import Path

from xmdpt_cli.datasets.builder import ListingBuilder, View
from xmdpt_cli.datasets.keypoint_sources import AnnotationRows
from xmdpt_cli.datasets.listing import ImageFile, Listing
from xmdpt_cli.datasets.readers import SURE, ReadOptions
from xmdpt_cli.pose.formats.text_rows import read_annotations
from xmdpt_cli.pose.frames import CoordinateFrame
from xmdpt_cli.utils.list_text import Table

FRAME = CoordinateFrame("64x128", 64.0, 128.0)
SIZE = (128, 64)  # height, width


class Market1501:
    name = "market1501"
    wanted = "bounding_box_train/, market-pairs-train.csv, market-annotation-train.csv"

    def detect(self, root: Path) -> float | None:
        return SURE if (root / "bounding_box_train").is_dir() else None

    def read(self, root: Path, options: ReadOptions) -> Listing:
        built, pairs = ListingBuilder(), 0
        for split in ("test", "train"):
            rows = None
            if not options.openpose:
                file = read_annotations(root / f"market-annotation-{split}.csv", str.strip)
                built.problems += file.problems
                rows = AnnotationRows(file, options.frame or FRAME, size_of=lambda name: SIZE)
            table = Table.open(root / f"market-pairs-{split}.csv", (("from",), ("to",)))
            for position, (line, text) in enumerate(table.lines):
                where = f"market-pairs-{split}.csv:{line}"
                try:
                    names = table.cells(text)
                except ValueError as err:
                    built.problem(where, str(err))
                    continue
                if names[0][:4] != names[1][:4]:
                    built.problem(where, "not two images of one person")
                    continue
                source, target = (self._view(root, split, name, rows) for name in names)
                for name, view in zip(names, (source, target), strict=True):
                    if view is None:
                        built.problem(where, f"no image or no keypoints: {name}")
                if source is not None and target is not None:
                    built.add(where, split, names[0][:4], source, target, position)
                    pairs += 1
        return built.listing(root, [f"Market-1501: {pairs} pairs"], self.name)

    def _view(self, root: Path, split: str, name: str, rows: AnnotationRows | None) -> View | None:
        image = ImageFile(f"bounding_box_{split}/{name}", root / f"bounding_box_{split}" / name)
        points = None if rows is None else rows.find(name)
        if not image.path.is_file() or (rows is not None and points is None):
            return None
        return View(name.removesuffix(".jpg"), image, points)
