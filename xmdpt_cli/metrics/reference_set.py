"""The features of a reference set: computed once for a set, a protocol and a network.

Cached statistics are found by content: a changed image, another protocol or other weights give
another file, and a damaged file is computed again.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import length_hint
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import write_bytes
from xmdpt_cli.images import ImageArray
from xmdpt_cli.metrics.features import FeatureExtractor
from xmdpt_cli.metrics.fid import FeatureDistribution, FeatureStatistics
from xmdpt_cli.metrics.pixels import Pixels, checked
from xmdpt_cli.metrics.protocols import Protocol
from xmdpt_cli.progress import Progress, silent
from xmdpt_cli.utils.streams import private_folder

VERSION = 3
_BATCH = 16  # images a forward pass


@dataclass(frozen=True)
class ReferenceSet:
    """Photographs that FID and KID compare with. ``content``: returns a key of their content; None:
    nothing is cached."""

    images: Callable[[], Iterable[ImageArray]]
    content: Callable[[], str] | None = None


@dataclass(frozen=True, eq=False)
class ReferenceStatistics:
    """Statistics of the reference set for one protocol and network."""

    count: int
    mean_image: NDArray[np.uint8]
    used: int  # images in the feature statistics; fewer than count if a batch was left out
    sizes: Mapping[tuple[int, int], int]  # (H, W) before the protocol -> images
    features: FeatureDistribution | None = None  # None without a network


def cache_folder() -> Path:
    """Where statistics are kept: ``XMDPT_CACHE``, else the user's cache."""
    given = os.environ.get("XMDPT_CACHE")
    if given:
        return Path(given)
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # a user without HOME and without an entry in /etc/passwd
        cache = Path(private_folder()) / ".cache"
    return cache / "xmdpt"


def reference_statistics(
    reference: ReferenceSet,
    protocols: Sequence[Protocol],
    networks: Sequence[FeatureExtractor | None],
    keep_features: bool = False,
    progress: Progress = silent,
    drop_last: bool = False,
) -> list[ReferenceStatistics]:
    """The statistics for each protocol and its network, in one pass over the images that are not
    cached.

    ``keep_features``: also keep the features, for KID. ``drop_last``: leave out the last partial
    batch, if the protocol does. XmdptError without images, or for a network with only one image.
    """
    content = None if reference.content is None else reference.content()
    passes = [
        _Pass(protocol, network, protocol.batches.get("fid", 0) if drop_last else 0, keep_features)
        for protocol, network in zip(protocols, networks, strict=True)
    ]
    paths = [None if content is None else one.path(content) for one in passes]
    found = [None if path is None else _read(path) for path in paths]
    missing = [i for i, one in enumerate(found) if one is None]
    if missing:
        sizes = _read_all(reference.images(), [passes[i] for i in missing], progress)
        for i in missing:
            one = found[i] = passes[i].statistics(sizes)
            path = paths[i]
            if path is not None:
                with suppress(OSError):  # without space it is computed again next time
                    _write(path, one)
    return [one for one in found if one is not None]


def _read_all(
    images: Iterable[ImageArray], passes: Sequence[_Pass], progress: Progress
) -> Mapping[tuple[int, int], int]:
    """Add every image to every pass; returns the number of images of each size."""
    sizes: Counter[tuple[int, int]] = Counter()
    count, total = 0, length_hint(images)
    for image in images:
        checked(image, f"image {count} of the reference set")
        sizes[(image.shape[0], image.shape[1])] += 1
        for one in passes:
            one.add(image)
        count += 1
        progress("reference set", count, max(total, count))
    if not count:
        raise XmdptError("the reference set holds no images")
    if count < 2 and any(one.network is not None for one in passes):
        raise XmdptError(
            "FID needs a reference set of at least two images",
            "name a larger one, or measure without FID: --ssim --lpips --psnr",
        )
    return sizes


class _Pass:
    """Accumulates the statistics of one protocol and network while the images are read."""

    def __init__(
        self, protocol: Protocol, network: FeatureExtractor | None, drop: int, keep: bool
    ) -> None:
        """``drop``: leave out the last partial batch of this size; 0: keep it."""
        self.protocol, self.network, self.drop, self.keep = protocol, network, drop, keep
        self.count, self.total = 0, np.zeros(0)
        self.waiting: list[Pixels] = []
        self.seen = FeatureStatistics()
        self.features: list[NDArray[np.float32]] = []

    def add(self, image: ImageArray) -> None:
        shown = self.protocol.ground_truth(image)
        if not self.count:
            self.total = np.zeros(shown.shape)
        if self.total.shape != shown.shape:
            raise XmdptError(
                "the images of the reference set are of different sizes",
                "--protocol cfld resizes them",
            )
        self.total += shown
        self.count += 1
        if self.network is not None:
            self.waiting.append(shown)
            if len(self.waiting) == (self.drop or _BATCH):
                self._extract()

    def statistics(self, sizes: Mapping[tuple[int, int], int]) -> ReferenceStatistics:
        """The statistics of all images that were added."""
        mean = np.rint(self.total / self.count).clip(0, 255).astype(np.uint8)
        if self.network is None:
            return ReferenceStatistics(self.count, mean, self.count, sizes)
        if not self.drop or not self.seen.count:  # fewer than one batch are all used
            self._extract()
        kept = np.concatenate(self.features) if self.keep else None
        features = FeatureDistribution(self.seen.mean, self.seen.cov, kept)
        return ReferenceStatistics(self.count, mean, self.seen.count, sizes, features)

    def path(self, content: str) -> Path:
        """The file in the cache."""
        protocol, network = self.protocol, self.network
        of = None if network is None else [network.name, network.weights]
        what = [VERSION, content, protocol.name, protocol.size, of, self.drop, self.keep]
        digest = hashlib.sha256(json.dumps(what).encode()).hexdigest()
        return cache_folder() / "reference" / f"{digest[:32]}.npz"

    def _extract(self) -> None:
        """Extract the features of the waiting images."""
        assert self.network is not None
        for start in range(0, len(self.waiting), _BATCH):
            features = self.network(self.waiting[start : start + _BATCH])
            self.seen.update(features)
            if self.keep:
                self.features.append(features)
        self.waiting = []


def _write(path: Path, found: ReferenceStatistics) -> None:
    sizes = [[*size, n] for size, n in sorted(found.sizes.items())]
    named: dict[str, Any] = {
        "count": np.asarray(found.count),
        "used": np.asarray(found.used),
        "sizes": np.asarray(sizes),
        "mean_image": found.mean_image,
    }
    own = found.features
    if own is not None:
        named |= {"mean": own.mean, "cov": own.cov}
        named |= {} if own.features is None else {"features": own.features}
    packed = io.BytesIO()
    np.savez(packed, **named)
    data = packed.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, hashlib.sha256(data).digest() + data)


def _read(path: Path) -> ReferenceStatistics | None:
    """Read cached statistics; None if the file is missing or damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(content[32:]).digest() != content[:32]:
        return None
    with np.load(io.BytesIO(content[32:])) as stored:
        features = None
        if "mean" in stored:
            kept = stored.get("features")
            features = FeatureDistribution(stored["mean"], stored["cov"], kept)
        return ReferenceStatistics(
            count=int(stored["count"]),
            mean_image=stored["mean_image"],
            used=int(stored["used"]),
            sizes={(h, w): n for h, w, n in stored["sizes"].tolist()},
            features=features,
        )
