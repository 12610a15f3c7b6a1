"""Reading a shard: members where tarfile finds them; each kind of damage has its message."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import pytest
from fake_dataset import FakeEncoder, make_dataset

from xmdpt_cli.datasets.find import find_dataset
from xmdpt_cli.prepare.pipeline import prepare_dataset
from xmdpt_cli.prepare.verify_shard import TarWalk, walk_shard
from xmdpt_cli.storage.stores import LocalStore


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("walk")
    root = make_dataset(folder / "raw", train=2, test=1)
    prepare_dataset(find_dataset(root), folder / "out", size=32, encoder=FakeEncoder())
    return folder / "out"


@pytest.fixture
def out(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "out"))


def test_members_and_offsets_equal_those_of_tarfile(prepared: Path) -> None:
    data = (prepared / "train-000000.tar").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        want = [(info.name, info.offset_data, info.size) for info in tar]
    members = list(TarWalk(LocalStore(prepared), "train-000000.tar"))
    assert [(m.name, *m.place) for m in members] == want
    assert all(data[m.offset : m.offset + len(m.data)] == m.data for m in members)


@pytest.mark.parametrize(
    ("keep", "more", "message"),
    [
        (1024, b"", ""),  # an end mark without padding is an end
        (1024, bytes(512) + b"x", "more data after the end mark"),
        (512, b"", "half an end mark"),
        (0, b"", "without an end mark"),
        (-100, b"", "without an end mark"),  # within the last member's padding
        (-512, b"", "runs past the end"),
    ],
)
def test_the_end_of_a_shard(out: Path, keep: int, more: bytes, message: str) -> None:
    shard = out / "train-000000.tar"
    last = list(TarWalk(LocalStore(out), shard.name))[-1]
    end = -(-(last.offset + len(last.data)) // 512) * 512  # where the end mark begins
    shard.write_bytes(shard.read_bytes()[: end + keep] + more)
    walked = walk_shard(LocalStore(out), shard.name, 32)
    assert message in walked.broken
    assert bool(walked.broken) == bool(message) == (not walked.complete)
