"""What the real pictures' features are: once for a set, a protocol and a network.

Found again by content: a changed picture, another protocol or other weights make another file, and
a file that is not whole is made again.
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

import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import write_bytes
from xmdpt_cli.images import Picture
from xmdpt_cli.metrics.drop_last import WholeBatches
from xmdpt_cli.metrics.features import FeatureExtractor, FeatureSet
from xmdpt_cli.metrics.frechet import Floats
from xmdpt_cli.metrics.pictures import checked
from xmdpt_cli.metrics.protocols import Protocol
from xmdpt_cli.progress import Progress, silent
from xmdpt_cli.utils.streams import private_folder

VERSION = 2


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
    used: int  # pictures of which the network's statistics are; less where a batch was left out
    sizes: Mapping[tuple[int, int], int]  # (H, W) before the protocol -> pictures
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
    drop_last: bool = False,
) -> list[RealStatistics]:
    """Of each protocol with its extractor, in one pass over the pictures; from the cache what lies
    there. ``drop_last``: without the last partial batch, where the protocol has one. XmdptError
    if there are no pictures, or only one and a network is to see them."""
    content = None if real.content is None else real.content()
    batches = [protocol.batches.get("fid", 0) if drop_last else 0 for protocol in protocols]
    paths = [
        None if content is None else _path(content, *of, keep_features)
        for of in zip(protocols, extractors, batches, strict=True)
    ]
    found = [None if path is None else _read(path) for path in paths]
    missing = [i for i, one in enumerate(found) if one is None]
    if missing:
        made = _measured(
            real.pictures(),
            [protocols[i] for i in missing],
            [extractors[i] for i in missing],
            [batches[i] for i in missing],
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
    batches: Sequence[int],
    keep: bool,
    progress: Progress,
) -> list[RealStatistics]:
    sets = [None if e is None else FeatureSet(e, keep) for e in extractors]
    whole = [
        WholeBatches(features.add, batch) if features is not None and batch else None
        for features, batch in zip(sets, batches, strict=True)
    ]
    sums: list[Floats | None] = [None] * len(protocols)
    sizes: Counter[tuple[int, int]] = Counter()
    count, total = 0, length_hint(pictures)
    for picture in pictures:
        checked(picture, f"picture {count} of the real set")
        sizes[(picture.shape[0], picture.shape[1])] += 1
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
            taken = whole[i] or sets[i]
            if taken is not None:
                taken.add(shown)
        count += 1
        progress("real set", count, max(total, count))
    if not count:
        raise XmdptError("the real set holds no pictures")
    if count < 2 and any(e is not None for e in extractors):
        raise XmdptError(
            "FID needs a real set of at least two pictures",
            "name a larger one, or measure without FID: --ssim --lpips --psnr",
        )
    for batched in whole:
        if batched is not None:
            batched.close()
    return [
        _statistics(count, total_, features, keep, sizes)
        for total_, features in zip(sums, sets, strict=True)
        if total_ is not None
    ]


def _statistics(
    count: int,
    total: Floats,
    features: FeatureSet | None,
    keep: bool,
    sizes: Mapping[tuple[int, int], int],
) -> RealStatistics:
    picture = np.rint(total / count).clip(0, 255).astype(np.uint8)
    if features is None:
        return RealStatistics(count, picture, count, sizes)
    own = features.statistics()
    kept = features.features() if keep else None
    return RealStatistics(count, picture, own.count, sizes, own.mean, own.cov, kept)


def _path(
    content: str, protocol: Protocol, extractor: FeatureExtractor | None, batch: int, keep: bool
) -> Path:
    network = None if extractor is None else [extractor.name, extractor.weights]
    what = json.dumps([VERSION, content, protocol.name, protocol.size, network, batch, keep])
    digest = hashlib.sha256(what.encode()).hexdigest()
    return cache_folder() / "real" / f"{digest[:32]}.npz"


def _write(path: Path, found: RealStatistics) -> None:
    named = {k: np.asarray(v) for k, v in vars(found).items() if v is not None}
    named["sizes"] = np.array([[*size, n] for size, n in sorted(found.sizes.items())])
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
        numbers = {name: int(stored[name]) for name in ("count", "used")}
        sizes = {(h, w): n for h, w, n in stored["sizes"].tolist()}
        return RealStatistics(**{k: stored[k] for k in stored} | numbers | {"sizes": sizes})
