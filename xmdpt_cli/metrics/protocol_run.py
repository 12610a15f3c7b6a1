"""One evaluation with one protocol: the metrics of its rows, from the first pair to the values."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.metrics import sizes
from xmdpt_cli.metrics.base import ImageMetric, PairMetric, Resize
from xmdpt_cli.metrics.collection import Factory, ProtocolMetrics, protocol_metrics
from xmdpt_cli.metrics.drop_last import dropped, left_out, note
from xmdpt_cli.metrics.evaluation import Evaluation, ImageValues, Value
from xmdpt_cli.metrics.features import FeatureExtractor
from xmdpt_cli.metrics.fid import FID
from xmdpt_cli.metrics.lpips_metric import LpipsNetwork
from xmdpt_cli.metrics.pixels import Once, to_tensor
from xmdpt_cli.metrics.protocols import Protocol
from xmdpt_cli.metrics.reference_set import ReferenceStatistics
from xmdpt_cli.metrics.sizes import Size
from xmdpt_cli.utils.counts import counted

GENERATED, GROUND_TRUTH, COPY = sizes.GENERATED, sizes.GROUND_TRUTH, sizes.SOURCE
MEAN, VAE = "mean-image", "vae-reconstruction"
ROWS = (GENERATED, COPY, MEAN, VAE, GROUND_TRUTH)


@dataclass(frozen=True)
class PairInfo:
    """Metadata of a pair."""

    name: str
    joints: int | None
    sizes: Mapping[str, Size]  # role -> (H, W) of the images that are given


@dataclass(frozen=True)
class Batch:
    """N pairs of the same sizes; images are uint8 (N, 3, H, W)."""

    generated: Tensor
    ground_truth: Tensor
    source: Tensor | None
    reconstruction: Tensor | None
    keypoints: Tensor  # (N, 18, 2) in pixels of the ground truth; NaN: missing
    infos: list[PairInfo]


class ProtocolRun:
    """The metrics of all rows, updated with the same pairs."""

    def __init__(
        self,
        protocol: Protocol,
        lpips: LpipsNetwork | None,
        network: FeatureExtractor | None,
        kid: bool,
        reference: ReferenceStatistics | None,
        only: Collection[str],
        extra: Sequence[Factory],
    ) -> None:
        self.protocol, self.lpips, self.network, self.kid = protocol, lpips, network, kid
        self.reference, self.only, self.extra = reference, only, extra
        self.once = Once()
        self.rows: dict[str, ProtocolMetrics] = {}

    def row(self, name: str) -> ProtocolMetrics:
        """The metrics of a row."""
        if name not in self.rows:
            protocol, only, extra = self.protocol, self.only, self.extra
            if name in (COPY, GROUND_TRUTH):  # photographs
                protocol = replace(protocol, generated=protocol.ground_truth)
            if name == GROUND_TRUTH:
                only, extra = [k for k in ("fid", "kid") if not only or k in only] or ["none"], ()
            self.rows[name] = protocol_metrics(
                protocol,
                lpips=self.lpips,
                features=None if name == MEAN else self.network,  # one image: see ``_mean_fid``
                reference=None if self.reference is None else self.reference.features,
                kid=self.kid,
                only=only,
                extra=extra,
                once=self.once,
                sync_on_compute=False,  # rank 0 computes, after ``gather``
            )
        return self.rows[name]

    def update(self, batch: Batch) -> None:
        """Measure a batch in every row."""
        count = len(batch.infos)
        rows = {GENERATED: batch.generated}
        if batch.source is not None:
            rows[COPY] = batch.source
        if self.reference is not None:
            rows[MEAN] = to_tensor([self.reference.mean_image]).expand(count, -1, -1, -1)
        if batch.reconstruction is not None:
            rows[VAE] = batch.reconstruction
        if self.network is not None:
            rows[GROUND_TRUTH] = batch.ground_truth
        with self.once.open():
            for name, images in rows.items():
                self._check(name, images, batch)
                self.row(name).update(images, batch.ground_truth, keypoints=batch.keypoints)

    def gather(self, seen: Sequence[PairInfo], place: Mapping[str, int]) -> None:
        """Gather the measurements of all ranks. ``seen``: all pairs, rank by rank; ``place``: the
        position of each pair in the order of a single process."""
        for name in ROWS:
            pairs = self._pairs(name, seen)
            if not pairs:
                continue
            order = sorted(range(len(pairs)), key=lambda i: place[seen[pairs[i]].name])
            for metric in self.row(name).metrics:
                metric.gather()
                metric.select(order)

    def result(self, seen: Sequence[PairInfo], intervals: bool, drop_last: bool) -> Evaluation:
        """The evaluation of all pairs; ``seen`` is in the order of ``update``."""
        images: list[ImageValues] = [
            {"name": info.name, "joints": info.joints, "rows": {}} for info in seen
        ]
        given, size = self._input_sizes(seen), self.protocol.size
        found = Evaluation(
            protocol=self.protocol.name,
            rows={},
            counts={},
            sizes=sorted({sizes.named(size or info.sizes[GROUND_TRUTH]) for info in seen}),
            input_sizes=sizes.plain(given),
            images=images,
        )
        for name in ROWS:
            pairs = self._pairs(name, seen)
            if not pairs:
                continue
            found.rows[name], found.counts[name] = {}, len(pairs)
            for place in pairs if name != GROUND_TRUTH else ():
                images[place]["rows"][name] = {}
            for metric in self.row(name).metrics:
                self._add(found, name, metric, pairs, intervals, drop_last)
            if name == MEAN and self._has("fid"):
                fid = self._mean_fid()
                found.rows[name][fid.name] = _value(fid)
        if self.reference is not None:
            found.counts[sizes.REFERENCE] = self.reference.count
        found.toy.sort()
        found.notes = self._notes(found, given)
        return found

    def _add(
        self,
        found: Evaluation,
        row: str,
        metric: ImageMetric,
        pairs: Sequence[int],
        intervals: bool,
        drop_last: bool,
    ) -> None:
        """Store one metric of one row in the evaluation."""
        name = metric.name
        if isinstance(metric, PairMetric):
            for place, value in zip(pairs, metric.per_image().tolist(), strict=True):
                found.images[place]["rows"][row][name] = None if math.isnan(value) else value
        batch = self.protocol.batches.get("fid" if metric.kind == "kid" else metric.kind, 0)
        if drop_last and batch:
            names = [image["name"] for image in found.images]
            out = left_out(names, batch)
            metric.select([k for k, place in enumerate(pairs) if place not in set(out)])
            found.drop_last[name] = dropped(batch, names, out)
            if metric.kind in ("fid", "kid") and self.reference is not None:
                used, of = self.reference.used, self.reference.count
                found.drop_last[name] |= {"reference_used": used, "reference_of": of}
        if isinstance(metric, PairMetric):
            found.add(row, name, metric.per_image())
        else:
            found.rows[row][name] = _value(metric)
        ends = metric.interval() if intervals else None
        if ends is not None:
            found.intervals.setdefault(row, {})[name] = ends
        if metric.weights:
            found.weights[name] = metric.weights
        if metric.toy and name not in found.toy:
            found.toy.append(name)

    def _pairs(self, row: str, seen: Sequence[PairInfo]) -> list[int]:
        """The indices in ``seen`` of the pairs that a row measures."""
        if row == MEAN:
            return list(range(len(seen))) if self.reference is not None else []
        if row == GROUND_TRUTH and not self._has("fid") and not self._has("kid"):
            return []
        return [place for place, info in enumerate(seen) if row in info.sizes]

    def _has(self, kind: str) -> bool:
        """Whether FID or KID is measured."""
        wanted = not self.only or kind in self.only
        return wanted and self.network is not None and (kind == "fid" or self.kid)

    def _mean_fid(self) -> FID:
        """FID of a set that repeats one image, for which one forward pass is enough."""
        assert self.reference is not None
        resize = Resize(self.protocol.generated, self.protocol.ground_truth)
        fid = FID(self.network, self.reference.features, resize=resize, sync_on_compute=False)
        image = to_tensor([self.reference.mean_image])
        fid.update(image, image)
        fid.select([0, 0])
        return fid

    def _check(self, row: str, images: Tensor, batch: Batch) -> None:
        """XmdptError where the protocol leaves images at different sizes."""
        if self.protocol.size is None and images.shape[2:] != batch.ground_truth.shape[2:]:
            (a, b), (c, d) = images.shape[2:], batch.ground_truth.shape[2:]
            raise XmdptError(
                f"{batch.infos[0].name}: the {row} image is {sizes.named((a, b))}, the ground "
                f"truth {sizes.named((c, d))}",
                "the protocol cfld brings all images to 176x256",
            )

    def _input_sizes(self, seen: Sequence[PairInfo]) -> dict[str, Mapping[Size, int]]:
        """Role -> (H, W) before the protocol -> images."""
        given: dict[str, Mapping[Size, int]] = {
            role: Counter(info.sizes[role] for info in seen if role in info.sizes)
            for role in (GENERATED, GROUND_TRUTH, COPY)
        }
        return given | ({} if self.reference is None else {sizes.REFERENCE: self.reference.sizes})

    def _notes(self, found: Evaluation, given: sizes.Sizes) -> list[str]:
        notes = sizes.size_notes(self.protocol, given)
        notes += [note(metric, what) for metric, what in found.drop_last.items()]
        equal = found.infinite.get(GENERATED, {}).get("psnr", 0)
        if equal:
            notes.append(
                f"of the generated images {equal} equal their ground truths: an infinite PSNR, "
                "left out of the mean"
            )
        if self._has("fid") and self.network is not None and self.reference is not None:
            fid, width = f"fid_{self.network.name}", self.network.num_features
            used = found.drop_last.get(fid, {}).get("used", len(found.images))
            fewest = min(self.reference.used, used)
            if fewest < width:
                notes.append(
                    f"{fid} of {counted(fewest, 'image')} is biased upwards ({width} features): "
                    "compare only values of equally many images"
                )
        return notes


def _value(metric: ImageMetric) -> Value:
    """The value of a metric; None if it is not defined."""
    value = float(metric.compute())
    return None if math.isnan(value) else value
