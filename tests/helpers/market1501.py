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

FRAME = CoordinateFrame("64x128", 64.0, 128.0)  # keypoints are pixels of 64 x 128 images
SIZE = (128, 64)  # height, width


class Market1501:
    name = "market1501"  # xmdpt prepare --layout market1501
    wanted = "bounding_box_train/, market-pairs-train.csv, market-annotation-train.csv"

    def detect(self, root: Path) -> float | None:
        return SURE if (root / "bounding_box_train").is_dir() else None

    def read(self, root: Path, options: ReadOptions) -> Listing:
        built, pairs = ListingBuilder(), 0
        for split in ("test", "train"):  # an item of both splits belongs to the first
            annotations = None
            if not options.openpose:
                file = read_annotations(root / f"market-annotation-{split}.csv", str.strip)
                built.problems += file.problems
                annotations = AnnotationRows(
                    file, options.frame or FRAME, size_of=lambda name: SIZE
                )
            list_name = f"market-pairs-{split}.csv"
            table = Table.open(root / list_name, (("from",), ("to",)))
            for position, where, names in built.rows(table, list_name):
                person, other = (name[:4] for name in names)
                try:
                    if person != other:
                        raise ValueError("not two images of one person")
                    source, target = (self._view(root, split, n, annotations) for n in names)
                except ValueError as err:  # also UnusableKeypointsError of ``annotations.find``
                    built.problem(where, str(err))
                    continue
                built.add(where, split, person, source, target, position)
                pairs += 1
        return built.listing(root, [f"Market-1501: {pairs} pairs"], self.name)

    def _view(self, root: Path, split: str, name: str, annotations: AnnotationRows | None) -> View:
        """The view of an image; ValueError if the image or its keypoints cannot be used."""
        image = ImageFile(f"bounding_box_{split}/{name}", root / f"bounding_box_{split}" / name)
        points = None if annotations is None else annotations.find(name)
        if not image.path.is_file() or (annotations is not None and points is None):
            raise ValueError(f"no image or no keypoints: {name}")
        return View(name.removesuffix(".jpg"), image, points)
