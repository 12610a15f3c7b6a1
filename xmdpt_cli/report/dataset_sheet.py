"""Pairs of a dataset: the images as the encoders receive them, and the detected joints."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.data.table import PairRef
from xmdpt_cli.images import ImageArray
from xmdpt_cli.pose.drawing import draw_pose
from xmdpt_cli.pose.keypoints import Keypoints
from xmdpt_cli.report.contact_sheet import GAP, contact_sheet, stacked

CELL = 144  # pixels of a square
RENDERED = 2 * CELL  # poses are rendered at twice the size and averaged down
DIMMED = 0.4  # of its brightness is left of an image under its joints
COLUMNS = ("source", "its joints", "target", "its joints")
TRAIN_PAIRS, TEST_PAIRS = 24, 8


@dataclass(frozen=True)
class Strip:
    """One pair: source, source's joints, target, target's joints, side by side."""

    split: str
    key: str
    views: str  # 1_front > 2_side
    position: int
    cells: tuple[ImageArray, ...]  # (CELL, CELL, 3) each
    source_joints: int
    target_joints: int

    @property
    def image(self) -> ImageArray:
        """(CELL, 4 CELL + 3 GAP, 3)."""
        gap = np.full((CELL, GAP, 3), 255, np.uint8)
        parts = [part for cell in self.cells for part in (cell, gap)]
        return np.concatenate(parts[:-1], axis=1)

    def jpeg(self) -> bytes:
        """As a JPEG file, about 20 kB."""
        stream = io.BytesIO()
        Image.fromarray(self.image).save(stream, format="JPEG", quality=82, optimize=True)
        return stream.getvalue()


def make_strip(dataset: PairDataset, pair: PairRef) -> Strip:
    """Decode one pair and render its poses."""
    cells, joints = [], []
    for view in (pair.source, pair.target):
        image = dataset.image(pair.key, view)
        keypoints = dataset.keypoints(pair.key, view)
        cells += [_resized(image, CELL), with_joints(image, keypoints)]
        joints.append(int(np.isfinite(keypoints).all(axis=1).sum()))
    views = f"{pair.source} > {pair.target}"
    return Strip(dataset.split, pair.key, views, pair.position, tuple(cells), *joints)


def with_joints(image: ImageArray, keypoints: Keypoints) -> ImageArray:
    """The image dimmed, (CELL, CELL, 3), under its pose; ``keypoints`` in its pixels."""
    scale = RENDERED / np.array(image.shape[1::-1], dtype=np.float64)
    pose = draw_pose(keypoints * scale, RENDERED)
    dimmed = (_resized(image, RENDERED) * DIMMED).astype(np.uint8)
    return _resized(np.where(pose.any(axis=2, keepdims=True), pose, dimmed), CELL)


def _resized(image: ImageArray, side: int) -> ImageArray:
    smaller = side < image.shape[0]
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (side, side), interpolation=how), dtype=np.uint8)


def pairs_sheet(strips: Sequence[Strip], totals: dict[str, int]) -> ImageArray:
    """All strips, split by split; ``totals``: the pairs that a split has."""
    sheets = []
    for name, total in totals.items():
        own = [strip for strip in strips if strip.split == name]
        labels = [f"{strip.key}   {strip.views}" for strip in own]
        rows = [strip.cells for strip in own]
        sheet = contact_sheet(rows, COLUMNS, labels=labels, blocks=min(2, len(own)))
        sheets.append((f"{name}: {len(own)} of {total} pairs", sheet))
    return stacked(sheets)
