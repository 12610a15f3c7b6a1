"""Example people and poses, from the test split of the dataset beside the model.

The page shows images on the user's disk; the package itself contains no images of people. Those of
the toy model of the package are rendered (``xmdpt_cli.cli.ui``).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.pose.keypoints import FRAME_HEIGHT, FRAME_WIDTH, Keypoints
from xmdpt_cli.storage.stores import is_url
from xmdpt_cli.ui.person_views import key_of
from xmdpt_cli.ui.uploads import new_folder

if TYPE_CHECKING:
    from xmdpt_cli.sampling.pipeline import XMDPTPipeline

PEOPLE, POSES = 6, 8
log = logging.getLogger(__name__)
FEWEST_JOINTS = 12  # joints of an example, at least


@dataclass(frozen=True)
class Person:
    """One image of the dataset. ``keypoints``: (18, 2) fractions of its sides."""

    image: Image.Image
    keypoints: Keypoints


@dataclass
class Examples:
    """The examples that the page offers; none without a dataset."""

    people: list[Person] = field(default_factory=list)
    poses: list[Keypoints] = field(default_factory=list)
    _written: dict[str, Keypoints] = field(default_factory=dict, compare=False)  # by key

    def file(self, number: int) -> Path:
        """Write the image of person ``number`` (from 0) to a file."""
        path = new_folder() / f"test person {number + 1}.png"
        self.people[number].image.save(path)
        self._written[key_of(path)] = self.people[number].keypoints
        return path

    def keypoints(self, key: str) -> Keypoints | None:
        """Keypoints (18, 2), in fractions, of the image file with this key; None unless ``file``
        wrote it."""
        return self._written.get(key)


def find_examples(pipe: XMDPTPipeline) -> Examples:
    """Examples from the dataset the model was trained on, else from ``data`` beside its run (a run
    that was moved with its data). Empty unless one of them is complete and has the model's
    resolution."""
    for folder in _folders(pipe):
        try:
            dataset = PairDataset(folder, "test")
            if dataset.resolution == pipe.resolution:
                return _examples(dataset)
        except Exception as err:  # the page opens without a dataset, whatever is wrong with it
            log.info("no examples from %s (%s)", folder, err)
    return Examples()


def _folders(pipe: XMDPTPipeline) -> Iterator[Path]:
    data: Any = pipe.sampler.metadata.get("data")
    if data and not is_url(str(data)):
        yield Path(str(data))
    if pipe.sampler.folder is not None:  # RUN/model
        yield pipe.sampler.folder.resolve().parent.parent / "data"


def _examples(dataset: PairDataset) -> Examples:
    found = Examples()
    pairs = dataset.pairs
    # one pair per item, spread over the split: neighbours are alike
    first: dict[str, int] = {}
    for number in np.unique(np.linspace(0, len(pairs) - 1, 40 * PEOPLE).astype(int)).tolist():
        first.setdefault(pairs[number].key, number)
    order = np.random.default_rng(0).permutation(list(first.values())).tolist()
    # prefer poses of people who are not among the examples
    for number in order:
        pair = pairs[number]
        points = dataset.keypoints(pair.key, pair.source) / dataset.resolution
        if _has_enough_joints(points):
            found.people.append(Person(_upright(dataset.image(pair.key, pair.source)), points))
        if len(found.people) == PEOPLE:
            break
    for number in [*order[PEOPLE:], *order[:PEOPLE]]:
        pair = pairs[number]
        points = dataset.keypoints(pair.key, pair.target) / dataset.resolution
        if _has_enough_joints(points):
            found.poses.append(points)
        if len(found.poses) == POSES:
            break
    return found


def _has_enough_joints(points: Keypoints) -> bool:
    return int(np.isfinite(points).all(axis=1).sum()) >= FEWEST_JOINTS


def _upright(image: np.ndarray[Any, Any]) -> Image.Image:
    """Undo the squash to a square, by enlarging the height so that no pixel is lost."""
    size = len(image)
    shape = (size, round(size * FRAME_HEIGHT / FRAME_WIDTH))
    return Image.fromarray(image).resize(shape, Image.Resampling.BICUBIC)
