"""Evaluate generated images against their ground truth: read pairs, update the metrics, compute.

Beside ``generated`` there are calibration rows, measured in the same way:

- ``copy-source``: the source image itself, as if no pose had been transferred;
- ``mean-image``: the average image of the reference set, the same for every pair;
- ``vae-reconstruction``: the ground truth through the VAE, the best a latent model can do;
- ``ground-truth``, FID and KID only: the ground truth images against the reference set.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import length_hint
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.images import ImageArray
from xmdpt_cli.metrics.collection import Factory
from xmdpt_cli.metrics.evaluation import Evaluation
from xmdpt_cli.metrics.features import FeatureExtractor
from xmdpt_cli.metrics.lpips_metric import LpipsNetwork
from xmdpt_cli.metrics.pixels import checked, to_tensor
from xmdpt_cli.metrics.protocol_run import (
    COPY,
    GENERATED,
    GROUND_TRUTH,
    VAE,
    Batch,
    PairInfo,
    ProtocolRun,
)
from xmdpt_cli.metrics.protocols import Protocol, get_protocol
from xmdpt_cli.metrics.reference_set import ReferenceSet, ReferenceStatistics, reference_statistics
from xmdpt_cli.progress import Progress, silent

_BATCH = 16  # pairs measured at once


class ImagePair(NamedTuple):
    """A generated image and its ground truth, uint8 (H, W, 3), or a plain tuple in this order."""

    generated: ImageArray
    ground_truth: ImageArray
    source: ImageArray | None = None
    keypoints: NDArray[np.float64] | None = None  # (18, 2) of the ground truth, NaN: missing
    name: str = ""
    reconstruction: ImageArray | None = None  # the ground truth, encoded and decoded


@dataclass(frozen=True)
class Networks:
    """The networks of LPIPS and FID. ``features`` by ``Protocol.inception``: a protocol whose
    network is not among them has no FID."""

    lpips: LpipsNetwork | None = None
    features: Mapping[str, FeatureExtractor] | None = None
    kid: bool = False  # KID beside FID

    def of(self, protocol: Protocol) -> FeatureExtractor | None:
        """The network of FID for this protocol."""
        return (self.features or {}).get(protocol.inception)


@dataclass(frozen=True)
class Ranks:
    """The processes that evaluate one set together; by default a single one.

    ``order``: the names of all pairs, in the order of a single process.
    """

    size: int = 1
    order: Sequence[str] = ()
    gather: Callable[[Any], list[Any]] = lambda item: [item]  # every rank's item, for all
    on_first: Callable[[Callable[[], Any]], Any] = lambda work: work()  # rank 0's result, for all


def evaluate_pairs(
    pairs: Iterable[ImagePair | tuple[Any, ...]], *, protocol: str | Protocol, **kwargs: Any
) -> Evaluation:
    """``evaluate`` with one protocol."""
    chosen = get_protocol(protocol) if isinstance(protocol, str) else protocol
    return evaluate(pairs, [chosen], **kwargs)[0]


def evaluate(
    pairs: Iterable[ImagePair | tuple[Any, ...]],
    protocols: Sequence[Protocol],
    *,
    networks: Networks | None = None,
    reference: ReferenceSet | None = None,
    only: Collection[str] = (),
    extra: Sequence[Factory] = (),
    intervals: bool = True,
    drop_last: bool = False,
    ranks: Ranks | None = None,
    progress: Progress = silent,
) -> list[Evaluation]:
    """Evaluate with each protocol, in one pass over ``pairs``; images are not kept.

    ``reference``: the set for FID and for the mean image. ``only``: kinds
    of metrics ("ssim", "fid" ...), all by default. ``extra``: further metrics, by their classes.
    ``drop_last``: leave the last partial batch out of the metrics of which a protocol's published
    evaluator leaves it out (``metrics.drop_last``). ``ranks``: several processes, each with pairs
    of its own; all get the evaluations of all pairs.

    Raises XmdptError without pairs, for FID without a reference set, and, naming the pair, for
    images that a protocol leaves at different sizes.
    """
    networks, ranks = networks or Networks(), ranks or Ranks()
    features = [networks.of(protocol) for protocol in protocols]
    statistics: Sequence[ReferenceStatistics | None] = [None] * len(protocols)
    if reference is not None:
        known, kid = reference, networks.kid
        statistics = ranks.on_first(
            lambda: reference_statistics(known, protocols, features, kid, progress, drop_last)
        )
    elif any(features):
        raise XmdptError("FID needs a reference set to compare with", "name one, or leave FID out")
    runs = [
        ProtocolRun(protocol, networks.lpips, network, networks.kid, found, only, extra)
        for protocol, network, found in zip(protocols, features, statistics, strict=True)
    ]
    seen: list[PairInfo] = []
    total = length_hint(pairs)
    for batch in _batches(pairs):
        for run in runs:
            run.update(batch)
        for info in batch.infos:
            seen.append(info)
            progress("evaluate", len(seen), max(total, len(seen)))
    if ranks.size > 1:
        seen = [info for part in ranks.gather(seen) for info in part]
    if not seen:
        raise XmdptError("no pairs to evaluate", "check the folders or the dataset's split")
    if ranks.size > 1:
        place = {name: number for number, name in enumerate(ranks.order)}
        for run in runs:
            run.gather(seen, place)
        seen.sort(key=lambda info: place[info.name])
    found: list[Evaluation] = ranks.on_first(
        lambda: [run.result(seen, intervals, drop_last) for run in runs]
    )
    return found


def _batches(pairs: Iterable[ImagePair | tuple[Any, ...]]) -> Iterator[Batch]:
    """Batches of consecutive pairs with the same sizes."""
    waiting: list[ImagePair] = []
    for number, given in enumerate(pairs):
        pair = ImagePair(*given)
        pair = pair if pair.name else pair._replace(name=str(number))
        if waiting and (len(waiting) == _BATCH or _sizes(pair) != _sizes(waiting[0])):
            yield _batch(waiting)
            waiting = []
        waiting.append(pair)
    if waiting:
        yield _batch(waiting)


def _batch(pairs: Sequence[ImagePair]) -> Batch:
    sizes = _sizes(pairs[0])

    def stack(images: Sequence[ImageArray | None]) -> Tensor | None:
        return None if images[0] is None else to_tensor([i for i in images if i is not None])

    unknown = np.full((18, 2), np.nan)
    points = [unknown if p.keypoints is None else np.asarray(p.keypoints, float) for p in pairs]
    return Batch(
        generated=to_tensor([pair.generated for pair in pairs]),
        ground_truth=to_tensor([pair.ground_truth for pair in pairs]),
        source=stack([pair.source for pair in pairs]),
        reconstruction=stack([pair.reconstruction for pair in pairs]),
        keypoints=torch.from_numpy(np.stack(points)),
        infos=[PairInfo(pair.name, _joints(pair.keypoints), sizes) for pair in pairs],
    )


def _sizes(pair: ImagePair) -> dict[str, tuple[int, int]]:
    """(H, W) of every image of the pair. XmdptError for an array that is not an image."""
    images = {
        GENERATED: pair.generated,
        GROUND_TRUTH: pair.ground_truth,
        COPY: pair.source,
        VAE: pair.reconstruction,
    }
    sizes = {}
    for role, image in images.items():
        if image is not None:
            checked(image, f"{pair.name}: the {role} image")
            sizes[role] = (image.shape[0], image.shape[1])
    return sizes


def _joints(keypoints: NDArray[np.float64] | None) -> int | None:
    """The number of visible joints; None if not known."""
    return None if keypoints is None else int(np.isfinite(keypoints).all(axis=1).sum())
