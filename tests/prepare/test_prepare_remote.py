"""Preparing into a real sftp server, read back from a real web server."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_dataset import FakeEncoder, make_dataset
from hashes import hashes
from prepare_child import ended_well, start
from servers import Server, nginx, sshd

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.data.loader import load_pairs
from xmdpt_cli.data.sampler import PairIndices
from xmdpt_cli.datasets.find import find_dataset
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.prepare.pipeline import prepare_dataset
from xmdpt_cli.prepare.verify import check_dataset
from xmdpt_cli.report.dataset_page import write_report
from xmdpt_cli.storage.stores import open_store

HELPERS = Path(__file__).parents[1] / "helpers"
OPTIONS = {"size": 32, "items_per_shard": 2, "batch_size": 4}


@pytest.fixture(scope="module")
def ssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    pytest.importorskip("paramiko")
    with sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def config(
    ssh: tuple[Server, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """The environment that lets this and child processes in."""
    import fsspec.config

    settings = {"key_filename": str(ssh[1]), "allow_agent": False}
    monkeypatch.setitem(fsspec.config.conf, "sftp", settings)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return {"FSSPEC_SFTP_KEY_FILENAME": str(ssh[1]), "HOME": str(tmp_path / "home")}


def url_of(server: Server, folder: Path) -> str:
    return f"sftp://{getpass.getuser()}@127.0.0.1:{server.port}{folder}"


def test_an_interrupted_run_over_sftp_ends_with_the_bytes_of_a_local_one(
    ssh: tuple[Server, Path], config: dict[str, str], tmp_path: Path
) -> None:
    listing = find_dataset(make_dataset(tmp_path / "raw"))
    prepare_dataset(listing, tmp_path / "local", encoder=FakeEncoder(), **OPTIONS)
    out, url = tmp_path / "remote", url_of(ssh[0], tmp_path / "remote")

    class Interrupted(FakeEncoder):
        def encode(self, images: object, poses: object) -> dict[str, torch.Tensor]:
            if len(self.calls) == 6:
                raise KeyboardInterrupt
            return super().encode(images, poses)  # type: ignore[arg-type]

    with pytest.raises(KeyboardInterrupt):
        prepare_dataset(listing, url, encoder=Interrupted(), **OPTIONS)
    assert "train-000000.tar" in hashes(out)
    encoder = FakeEncoder()
    manifest = prepare_dataset(listing, url, encoder=encoder, **OPTIONS)
    assert encoder.calls == [4, 4, 2, 2, 3, 3, 4, 4]  # the first shard is not made again
    assert hashes(out) == hashes(tmp_path / "local")
    assert check_dataset(open_store(url)).ok
    with pytest.raises(XmdptError, match="was started with other settings"):
        prepare_dataset(listing, url, encoder=FakeEncoder("other"), **OPTIONS)
    assert prepare_dataset(listing, url, encoder=FakeEncoder(), **OPTIONS) == manifest


def test_two_ranks_over_sftp(
    ssh: tuple[Server, Path], config: dict[str, str], tmp_path: Path
) -> None:
    root = make_dataset(tmp_path / "raw")
    prepare_dataset(find_dataset(root), tmp_path / "local", encoder=FakeEncoder(), **OPTIONS)
    url = url_of(ssh[0], tmp_path / "remote")
    for child in [start(root, url, rank=rank, world=2, env=config) for rank in (0, 1)]:
        ended_well(child)
    assert hashes(tmp_path / "remote") == hashes(tmp_path / "local")


def test_a_prepared_dataset_is_read_over_http(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    served = tmp_path / "served"
    listing = find_dataset(make_dataset(tmp_path / "raw"))
    prepare_dataset(listing, served / "set", encoder=FakeEncoder(), **OPTIONS)
    with nginx(tmp_path, served) as (_, address):
        url = f"{address}/set"
        near, far = PairDataset(served / "set"), PairDataset(url)
        want, got = (load_pairs(dataset, PairIndices.listed([7])) for dataset in (near, far))
        assert torch.equal(got.source_tokens, want.source_tokens)
        assert torch.equal(got.target_moments, want.target_moments)
        key, view = near.views()[4]
        np.testing.assert_array_equal(far.image(key, view), near.image(key, view))
        assert check_dataset(open_store(url)).ok
        with pytest.raises(XmdptError, match="web servers are read only"):
            write_report(open_store(url))
        with pytest.raises(XmdptError, match="web servers are read only"):
            prepare_dataset(listing, f"{address}/other", encoder=FakeEncoder(), **OPTIONS)
