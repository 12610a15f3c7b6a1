"""A prepared dataset can be opened by other programs as described in docs/dataset-format.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_data import make_data

from xmdpt_cli.data.dataset import PairDataset

DOC = Path(__file__).resolve().parents[2] / "docs" / "dataset-format.md"


def test_the_code_in_the_docs_reads_the_same_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_data(tmp_path)
    (tmp_path / "data" / "256").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    code = re.findall(r"```python\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)
    assert len(code) == 2
    dataset = PairDataset(folder)
    found: dict[str, Any] = {}
    exec(compile(code[0], str(DOC), "exec"), found)  # leaves the last view of the last item
    key, view = found["item"]["__key__"], found["view"]
    assert (key, view) in dataset.views()
    np.testing.assert_array_equal(found["image"], dataset.image(key, view))
    np.testing.assert_array_equal(found["keypoints"], dataset.keypoints(key, view))
    assert found["features"].keys() == dataset.table.columns.keys()
    for name, tensor in found["features"].items():
        assert torch.equal(tensor, dataset.tensor(key, view, name)), name


def test_members_and_tensors_are_those_of_the_docs(tmp_path: Path) -> None:
    import webdataset as wds

    shard = make_data(tmp_path) / "train-000000.tar"
    item = next(iter(wds.WebDataset(str(shard), shardshuffle=False)))
    listed = re.findall(r"^\| `([\w.]+)` \|", DOC.read_text(encoding="utf-8"), re.MULTILINE)
    members = {re.sub(r"^\d_\w+\.", "VIEW.", name) for name in item if not name.startswith("__")}
    tensors = {n.removesuffix("_flip") for n in PairDataset(shard.parent).table.columns}
    assert sorted(listed) == sorted(members | tensors)
