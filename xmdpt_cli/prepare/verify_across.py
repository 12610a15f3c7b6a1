"""Verify what concerns all shards together: counts, duplicates, tensors, keypoints."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.data.index import SamplePlace, ViewPlace
from xmdpt_cli.pose.frame_fit import INSIDE, measure, mostly_outside, not_upright
from xmdpt_cli.pose.frames import ANYWHERE, FRACTIONS, PHOTOGRAPHS, Placement
from xmdpt_cli.prepare.findings import CheckReport, Finding
from xmdpt_cli.prepare.verify_sample import ItemCheck, check_pairs
from xmdpt_cli.utils.deepfashion_names import match_name
from xmdpt_cli.utils.splits import SPLITS

TWICE = "the shards are of two preparations: copy the dataset again, or prepare into a new folder"
COUNTS = "dataset.json is of another preparation: copy the dataset again"
IMPLAUSIBLE = "keypoints-implausible"  # the kind of finding
WRONG_FRAME = (
    "look at sheet.png; the keypoint files were read in a wrong frame: prepare again into a new "
    "folder (the frame is decided from the values; --frame overrides)"
)
_OUTSIDE = 0.1  # share of the images whose keypoints may lie mostly outside
_ENOUGH = 3  # images

# encoders write moments as float32 where float16 would overflow
_SAME = {"F16": "F16 or F32", "F32": "F16 or F32"}

Signature = dict[str, tuple[str, tuple[int, ...]]]  # tensor -> its dtype and shape


class AcrossShards:
    """Keeps every item's key, every pair's position and every view's keypoints."""

    def __init__(self, report: CheckReport) -> None:
        self.report = report
        self.keys: dict[str, str] = {}  # item -> its shard
        self.positions: dict[str, set[int]] = {split: set() for split in SPLITS}
        self.counts = {split: dict.fromkeys(("items", "images", "pairs"), 0) for split in SPLITS}
        self.first: tuple[str, Signature] | None = None  # the first view, and its tensors
        self.keypoints: list[NDArray[np.float64]] = []  # (18, 2) each, in pixels
        self.deepfashion = 0  # views whose images have DeepFashion's names

    def add(self, shard: str, split: str, sample: SamplePlace) -> None:
        """One item of a shard whose content is known."""
        if sample.key in self.keys:
            self._find("item-twice", f"is in {self.keys[sample.key]} too", shard, sample.key)
        self.keys[sample.key] = shard
        positions = self.positions[split]
        for source, target, position in sample.pairs:
            if position in positions:
                message = f"pair {source} > {target}: another {split} pair has position {position}"
                self._find("position-twice", message, shard, sample.key)
            positions.add(position)
        for view, place in sample.views.items():
            self._compare(shard, sample.key, view, place)
            self.deepfashion += match_name(place.file) is not None
        count, report = self.counts[split], self.report
        count["items"] += 1
        count["images"] += len(sample.views)
        count["pairs"] += len(sample.pairs)
        report.items += 1
        report.views += len(sample.views)
        report.pairs += len(sample.pairs)

    def add_pairs(self, shard: str, sample: SamplePlace) -> None:
        """Verify the pairs of an item known from its index alone."""
        found = ItemCheck(sample.key)
        check_pairs(sample.pairs, sample.views, found)
        for finding in found.findings:
            self.report.add(replace(finding, hint=TWICE, shard=shard))

    def compare_counts(self, manifest: dict[str, Any]) -> None:
        """Compare with the manifest's counts, after all shards."""
        for split, counts in self.counts.items():
            for name, count in counts.items():
                stated = manifest["counts"][split][name]
                if count != stated:
                    message = f"{split}: {count} {name}, {stated} in dataset.json"
                    self.report.add(Finding("counts", message, COUNTS))

    def check_keypoints(self, resolution: int, *, forced: bool) -> None:
        """Report keypoints that are not of the people in the images, after all shards.

        Images are not decoded: keypoints that were read in a wrong frame lie outside of the images,
        beside the usual place of people, or upside down, over the whole dataset. ``forced``: the
        frame was given with --frame, so people may be anywhere.
        """
        if self.keypoints:
            people = PHOTOGRAPHS if 2 * self.deepfashion > self.report.views else ANYWHERE
            fractions = np.stack(self.keypoints) / resolution
            message = implausible(fractions, people, forced=forced)
            if message:
                self.report.add(Finding(IMPLAUSIBLE, message, WRONG_FRAME))

    def _compare(self, shard: str, key: str, view: str, place: ViewPlace) -> None:
        """All views of a dataset hold the same tensors."""
        signature: Signature = {
            name: (_SAME.get(tensor.dtype, tensor.dtype), tensor.shape)
            for name, tensor in place.tensors.items()
        }
        if self.first is None:
            self.first = (f"{key}/{view}", signature)
        first, expected = self.first
        for name in sorted(signature.keys() | expected.keys()):
            if signature.get(name) != expected.get(name):
                message = (
                    f"{name} is {_words(signature.get(name))}, "
                    f"{_words(expected.get(name))} in {first}"
                )
                self._find("tensors-differ", message, shard, key, view)

    def _find(self, kind: str, message: str, shard: str, key: str, view: str = "") -> None:
        self.report.add(Finding(kind, message, TWICE, shard, key, view))


def _words(entry: tuple[str, tuple[int, ...]] | None) -> str:
    return f"{entry[0]} {entry[1]}" if entry else "absent"


def implausible(fractions: NDArray[np.float64], people: Placement, *, forced: bool) -> str:
    """What is wrong with the keypoints of a dataset, fractions (N, 18, 2); empty if nothing."""
    fit = measure(FRACTIONS, fractions, people)
    if fit is None:
        return ""
    images = len(fractions)
    outside = sum(mostly_outside(points) for points in fractions)
    if outside > _OUTSIDE * images:
        return f"keypoints lie mostly outside the image, in {outside} of {images} images"
    if fit.inside < INSIDE:
        return f"{1 - fit.inside:.0%} of all joints lie outside of the images"
    if forced:
        return ""
    wrong = not_upright(fractions)
    if wrong or images < _ENOUGH or fit.plausible:
        return wrong
    return (
        f"people are not where photographs have them: their centre is at ({fit.x:.2f}, "
        f"{fit.y:.2f}) of the sides, their size {fit.extent:.2f}"
    )
