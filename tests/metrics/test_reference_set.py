"""Statistics of the reference set: computed once, cached by content, recomputed if damaged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.images import ImageArray
from xmdpt_cli.metrics.features import toy_features
from xmdpt_cli.metrics.protocols import NATIVE, get_protocol
from xmdpt_cli.metrics.reference_set import ReferenceSet, ReferenceStatistics, reference_statistics

TOY = toy_features()


class Photographs:
    """Photographs that count how often they are read."""

    def __init__(self, seed: int = 0) -> None:
        self.all = np.random.default_rng(seed).integers(0, 256, (7, 40, 30, 3), dtype=np.uint8)
        self.read = 0

    def __call__(self) -> Iterator[ImageArray]:
        for image in self.all:
            self.read += 1
            yield image


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XMDPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "reference"


def same(a: ReferenceStatistics, b: ReferenceStatistics) -> bool:
    parts = ("count", "used", "sizes", "mean_image")
    if not all(np.array_equal(getattr(a, k), getattr(b, k)) for k in parts):
        return False
    if a.features is None or b.features is None:
        return a.features is b.features
    return np.array_equal(a.features.mean, b.features.mean) and np.array_equal(
        a.features.cov, b.features.cov
    )


def test_statistics_equal_numpy() -> None:
    photographs = Photographs()
    [found] = reference_statistics(ReferenceSet(photographs), [NATIVE], [TOY], keep_features=True)
    features = TOY(list(photographs.all)).astype(np.float64)
    assert found.count == 7
    known = found.features
    assert known is not None
    np.testing.assert_allclose(known.mean, features.mean(0), rtol=1e-5)
    np.testing.assert_allclose(known.cov, np.cov(features, rowvar=False), rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(known.features, features, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(found.mean_image, np.rint(photographs.all.mean(0)))


def test_cached_statistics_are_not_computed_again(cache: Path) -> None:
    photographs = Photographs()
    real = ReferenceSet(photographs, lambda: "one")
    protocols = [NATIVE, get_protocol("cfld")]
    first = reference_statistics(real, protocols, [TOY, None])
    assert photographs.read == 7  # for both protocols
    again = reference_statistics(real, protocols, [TOY, None])
    assert photographs.read == 7
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    assert again[1].features is None
    # another content, protocol, network, or more kept: not the same statistics
    for other, protocol, network, keep in (
        (ReferenceSet(photographs, lambda: "two"), NATIVE, TOY, False),
        (real, get_protocol("pidm"), TOY, False),
        (real, NATIVE, None, False),
        (real, NATIVE, TOY, True),
    ):
        before = photographs.read
        reference_statistics(other, [protocol], [network], keep)
        assert photographs.read == before + 7
    assert len(list(cache.iterdir())) == 6


@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_corrupt_cache_file_is_computed_again(cache: Path, damage: str) -> None:
    photographs = Photographs()
    real = ReferenceSet(photographs, lambda: "one")
    [first] = reference_statistics(real, [NATIVE], [TOY])
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[len(changed) // 2] ^= 1
    path.write_bytes({"cut": whole[:-100], "changed": bytes(changed), "empty": b""}[damage])
    [again] = reference_statistics(real, [NATIVE], [TOY])
    assert same(first, again)
    assert photographs.read == 14
    assert path.read_bytes() == whole


def test_an_unwritable_cache_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XMDPT_CACHE", str(tmp_path / "file"))
    [found] = reference_statistics(ReferenceSet(Photographs(), lambda: "one"), [NATIVE], [TOY])
    assert found.count == 7


def test_invalid_reference_sets_are_refused() -> None:
    with pytest.raises(XmdptError, match="no images"):
        reference_statistics(ReferenceSet(list), [NATIVE], [None])
    mixed = [np.zeros((8, 8, 3), np.uint8), np.zeros((9, 8, 3), np.uint8)]
    with pytest.raises(XmdptError, match="different sizes"):
        reference_statistics(ReferenceSet(lambda: mixed), [NATIVE], [None])
