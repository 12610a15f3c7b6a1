"""Pairs to look at: what the networks will be given, and where the joints were found in it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.data.table import PairRef
from xmdpt_cli.images import Picture
from xmdpt_cli.pose.drawing import draw_pose
from xmdpt_cli.pose.keypoints import Keypoints

CELL, GAP, LINE = 144, 3, 18  # pixels: a square, between squares, a line of text
ABREAST = 2  # pairs side by side on the sheet
MARGIN = 24
DRAWN = 2 * CELL  # poses are drawn at twice the size and averaged down, at any resolution
DIMMED = 0.4  # of its brightness is left of a picture under its joints
COLUMNS = ("source", "its joints", "target", "its joints")
TRAIN_PAIRS, TEST_PAIRS = 24, 8


@dataclass(frozen=True)
class Strip:
    """One pair: source, source's joints, target, target's joints, side by side."""

    split: str
    key: str
    views: str  # 1_front > 2_side
    position: int
    picture: Picture  # (CELL, 4 CELL + 3 GAP, 3)
    source_joints: int
    target_joints: int

    def jpeg(self) -> bytes:
        """As a JPEG file, about 20 kB."""
        stream = io.BytesIO()
        Image.fromarray(self.picture).save(stream, format="JPEG", quality=82, optimize=True)
        return stream.getvalue()


def make_strip(dataset: PairDataset, pair: PairRef) -> Strip:
    """Decode and draw one pair."""
    cells, joints = [], []
    for view in (pair.source, pair.target):
        picture = dataset.image(pair.key, view)
        keypoints = dataset.keypoints(pair.key, view)
        cells += [_resized(picture, CELL), with_joints(picture, keypoints)]
        joints.append(int(np.isfinite(keypoints).all(axis=1).sum()))
    gap = np.full((CELL, GAP, 3), 255, np.uint8)
    strip = np.concatenate([part for cell in cells for part in (cell, gap)][:-1], axis=1)
    views = f"{pair.source} > {pair.target}"
    return Strip(dataset.split, pair.key, views, pair.position, strip, *joints)


def with_joints(picture: Picture, keypoints: Keypoints) -> Picture:
    """The picture dimmed, (CELL, CELL, 3), under its pose; ``keypoints`` in its pixels."""
    scale = DRAWN / np.array(picture.shape[1::-1], dtype=np.float64)
    pose = draw_pose(keypoints * scale, DRAWN)
    dimmed = (_resized(picture, DRAWN) * DIMMED).astype(np.uint8)
    return _resized(np.where(pose.any(axis=2, keepdims=True), pose, dimmed), CELL)


def _resized(picture: Picture, side: int) -> Picture:
    smaller = side < picture.shape[0]
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, (side, side), interpolation=how), dtype=np.uint8)


def contact_sheet(strips: Sequence[Strip], totals: dict[str, int]) -> Picture:
    """All strips on white, by split, labelled; ``totals``: the pairs that a split has."""
    width = ABREAST * (4 * CELL + 3 * GAP) + (ABREAST + 1) * MARGIN
    splits = [(name, [s for s in strips if s.split == name]) for name in totals]
    row = LINE + CELL + MARGIN // 2
    rows = sum(-(-len(part) // ABREAST) for _, part in splits)
    sheet = Image.new("RGB", (width, MARGIN + rows * row + len(splits) * 3 * LINE), "white")
    draw = ImageDraw.Draw(sheet)
    top = MARGIN // 2
    for name, part in splits:
        title = f"{name}: {len(part)} of {totals[name]} pairs"
        _write(draw, (MARGIN, top), title, "black", 15)
        top += LINE + LINE // 2
        for abreast in range(min(ABREAST, len(part))):
            for column, label in enumerate(COLUMNS):
                left = _left(abreast) + column * (CELL + GAP)
                _write(draw, (left, top), label, "#777777", 11)
        top += LINE
        for i, strip in enumerate(part):
            left, upper = _left(i % ABREAST), top + i // ABREAST * row
            _write(draw, (left, upper), f"{strip.key}   {strip.views}", "#222222", 12)
            sheet.paste(Image.fromarray(strip.picture), (left, upper + LINE))
        top += -(-len(part) // ABREAST) * row + LINE // 2
    return np.asarray(sheet)


def _left(abreast: int) -> int:
    return MARGIN + abreast * (4 * CELL + 3 * GAP + MARGIN)


def _write(draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, fill: str, size: int) -> None:
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):  # Pillow without FreeType: Latin-1 only
        text = text.encode("ascii", "replace").decode()
    draw.text(at, text, fill=fill, font=font)
