"""Measure generated pictures against their ground truths, with rows to calibrate the eye.

Every row is measured in the same way as ``generated``:

- ``copy-source``: the source picture itself, as if no pose had been transferred;
- ``mean-image``: one average picture, the same for every pair;
- ``vae-reconstruction``: the ground truth through the VAE, the best a latent model can do.

``ground-truth``, of FID and KID alone: how far the truths themselves lie from the real set.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from operator import length_hint
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.images import Picture
from xmdpt_cli.metrics import pairwise, sizes
from xmdpt_cli.metrics import toy_measures as drawn
from xmdpt_cli.metrics.drop_last import dropped, left_out, note
from xmdpt_cli.metrics.features import FeatureExtractor
from xmdpt_cli.metrics.lpips_metric import SMALLEST, Lpips
from xmdpt_cli.metrics.pictures import Pixels, checked, size_of
from xmdpt_cli.metrics.protocols import Protocol, get_protocol
from xmdpt_cli.metrics.real_set import RealSet, RealStatistics, real_statistics
from xmdpt_cli.metrics.report import Report, Row, Value
from xmdpt_cli.metrics.sets import Distances
from xmdpt_cli.metrics.sizes import Size
from xmdpt_cli.progress import Progress, silent

GENERATED, TRUTH, COPY = sizes.GENERATED, sizes.TRUTH, sizes.SOURCE
MEAN, VAE = "mean-image", "vae-reconstruction"
_AHEAD = 4  # pairs measured at once: the libraries underneath wait for memory, not for each other


class Pair(NamedTuple):
    """One generated picture and what it should have been; a plain tuple in this order will do."""

    pred: Picture
    truth: Picture
    source: Picture | None = None
    keypoints: NDArray[np.float64] | None = None  # (18, 2) of the truth, NaN where missing
    name: str = ""
    reconstruction: Picture | None = None  # the truth, encoded and decoded


@dataclass(frozen=True)
class Networks:
    """What measures beside plain arithmetic. ``features`` by ``Protocol.inception``: a protocol
    whose network is not among them has no FID."""

    lpips: Lpips | None = None
    features: Mapping[str, FeatureExtractor] | None = None
    kid: bool = False

    def of(self, protocol: Protocol) -> FeatureExtractor | None:
        return (self.features or {}).get(protocol.inception)


def evaluate_pairs(
    pairs: Iterable[Pair | tuple[Any, ...]], *, protocol: str | Protocol, **more: Any
) -> Report:
    """``evaluate`` by one protocol."""
    chosen = get_protocol(protocol) if isinstance(protocol, str) else protocol
    return evaluate(pairs, [chosen], **more)[0]


def evaluate(
    pairs: Iterable[Pair | tuple[Any, ...]],
    protocols: Sequence[Protocol],
    *,
    networks: Networks | None = None,
    real: RealSet | None = None,
    synthetic: bool = False,
    intervals: bool = True,
    drop_last: bool = False,
    ranks: Ranks | None = None,
    progress: Progress = silent,
) -> list[Report]:
    """A report by each protocol, in one pass over ``pairs``: no picture is kept.

    ``real``: what FID compares with, and what the mean image is of. ``synthetic`` adds the toy
    measures for drawn people. Raises XmdptError without pairs, for FID without a real set, and,
    naming the pair, for pictures that a protocol leaves at different sizes.

    ``drop_last``: leave the last partial batch out of the metrics of which a protocol's published
    evaluator leaves it out (``metrics.drop_last``).

    ``ranks``: several processes, each with pairs of its own; all get the reports of all pairs.
    """
    networks, ranks = networks or Networks(), ranks or Ranks()
    extractors = [networks.of(protocol) for protocol in protocols]
    reals: Sequence[RealStatistics | None] = [None] * len(protocols)
    if real is not None:
        known = real
        reals = ranks.on_first(
            lambda: real_statistics(known, protocols, extractors, networks.kid, progress, drop_last)
        )
    elif any(extractors):
        raise XmdptError("FID needs a real set to compare with", "name one, or leave FID out")
    runs = [
        _Run(protocol, networks, statistics, synthetic)
        for protocol, statistics in zip(protocols, reals, strict=True)
    ]
    total = length_hint(pairs)
    for done, measured in enumerate(_measured(pairs, runs), start=1):
        for run, one in zip(runs, measured, strict=True):
            run.keep(one)
        progress("evaluate", done, max(total, done))
    for run in runs:
        run.merge(ranks)
        if drop_last:
            run.drop()
    if not runs[0].images:
        raise XmdptError("no pairs to evaluate", "check the folders or the dataset's split")
    reports: list[Report] = ranks.on_first(lambda: [run.report(intervals) for run in runs])
    return reports


@dataclass(frozen=True)
class Ranks:
    """Several processes that measure one set together; alone without arguments.

    ``order``: the names of all pairs, as one process would meet them.
    """

    size: int = 1
    order: Sequence[str] = ()
    gather: Callable[[Any], list[Any]] = lambda item: [item]  # every rank's item, for all
    on_first: Callable[[Callable[[], Any]], Any] = lambda work: work()  # rank 0's result, for all


class _One(NamedTuple):
    """What was found of one pair by one protocol."""

    name: str
    joints: int | None
    values: dict[str, dict[str, Value]]  # row -> metric
    pictures: dict[str, Pixels]  # row -> what was compared, and the truth
    size: str
    given: dict[str, Size]  # role -> as it came


def _measured(
    pairs: Iterable[Pair | tuple[Any, ...]], runs: Sequence[_Run]
) -> Iterator[list[_One]]:
    """Each pair by each run, a few pairs at once, in their order."""
    waiting: list[Any] = []
    threads = min(_AHEAD, torch.get_num_threads())
    with ThreadPoolExecutor(threads) as pool:
        for index, given in enumerate(pairs):
            pair = Pair(*given)
            pair = pair if pair.name else pair._replace(name=str(index))
            waiting.append(pool.submit(_by_all, runs, pair))
            if len(waiting) > threads:
                yield waiting.pop(0).result()
        for one in waiting:
            yield one.result()


def _by_all(runs: Sequence[_Run], pair: Pair) -> list[_One]:
    for row, picture in (
        (GENERATED, pair.pred), (TRUTH, pair.truth), (COPY, pair.source), (VAE, pair.reconstruction)
    ):  # fmt: skip
        if picture is not None:
            checked(picture, f"{pair.name}: the {row} picture")
    return [run.measure(pair) for run in runs]


class _Run:
    """One evaluation by one protocol under way."""

    def __init__(
        self, protocol: Protocol, networks: Networks, real: RealStatistics | None, synthetic: bool
    ) -> None:
        self.protocol, self.networks = protocol, networks
        self.real, self.synthetic = real, synthetic
        self.rows: dict[str, Row] = {}
        self.images: list[dict[str, Any]] = []
        self.sizes: set[str] = set()
        self.given: dict[str, Counter[Size]] = {}  # role -> sizes of what came
        self.dropped: dict[str, dict[str, Any]] = {}
        extractor = networks.of(protocol)
        self.distances: Distances | None = None
        if extractor is not None and real is not None:
            self.distances = Distances(extractor, real, networks.kid)

    def measure(self, pair: Pair) -> _One:
        """Of one pair; several may be measured at once."""
        truth = self.protocol.truth(pair.truth)
        pixelwise = self.protocol.pixelwise
        plain_truth = truth if pixelwise is None else pixelwise(pair.truth)
        candidates = self._candidates(pair)
        for row, (picture, _) in candidates.items():
            if picture.shape != truth.shape:
                raise XmdptError(
                    f"{pair.name}: the {row} picture is {size_of(picture)}, the truth "
                    f"{size_of(truth)}",
                    "the protocol cfld brings all pictures to 176x256",
                )
        points = _keypoints_in(truth, pair)
        values = {}
        for row, (picture, raw) in candidates.items():
            plain = picture if pixelwise is None else pixelwise(raw)
            values[row] = self._values((picture, truth), (plain, plain_truth), points)
        given = {GENERATED: pair.pred, TRUTH: pair.truth, COPY: pair.source}
        return _One(
            pair.name,
            None if points is None else int(np.isfinite(points).all(axis=1).sum()),
            values,
            {TRUTH: truth, **{row: picture for row, (picture, _) in candidates.items()}},
            size_of(truth),
            {
                role: (image.shape[0], image.shape[1])
                for role, image in given.items()
                if image is not None
            },
        )

    def keep(self, one: _One) -> None:
        for row, values in one.values.items():
            self.rows.setdefault(row, Row()).add(values)
        if self.distances is not None:
            for row, picture in one.pictures.items():
                self.distances.add(row, picture, copies=row == MEAN)
        self.images.append({"name": one.name, "joints": one.joints, "rows": one.values})
        self.sizes.add(one.size)
        for role, size in one.given.items():
            self.given.setdefault(role, Counter())[size] += 1

    def merge(self, ranks: Ranks) -> None:
        """Take in what the other ranks kept, in the order of one process."""
        if ranks.size == 1:
            return
        features = {} if self.distances is None else self.distances.features()
        parts = ranks.gather((self.images, features, sorted(self.sizes), self.given))
        place = {name: number for number, name in enumerate(ranks.order)}
        images = [image for part in parts for image in part[0]]
        order = sorted(range(len(images)), key=lambda i: place[images[i]["name"]])
        self.images = [images[i] for i in order]
        self._rows()
        self.sizes = {size for part in parts for size in part[2]}
        self.given = {role: Counter() for role in (GENERATED, TRUTH, COPY)}
        for part in parts:
            for role, found in part[3].items():
                self.given[role].update(found)
        if self.distances is not None:
            self.distances.replace([part[1] for part in parts], order)

    def _rows(self, metric: str = "", dropped: Collection[int] = ()) -> None:
        """Make the rows again from the images; ``metric`` without these places."""
        self.rows = {}
        for place, image in enumerate(self.images):
            left = (metric,) if place in dropped else ()
            for row, values in image["rows"].items():
                self.rows.setdefault(row, Row()).add(values, left)

    def drop(self) -> None:
        """Leave the last partial batch out of the metrics of which the protocol leaves it out."""
        lpips, batches = self.networks.lpips, self.protocol.batches
        names = [image["name"] for image in self.images]
        if "lpips" in batches and lpips is not None:
            metric, out = lpips.named(self.protocol.lpips_signed), left_out(names, batches["lpips"])
            self._rows(metric, set(out))
            self.dropped[metric] = dropped(batches["lpips"], names, out)
        if "fid" in batches and self.distances is not None and self.real is not None:
            out = left_out(names, batches["fid"])
            self.distances.keep_only(sorted(set(range(len(names))) - set(out)))
            reference = {"reference_used": self.real.used, "reference_of": self.real.count}
            for metric in self.distances.metrics:
                self.dropped[metric] = dropped(batches["fid"], names, out) | reference

    def _candidates(self, pair: Pair) -> dict[str, tuple[Pixels, Picture]]:
        """Row -> the picture as it is compared, and as it was."""
        candidates = {GENERATED: (self.protocol.prediction(pair.pred), pair.pred)}
        if pair.source is not None:
            candidates[COPY] = (self.protocol.truth(pair.source), pair.source)
        if self.real is not None:
            candidates[MEAN] = (self.real.mean_picture, self.real.mean_picture)
        if pair.reconstruction is not None:
            made = pair.reconstruction
            candidates[VAE] = (self.protocol.prediction(made), made)
        return candidates

    def _values(
        self,
        resized: tuple[Pixels, Pixels],
        plain: tuple[Pixels, Pixels],
        keypoints: NDArray[np.float64] | None,
    ) -> dict[str, Value]:
        """Of a picture and its truth, as LPIPS sees them and as the other measures do."""
        protocol, lpips = self.protocol, self.networks.lpips
        picture, truth = resized
        values: dict[str, Value] = dict(
            pairwise.measure(*plain, sigma=protocol.sigma, wang=protocol.wang)
        )
        if lpips is not None:
            signed = protocol.lpips_signed
            fits = min(truth.shape[:2]) >= SMALLEST
            values[lpips.named(signed)] = lpips(picture, truth, signed) if fits else None
        if self.synthetic:
            values.update(drawn.measure(picture, truth, keypoints))
        return values

    def report(self, intervals: bool) -> Report:
        rows = {name: row.means() for name, row in self.rows.items()}
        counts = {name: row.count for name, row in self.rows.items()}
        found = {name: row.intervals() for name, row in self.rows.items()} if intervals else {}
        toy = list(drawn.METRICS) if self.synthetic else []
        weights: dict[str, str] = {}
        if self.real is not None:
            counts["real"] = self.real.count
        if self.distances is not None:
            rows[TRUTH], counts[TRUTH] = {}, len(self.images)
            self.distances.into(rows, found, intervals)
            for metric in self.distances.metrics:
                weights[metric] = self.distances.extractor.weights
                toy += [metric] if self.distances.extractor.toy else []
        lpips = self.networks.lpips
        if lpips is not None:
            metric = lpips.named(self.protocol.lpips_signed)
            weights[metric] = lpips.weights
            toy += [metric] if lpips.toy else []
        return Report(
            protocol=self.protocol.name,
            rows=rows,
            counts=counts,
            undefined={n: row.undefined for n, row in self.rows.items() if row.undefined},
            infinite={n: row.infinite for n, row in self.rows.items() if row.infinite},
            sizes=sorted(self.sizes),
            input_sizes=sizes.plain(self._input_sizes()),
            drop_last=self.dropped,
            weights=weights,
            toy=sorted(toy),
            notes=self._notes(),
            images=self.images,
            intervals=found,
        )

    def _input_sizes(self) -> sizes.Sizes:
        reference = {} if self.real is None else {sizes.REFERENCE: self.real.sizes}
        return {**self.given, **reference}

    def _notes(self) -> list[str]:
        notes = sizes.size_notes(self.protocol, self._input_sizes())
        notes += [note(metric, what) for metric, what in self.dropped.items()]
        equal = self.rows[GENERATED].infinite.get("psnr", 0)
        if equal:
            notes.append(
                f"of the generated pictures {equal} equal their ground truths: an infinite PSNR, "
                "left out of the mean"
            )
        if self.distances is not None:
            used = self.dropped.get(self.distances.extractor.fid, {}).get("used")
            notes += self.distances.notes(len(self.images) if used is None else used)
        return notes


def _keypoints_in(truth: Pixels, pair: Pair) -> NDArray[np.float64] | None:
    """The pair's keypoints in pixels of the resized truth."""
    if pair.keypoints is None:
        return None
    scale = (truth.shape[1] / pair.truth.shape[1], truth.shape[0] / pair.truth.shape[0])
    return np.asarray(pair.keypoints, dtype=np.float64) * scale
