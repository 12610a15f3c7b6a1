"""The benchmark of the loader runs; its speed is not asserted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from xmdpt_cli.bench import loader as bench
from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.data.loader import load_pairs
from xmdpt_cli.data.sampler import PairIndices
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.storage.stores import open_store


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "ITEMS_PER_SHARD", 1)
    monkeypatch.setattr(bench, "VIEWS", (2, 2))


@pytest.mark.parametrize("fp8", [False, True])
def test_the_features_have_the_real_sizes(tmp_path: Path, fp8: bool) -> None:
    bench.make_dataset(tmp_path, 1, fp8)
    batch = load_pairs(PairDataset(tmp_path), PairIndices.listed([0]))
    tensors = {name: value for name, value in vars(batch).items() if torch.is_tensor(value)}
    assert {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()} == {
        "target_moments": ((1, 8, 32, 32), torch.float32),
        "source_moments": ((1, 8, 32, 32), torch.float32),
        "pose_tokens": ((1, 257, 768), torch.bfloat16),
        "source_tokens": ((1, 257, 1536), torch.bfloat16),
    }
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert size == pytest.approx(2 * bench.VIEW_BYTES * (0.7 if fp8 else 1), rel=0.05)


def test_local_and_streamed_reading_are_measured(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    bench.make_dataset(tmp_path, 1)
    store = open_store("memory://bench/set")
    for path in tmp_path.iterdir():
        store.write(path.name, path.read_bytes())
    dataset = PairDataset(tmp_path)
    found = bench.measure_loader(dataset, store.url, 3, steps=2, rounds=2, buffer_bytes=10**7)
    assert len(found) == 3
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in found.values())


def test_a_full_disk_is_refused(tmp_path: Path) -> None:
    with pytest.raises(XmdptError, match="no room") as error:
        bench.make_dataset(tmp_path / "x", 10**18)
    assert "TMPDIR" in error.value.hint
