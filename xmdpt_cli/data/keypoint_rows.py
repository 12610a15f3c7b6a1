"""The keypoints of a prepared dataset, for writing them back in the published formats."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from xmdpt_cli.data.lists import SPLITS
from xmdpt_cli.data.names import ImageName, parse_name
from xmdpt_cli.data.pairs import PairDataset
from xmdpt_cli.data.pose import Keypoints
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.stores import Store


def keypoint_rows(store: Store) -> Iterator[tuple[str, ImageName | str, Keypoints]]:
    """(split, name or path below the root, fractions (18, 2) with NaN for missing) a picture."""
    for split in SPLITS:
        try:
            dataset = PairDataset(store.url, split)
        except XmdptError:
            continue  # no pair of this split
        for key, view in sorted(dataset.views()):
            fractions = dataset.keypoints(key, view) / np.float64(dataset.resolution)
            file = dataset.file(key, view)
            try:
                yield split, parse_name(file), fractions
            except XmdptError:
                yield split, file, fractions
