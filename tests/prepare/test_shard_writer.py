"""Shards as other programs see them (tarfile, webdataset, safetensors) and as we read them."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load as load_safetensors

from xmdpt_cli.data.index import ShardIndex, index_name, read_index
from xmdpt_cli.data.shard_reader import ShardReader
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.prepare.shard_writer import ShardWriter, ViewData
from xmdpt_cli.storage.stores import LocalStore

KEYS = ("MEN-Denim-id_00000001-01", "WOMEN-Tees_Tanks-id_00000002-03")
PAIRS = [("2_side", "1_front", 4), ("1_front", "2_side", 0)]


def make_view(seed: int) -> ViewData:
    rng = np.random.Generator(np.random.PCG64(seed))
    points = rng.uniform(0, 64, (18, 2))
    points[3] = np.nan
    noise = torch.from_numpy(rng.standard_normal((5, 7)).astype(np.float32))
    features = {
        "moments": noise.reshape(5, 7, 1).half(),
        "source_tokens": noise.bfloat16(),
        "odd": noise[:3, :3].flatten().bfloat16(),  # 18 bytes: the next tensor must stay aligned
        "exact": noise.clone(),
    }
    return ViewData(f"{seed}.jpg", b"not really a png" * (seed + 1), points, features)


def make_shard(path: Path) -> ShardIndex:
    with ShardWriter(LocalStore(path.parent), path.name, "train") as writer:
        for number, key in enumerate(KEYS):
            views = {"2_side": make_view(10 * number), "1_front": make_view(10 * number + 1)}
            writer.add(key, views, PAIRS)
        return writer.finish([("a.jpg", "broken")])


def test_the_tar_is_sorted_and_holds_no_times(tmp_path: Path) -> None:
    path = tmp_path / "train-000000.tar"
    make_shard(path)
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    names = [member.name for member in members]
    assert names == [
        f"{key}.{rest}"
        for key in KEYS
        for rest in (
            "1_front.keypoints.npy", "1_front.png", "1_front.safetensors",
            "2_side.keypoints.npy", "2_side.png", "2_side.safetensors", "files.json",
                "pairs.json",
        )
    ]  # fmt: skip
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members} == {(0, 0, 0, "", "")}
    assert path.stat().st_size % 10240 == 0


def test_same_content_same_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / folder / "train-000000.tar" for folder in "ab"]
    for path in paths:
        path.parent.mkdir()
        make_shard(path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert (
        paths[0].with_name(index_name(paths[0].name)).read_bytes()
        == paths[1].with_name(index_name(paths[1].name)).read_bytes()
    )


def test_webdataset_reads_it(tmp_path: Path) -> None:
    import webdataset

    path = tmp_path / "train-000000.tar"
    make_shard(path)
    dataset = webdataset.WebDataset(str(path), shardshuffle=False).decode()
    samples = list(dataset)
    assert [sample["__key__"] for sample in samples] == list(KEYS)
    for number, sample in enumerate(samples):
        assert sample["pairs.json"] == [
            {"source": s, "target": t, "position": p} for s, t, p in PAIRS
        ]
        for view, seed in (("1_front", 10 * number + 1), ("2_side", 10 * number)):
            want = make_view(seed)
            assert sample[f"{view}.png"] == want.png
            np.testing.assert_array_equal(sample[f"{view}.keypoints.npy"], want.keypoints)
            features = load_safetensors(sample[f"{view}.safetensors"])
            assert features.keys() == want.features.keys()
            for name, tensor in want.features.items():
                assert features[name].dtype == tensor.dtype
                assert torch.equal(features[name], tensor)


def test_index_finds_every_tensor(tmp_path: Path) -> None:
    path = tmp_path / "train-000000.tar"
    made = make_shard(path)
    index = read_index(LocalStore(path.parent), path.name)
    assert index == made
    assert index.bytes == path.stat().st_size
    assert index.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert index.skipped == [("a.jpg", "broken")]
    content = path.read_bytes()
    for number, sample in enumerate(index.samples):
        assert sample.key == KEYS[number]
        assert sample.pairs == PAIRS
        for view, seed in (("1_front", 10 * number + 1), ("2_side", 10 * number)):
            want, place = make_view(seed), sample.views[view]
            begin, length = place.image
            assert content[begin : begin + length] == want.png
            begin, length = place.keypoints
            points = np.load(io.BytesIO(content[begin : begin + length]))
            np.testing.assert_array_equal(points, want.keypoints)
            assert place.tensors.keys() == want.features.keys()
            for name, tensor in want.features.items():
                stored = place.tensors[name]
                assert stored.shape == tuple(tensor.shape)
                raw = content[stored.offset : stored.offset + stored.bytes]
                assert raw == tensor.contiguous().view(torch.uint8).numpy().tobytes()


def test_unfinished_shard_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "train-000000.tar"

    def fail() -> None:
        with ShardWriter(LocalStore(path.parent), path.name, "train") as writer:
            writer.add(KEYS[0], {"1_front": make_view(0)}, [])
            assert not path.exists()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["no tar", "short tar", "no index", "broken index"])
def test_a_damaged_shard_is_not_complete(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "train-000000.tar"
    make_shard(path)
    assert read_index(LocalStore(path.parent), path.name) is not None
    if damage == "no tar":
        path.unlink()
    elif damage == "short tar":
        path.write_bytes(path.read_bytes()[:-512])
    elif damage == "no index":
        path.with_name(index_name(path.name)).unlink()
    else:
        path.with_name(index_name(path.name)).write_text(
            json.dumps({"version": 1, "bytes": path.stat().st_size})[:-4]
        )
    assert read_index(LocalStore(path.parent), path.name) is None


def test_an_empty_shard_is_a_valid_tar(tmp_path: Path) -> None:
    path = tmp_path / "train-000000.tar"
    with ShardWriter(LocalStore(path.parent), path.name, "train") as writer:
        writer.finish([])
    with tarfile.open(fileobj=io.BytesIO(path.read_bytes())) as tar:
        assert tar.getnames() == []
    index = read_index(LocalStore(path.parent), path.name)
    assert index is not None
    assert index.samples == []


def test_a_lost_shard_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "train-000000.tar"
    index = make_shard(path)
    path.unlink()
    begin, length = index.samples[0].views["1_front"].image
    with pytest.raises(XmdptError, match=r"train-000000\.tar"):
        ShardReader(LocalStore(path.parent), path.name).read(begin, np.empty(length, np.uint8))
