"""What the real pictures' features are: once for a set, a protocol and a network.

Found again by content: a changed picture, another protocol or other weights make another file, and
a file that is not whole is made again.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import length_hint
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import write_bytes
from xmdpt_cli.images import Picture
from xmdpt_cli.metrics.features import FeatureExtractor, FeatureSet
from xmdpt_cli.metrics.frechet import Floats
from xmdpt_cli.metrics.pictures import checked
from xmdpt_cli.metrics.protocols import Protocol
from xmdpt_cli.progress import Progress, silent
from xmdpt_cli.streams import private_folder

VERSION = 1


@dataclass(frozen=True)
class RealSet:
    """Real photographs. ``content`` names them by what they are; None: nothing is kept of them."""

    pictures: Callable[[], Iterable[Picture]]
    content: Callable[[], str] | None = None


@dataclass(frozen=True)
class RealStatistics:
    """Of one protocol and network."""

    count: int
    mean_picture: NDArray[np.uint8]
    mean: Floats | None = None  # (D,); None without a network
    cov: Floats | None = None  # (D, D)
    features: NDArray[np.float32] | None = None  # (N, D), where they were asked for


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


def real_statistics(
    real: RealSet,
    protocols: Sequence[Protocol],
    extractors: Sequence[FeatureExtractor | None],
    keep_features: bool = False,
    progress: Progress = silent,
) -> list[RealStatistics]:
    """Of each protocol with its extractor, in one pass over the pictures; from the cache what lies
    there. XmdptError if there are no pictures, or only one and a network is to see them."""
    content = None if real.content is None else real.content()
    paths = [
        None if content is None else _path(content, *pair, keep_features)
        for pair in zip(protocols, extractors, strict=True)
    ]
    found = [None if path is None else _read(path) for path in paths]
    missing = [i for i, one in enumerate(found) if one is None]
    if missing:
        made = _measured(
            real.pictures(),
            [protocols[i] for i in missing],
            [extractors[i] for i in missing],
            keep_features,
            progress,
        )
        for i, one in zip(missing, made, strict=True):
            found[i] = one
            path = paths[i]
            if path is not None:
                with suppress(OSError):  # no room for it: then it is made again next time
                    _write(path, one)
    return [one for one in found if one is not None]


def _measured(
    pictures: Iterable[Picture],
    protocols: Sequence[Protocol],
    extractors: Sequence[FeatureExtractor | None],
    keep: bool,
    progress: Progress,
) -> list[RealStatistics]:
    sets = [None if e is None else FeatureSet(e, keep) for e in extractors]
    sums: list[Floats | None] = [None] * len(protocols)
    count, total = 0, length_hint(pictures)
    for picture in pictures:
        checked(picture, f"picture {count} of the real set")
        for i, protocol in enumerate(protocols):
            shown = protocol.truth(picture)
            before = sums[i]
            if before is None:
                sums[i] = shown.astype(np.float64)
            elif before.shape == shown.shape:
                before += shown
            else:
                raise XmdptError(
                    "the real pictures are of different sizes", "--protocol cfld resizes them"
                )
            features = sets[i]
            if features is not None:
                features.add(shown)
        count += 1
        progress("real set", count, max(total, count))
    if not count:
        raise XmdptError("the real set holds no pictures")
    if count < 2 and any(e is not None for e in extractors):
        raise XmdptError(
            "FID needs a real set of at least two pictures",
            "name a larger one, or measure without FID: --ssim --lpips --psnr",
        )
    return [
        _statistics(count, total_, features, keep)
        for total_, features in zip(sums, sets, strict=True)
        if total_ is not None
    ]


def _statistics(
    count: int, total: Floats, features: FeatureSet | None, keep: bool
) -> RealStatistics:
    picture = np.rint(total / count).clip(0, 255).astype(np.uint8)
    if features is None:
        return RealStatistics(count, picture)
    own = features.statistics()
    kept = features.features() if keep else None
    return RealStatistics(count, picture, own.mean, own.cov, kept)


def _path(content: str, protocol: Protocol, extractor: FeatureExtractor | None, keep: bool) -> Path:
    network = None if extractor is None else [extractor.name, extractor.weights]
    what = json.dumps([VERSION, content, protocol.name, protocol.size, network, keep])
    digest = hashlib.sha256(what.encode()).hexdigest()
    return cache_folder() / "real" / f"{digest[:32]}.npz"


def _write(path: Path, found: RealStatistics) -> None:
    named = {k: np.asarray(v) for k, v in vars(found).items() if v is not None}
    packed = io.BytesIO()
    np.savez(packed, **named)  # type: ignore[arg-type]
    data = packed.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, hashlib.sha256(data).digest() + data)


def _read(path: Path) -> RealStatistics | None:
    """None if it is not there, or not as it was written."""
    try:
        whole = path.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(whole[32:]).digest() != whole[:32]:
        return None
    with np.load(io.BytesIO(whole[32:])) as stored:
        return RealStatistics(**{k: stored[k] for k in stored} | {"count": int(stored["count"])})
