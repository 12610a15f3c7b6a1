"""The result of an evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import NotRequired, TypedDict

#: None: not measured or not defined; may be infinite (PSNR of equal images)
Value = float | None


class ImageValues(TypedDict):
    """The values of one pair."""

    name: str
    joints: NotRequired[int | None]  # seen in the ground truth; None: not known
    rows: dict[str, dict[str, Value]]  # row -> metric


@dataclass
class Evaluation:
    """The values of one evaluation and the information needed to interpret them.

    Rows are ``generated`` and the calibration rows beside it; a mean over images is taken
    where the metric is defined, and ``undefined`` counts where it is not. The order of the fields
    is that of metrics.json.
    """

    protocol: str
    rows: dict[str, dict[str, Value]]  # row -> metric -> mean over the images, or the FID
    counts: dict[str, int]  # row -> images; "reference-set" -> images of it
    # row -> metric -> images without a value
    undefined: dict[str, dict[str, int]] = field(default_factory=dict)
    # row -> metric -> images left out of the mean because their value is infinite
    infinite: dict[str, dict[str, int]] = field(default_factory=dict)
    sizes: list[str] = field(default_factory=list)  # "WIDTHxHEIGHT" of the compared images
    # role -> "WIDTHxHEIGHT" -> images, before the protocol resized them
    input_sizes: dict[str, dict[str, int]] = field(default_factory=dict)
    # of --drop-last: metric -> "batch_size", "used" and "of" (pairs), "dropped" (names of pairs);
    # of FID and KID also "reference_used" and "reference_of" (images of the reference set)
    drop_last: dict[str, dict[str, Any]] = field(default_factory=dict)
    # metric -> description of the network weights
    weights: dict[str, str] = field(default_factory=dict)
    # metrics with random weights or for synthetic people: not comparable with papers
    toy: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    images: list[ImageValues] = field(default_factory=list)
    # row -> metric -> (low, high): 95 % interval of the mean, or of the distance
    intervals: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)

    def add(self, row: str, metric: str, values: NDArray[np.float64]) -> None:
        """Store the mean of a metric's values (N,), and the counts of those left out."""
        mean = finite_mean(values)
        self.rows.setdefault(row, {})[metric] = None if math.isnan(mean) else mean
        for counts, left_out in (
            (self.undefined, np.isnan(values)),
            (self.infinite, np.isinf(values)),
        ):
            if left_out.any():
                counts.setdefault(row, {})[metric] = int(left_out.sum())


def finite_mean(values: NDArray[np.float64]) -> float:
    """The mean of the finite ``values`` (N,). Without one: infinity if a value is infinite (PSNR of
    equal images), else NaN."""
    finite = values[np.isfinite(values)]
    if len(finite):  # fsum: the same in any order, so on any number of ranks
        return math.fsum(finite.tolist()) / len(finite)
    return math.inf if np.isinf(values).any() else math.nan
