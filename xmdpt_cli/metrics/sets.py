"""Distances between the sets of pictures that an evaluation compares and the real one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.metrics.features import FeatureExtractor, FeatureSet
from xmdpt_cli.metrics.frechet import factor, frechet_distance
from xmdpt_cli.metrics.intervals import around, frechet_deviation
from xmdpt_cli.metrics.kid import kernel_distance
from xmdpt_cli.metrics.pictures import Pixels
from xmdpt_cli.metrics.real_set import RealStatistics
from xmdpt_cli.metrics.report import Value

Rows = dict[str, dict[str, Value]]
Intervals = dict[str, dict[str, tuple[float, float]]]


class Distances:
    """FID, and KID if asked for, of every row."""

    def __init__(self, extractor: FeatureExtractor, real: RealStatistics, kid: bool) -> None:
        self.extractor, self.real, self.kid = extractor, real, kid
        self.sets: dict[str, FeatureSet] = {}
        self.copies: set[str] = set()  # rows of one picture again and again

    @property
    def metrics(self) -> list[str]:
        return [self.extractor.fid, *([self.extractor.kid] if self.kid else [])]

    def add(self, row: str, picture: Pixels, copies: bool = False) -> None:
        """A picture of a row. ``copies``: all are the same, so the first one will do."""
        if copies:
            if row in self.copies:
                return
            self.copies.add(row)
        if row not in self.sets:
            self.sets[row] = FeatureSet(self.extractor, keep=True)
        self.sets[row].add(picture)

    def keep_only(self, places: list[int]) -> None:
        """Leave out all pictures but those in these places of the order in which they came."""
        for row, features in self.sets.items():
            if row not in self.copies:
                kept = features.features()[places]
                self.sets[row] = FeatureSet(self.extractor, keep=True)
                self.sets[row].take(kept)

    def features(self) -> dict[str, NDArray[np.float32]]:
        """Of every row, in memory."""
        return {row: np.array(own.features()) for row, own in self.sets.items()}

    def replace(self, parts: list[dict[str, NDArray[np.float32]]], order: list[int]) -> None:
        """Take the features of all ranks, in ``order`` of their pictures (of a row of copies the
        first)."""
        for row in {row: None for part in parts for row in part}:
            found = np.concatenate([part[row] for part in parts if row in part])
            if len(found) < len(order):
                self.copies.add(row)  # known to this rank only if it had a picture
            self.sets[row] = FeatureSet(self.extractor, keep=True)
            self.sets[row].take(found[:1] if row in self.copies else found[order])

    def into(self, rows: Rows, intervals: Intervals, with_intervals: bool) -> None:
        """Write the distances of every row into ``rows``, None where it has too few pictures."""
        mean, cov = self.real.mean, self.real.cov
        assert mean is not None
        assert cov is not None
        root = factor(cov)  # for all rows: seconds for 2048 features
        for row, features in self.sets.items():
            own = features.statistics()
            copies = row in self.copies
            fid: float | None = None
            if copies:
                fid = frechet_distance(own.mean, np.zeros_like(cov), mean, cov, root)
            elif own.count > 1:
                fid = frechet_distance(own.mean, own.cov, mean, cov, root)
            rows[row][self.extractor.fid] = fid
            if fid is not None and with_intervals and not copies:
                deviation = frechet_deviation(features.features(), mean, cov, root)
                if deviation is not None:
                    found = intervals.setdefault(row, {})
                    found[self.extractor.fid] = around(fid, deviation)
            if self.kid:
                kid: float | None = None
                if own.count > 1 and self.real.features is not None:
                    kid, _ = kernel_distance(features.features(), self.real.features)
                rows[row][self.extractor.kid] = kid

    def notes(self, pictures: int) -> list[str]:
        mean = self.real.mean
        fewest, width = min(self.real.used, pictures), 0 if mean is None else len(mean)
        if fewest >= width:
            return []
        return [
            f"{self.extractor.fid} of {fewest} pictures is biased upwards ({width} features): "
            "compare only values of equally many pictures"
        ]
