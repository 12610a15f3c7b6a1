"""Measure generated pictures against their ground truths, with rows to calibrate the eye.

Every row is measured in the same way as ``generated``:

- ``copy-source``: the source picture itself, as if no pose had been transferred;
- ``mean-image``: one average picture, the same for every pair;
- ``vae-reconstruction``: the ground truth through the VAE, the best a latent model can do.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from operator import length_hint
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.images import Picture
from xmdpt_cli.metrics import pairwise
from xmdpt_cli.metrics import wardrobe as drawn
from xmdpt_cli.metrics.fid import FeatureExtractor, FrechetAccumulator, PictureSet, frechet_distance
from xmdpt_cli.metrics.lpips_metric import SMALLEST, Lpips
from xmdpt_cli.metrics.protocols import HEIGHT, Protocol, get_protocol
from xmdpt_cli.metrics.report import Report, Row, Value
from xmdpt_cli.progress import Progress, silent

GENERATED, COPY, MEAN, VAE = "generated", "copy-source", "mean-image", "vae-reconstruction"
_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


class Pair(NamedTuple):
    """One generated picture and what it should have been; a plain tuple in this order will do."""

    pred: Picture
    truth: Picture
    source: Picture | None = None
    keypoints: NDArray[np.float64] | None = None  # (18, 2) of the truth, NaN where missing
    name: str = ""
    reconstruction: Picture | None = None  # the truth, encoded and decoded


def evaluate_pairs(
    pairs: Iterable[Pair | tuple[Any, ...]],
    *,
    protocol: str | Protocol,
    lpips: Lpips | None = None,
    fid_features: FeatureExtractor | None = None,
    real: Iterable[Picture] | None = None,
    mean_image: Picture | None = None,
    wardrobe: bool = False,
    progress: Progress = silent,
) -> Report:
    """Measure all ``pairs``, one at a time: no picture is kept.

    ``real``: the pictures FID compares with, before the protocol's resize. ``mean_image``: see
    ``protocols.mean_picture``. ``wardrobe`` adds the toy measures for drawn people.
    Raises XmdptError without pairs, for FID without a real set, and, naming the pair, for
    pictures that the protocol leaves at different sizes.
    """
    chosen = get_protocol(protocol) if isinstance(protocol, str) else protocol
    real_features = _read_real(real, chosen, fid_features, progress)
    mean = None if mean_image is None else chosen.truth(mean_image)
    run = _Run(chosen, lpips, fid_features, mean, wardrobe)
    total = length_hint(pairs)
    for index, pair in enumerate(pairs):
        run.take(Pair(*pair))
        progress("evaluate", index + 1, max(total, index + 1))
    if not run.images:
        raise XmdptError("no pairs to evaluate", "check the folders or the dataset's split")
    return run.report(real_features)


def _read_real(
    real: Iterable[Picture] | None,
    protocol: Protocol,
    extractor: FeatureExtractor | None,
    progress: Progress,
) -> FrechetAccumulator:
    """The real set's features (two pictures at least); empty where no FID is asked for."""
    if extractor is None:
        return FrechetAccumulator()
    if real is None:
        raise XmdptError("FID needs a real set to compare with", "name one, or leave FID out")
    features, total = PictureSet(extractor), length_hint(real)
    for index, picture in enumerate(real):
        features.add(protocol.truth(picture))
        progress("real set", index + 1, max(total, index + 1))
    if features.statistics().count < 2:
        raise XmdptError("FID needs a real set of at least two pictures")
    return features.statistics()


class _Run:
    """One evaluation under way."""

    def __init__(
        self,
        protocol: Protocol,
        lpips: Lpips | None,
        fid_features: FeatureExtractor | None,
        mean: Picture | None,
        wardrobe: bool,
    ) -> None:
        self.protocol, self.lpips, self.fid_features = protocol, lpips, fid_features
        self.mean, self.wardrobe = mean, wardrobe
        self.rows: dict[str, Row] = {}
        self.features: dict[str, PictureSet] = {}
        self.images: list[dict[str, Any]] = []
        self.sizes: set[str] = set()
        self.shrunk = 0  # truths that were no photographs any more when the protocol saw them

    def take(self, pair: Pair) -> None:
        truth = self.protocol.truth(pair.truth)
        name = pair.name or str(len(self.images))
        candidates = self._candidates(pair)
        for row, picture in candidates.items():
            if picture.shape != truth.shape:
                raise XmdptError(
                    f"{name}: the {row} picture is {_size(picture)}, the truth {_size(truth)}",
                    "the protocol cfld brings all pictures to 176x256",
                )
        measured = self._measure(candidates, truth, _keypoints_in(truth, pair))
        for row, values in measured.items():
            self.rows.setdefault(row, Row()).add(values)
        if self.fid_features is not None:
            self._add_features(candidates, self.fid_features)
        self.images.append({"name": name, "rows": measured})
        self.sizes.add(_size(truth))
        self.shrunk += truth.shape != pair.truth.shape and pair.truth.shape[0] <= HEIGHT

    def _candidates(self, pair: Pair) -> dict[str, Picture]:
        candidates = {GENERATED: self.protocol.prediction(pair.pred)}
        if pair.source is not None:
            candidates[COPY] = self.protocol.truth(pair.source)
        if self.mean is not None:
            candidates[MEAN] = self.mean
        if pair.reconstruction is not None:
            candidates[VAE] = self.protocol.prediction(pair.reconstruction)
        return candidates

    def _measure(
        self,
        candidates: dict[str, Picture],
        truth: Picture,
        keypoints: NDArray[np.float64] | None,
    ) -> dict[str, dict[str, Value]]:
        measured: dict[str, dict[str, Value]] = {}
        for row, picture in candidates.items():
            values = measured[row] = pairwise.measure(picture, truth)
            if self.lpips is not None:
                fits = min(truth.shape[:2]) >= SMALLEST
                values[self.lpips.metric] = self.lpips(picture, truth) if fits else None
            if self.wardrobe:
                values.update(drawn.measure(picture, truth, keypoints))
        return measured

    def _add_features(self, candidates: dict[str, Picture], extractor: FeatureExtractor) -> None:
        for row, picture in candidates.items():
            if row == MEAN and row in self.features:
                continue  # one feature stands for all copies of the mean image
            self.features.setdefault(row, PictureSet(extractor)).add(picture)

    def report(self, real: FrechetAccumulator) -> Report:
        rows = {name: row.means() for name, row in self.rows.items()}
        counts = {name: row.count for name, row in self.rows.items()}
        toy = list(drawn.METRICS) if self.wardrobe else []
        weights: dict[str, str] = {}
        if self.fid_features is not None:
            counts["real"] = real.count
            weights[self.fid_features.metric] = self.fid_features.weights
            toy += [self.fid_features.metric] if self.fid_features.toy else []
            for name, distance in self._distances(real).items():
                rows[name][self.fid_features.metric] = distance
        if self.lpips is not None:
            weights[self.lpips.metric] = self.lpips.weights
            toy += [self.lpips.metric] if self.lpips.toy else []
        return Report(
            protocol=self.protocol.name,
            rows=rows,
            counts=counts,
            undefined={n: row.undefined for n, row in self.rows.items() if row.undefined},
            sizes=sorted(self.sizes),
            weights=weights,
            toy=sorted(toy),
            notes=self._notes(real),
            images=self.images,
        )

    def _distances(self, real: FrechetAccumulator) -> dict[str, float | None]:
        """Row -> Fréchet distance to the real set; None with fewer than two pictures."""
        distances: dict[str, float | None] = {}
        for name, features in self.features.items():
            own = features.statistics()
            if self.rows[name].count < 2:
                distances[name] = None
                continue
            cov = np.zeros_like(real.cov) if name == MEAN else own.cov
            distances[name] = frechet_distance(own.mean, cov, real.mean, real.cov)
        return distances

    def _notes(self, real: FrechetAccumulator) -> list[str]:
        notes = []
        if self.shrunk:
            notes.append(
                f"{self.shrunk} ground truths were at most {HEIGHT} px high before the protocol "
                f"{self.protocol.name}, which starts from the high-resolution photographs: the "
                "values do not compare with published ones"
            )
        fewest = min(real.count, len(self.images))
        if self.fid_features is not None and fewest < len(real.mean):
            notes.append(
                f"{self.fid_features.metric} of {fewest} pictures is biased upwards: compare only "
                "values of equally many pictures"
            )
        return notes


def _keypoints_in(truth: Picture, pair: Pair) -> NDArray[np.float64] | None:
    """The pair's keypoints in pixels of the resized truth."""
    if pair.keypoints is None:
        return None
    scale = (truth.shape[1] / pair.truth.shape[1], truth.shape[0] / pair.truth.shape[0])
    return np.asarray(pair.keypoints, dtype=np.float64) * scale


def _size(picture: Picture) -> str:
    return f"{picture.shape[1]}x{picture.shape[0]}"


@dataclass(frozen=True)
class FolderPairs:
    """Two folders put side by side; the lists are sorted by name."""

    pairs: list[tuple[str, Path, Path]]  # name, generated, target
    generated_only: list[Path]
    target_only: list[Path]


def pair_folders(generated: str | Path, target: str | Path) -> FolderPairs:
    """Pair the pictures directly inside two folders by file name without suffix.

    Raises XmdptError for a missing folder, two pictures of one name, or no pair at all.
    """
    left, right = _pictures_by_name(Path(generated)), _pictures_by_name(Path(target))
    common = sorted(left.keys() & right.keys())
    if not common:
        raise XmdptError(
            f"no file name of {generated} ({len(left)} pictures) is in {target} ({len(right)})",
            "give both pictures of a pair the same name; suffixes may differ",
        )
    return FolderPairs(
        pairs=[(name, left[name], right[name]) for name in common],
        generated_only=[left[name] for name in sorted(left.keys() - right.keys())],
        target_only=[right[name] for name in sorted(right.keys() - left.keys())],
    )


def _pictures_by_name(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise XmdptError(f"no such folder: {folder}")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in _SUFFIXES or not path.is_file():
            continue
        if path.stem in found:
            raise XmdptError(
                f"two pictures of one name: {found[path.stem]} and {path}", "remove one of them"
            )
        found[path.stem] = path
    return found
