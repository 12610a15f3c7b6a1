"""Files are complete or absent."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from encoder_records import encoder_records

from xmdpt_cli.datasets.export import write_annotations
from xmdpt_cli.encoders.weights import find, save_folder
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import atomic_write, content, expanded, is_hidden, left_by_system, write_bytes
from xmdpt_cli.images import save_png
from xmdpt_cli.metrics.reference_set import cache_folder
from xmdpt_cli.model.published import save_published
from xmdpt_cli.prepare.dataset_folder import check_output_folder
from xmdpt_cli.report import dataset_page as report
from xmdpt_cli.sampling.dataset_images import _start as start_samples
from xmdpt_cli.storage.stores import LocalStore
from xmdpt_cli.toy.synthetic import make_synthetic
from xmdpt_cli.training.config import TrainConfig
from xmdpt_cli.training.run_folder import RUN, start_run
from xmdpt_cli.training.task import TrainTask
from xmdpt_cli.vae_training import folder as vae_folder
from xmdpt_cli.vae_training.config import VaeConfig


def test_a_full_disk_keeps_the_old_file_and_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.json"
    write_bytes(path, b"before")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_bytes(path, b"after")
    assert caught.value.filename == str(path)
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]
    assert path.read_bytes() == b"before"


LEFT = [".DS_Store", "._sheet.png", "Thumbs.db", "desktop.ini", "__MACOSX", "lost+found"]
IDENTITY = {"settings": {}, "images": "", "start": "", "lpips_trunk": ""}
DATASET = SimpleNamespace(manifest={"shards": [], "encoders": encoder_records()})
BEGIN: dict[str, Callable[[Path], object]] = {
    "prepare": lambda out: check_output_folder(LocalStore(out)),
    "synth": lambda out: make_synthetic(
        out, people_train=1, people_test=1, views=2, height=32, workers=0
    ),
    "sample": lambda out: start_samples(out, {"format": "xmdpt-samples"}),
    "finetune-vae": lambda out: vae_folder.start_training(out, IDENTITY, VaeConfig()),
    "train": lambda out: start_run(out, TrainTask(TrainConfig(), DATASET)),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("command", BEGIN)
def test_files_of_the_system_do_not_count_as_content(tmp_path: Path, command: str) -> None:
    for name in LEFT:
        assert left_by_system(name)
        (tmp_path / name).mkdir() if name in ("__MACOSX", "lost+found") else (
            tmp_path / name
        ).write_bytes(b"x")
    assert content(tmp_path) == content(tmp_path / "nowhere") == []
    BEGIN[command](tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "diary.txt").write_text("mine")
    with pytest.raises(XmdptError, match="not empty"):
        BEGIN[command](other)


def test_names() -> None:
    for name in ("front.png", "DS_Store", "_a.png", "thumbs.db.png", "samples.json"):
        assert not is_hidden(name)
    for name in (".ds_store", "THUMBS.DB", "Desktop.ini", ".nfs0001", ".Trash-1000"):
        assert left_by_system(name)
    assert is_hidden(".front.png")
    assert not left_by_system(".lock")  # another program's, or ours


@pytest.mark.parametrize("command", ["train", "finetune-vae"])
def test_a_full_disk_at_the_start_does_not_lock_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    for killed in (0, 1):
        out, count = tmp_path / str(killed), iter(range(9))
        with monkeypatch.context() as patch:

            def fsync(_: int, killed: int = killed, count: Iterator[int] = count) -> None:
                if next(count) == killed:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            patch.setattr(os, "fsync", fsync)
            with pytest.raises((OSError, XmdptError)):
                BEGIN[command](out)
        (out / f"{RUN}.part").touch()  # of a kill
        BEGIN[command](out)
        assert {"config.toml", RUN} <= set(content(out))


def test_an_unknown_home_is_a_known_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert expanded("~/vae") == Path("/home/me/vae")
    assert expanded("~nobody-of-this-name/vae") == Path("~nobody-of-this-name/vae")
    with pytest.raises(XmdptError, match="no such VAE folder: ~nobody-of-this-name/vae"):
        find("~nobody-of-this-name/vae", what="VAE", stem="x", revision=None, hint="")


def test_the_cache_of_a_user_without_a_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unknown(*_: object) -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("XMDPT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert cache_folder() == tmp_path / f"xmdpt-home-{os.getuid()}" / ".cache" / "xmdpt"


class Interrupted(BaseException):
    """Any end that is no Exception, as KeyboardInterrupt."""


def test_unfinished_files_are_removed_after_any_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise Interrupted

    def replace_half() -> None:
        with atomic_write(tmp_path / "a.bin") as part:
            part.write_bytes(b"half")
            raise Interrupted

    with pytest.raises(Interrupted):
        replace_half()
    write = Path.write_bytes

    def half(path: Path, data: bytes) -> None:
        write(path, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="No space left") as caught:
        save_png(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8))
    assert caught.value.filename == str(tmp_path / "a.png")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda handle: half(tmp_path / "a.bin", b""))
        with pytest.raises(XmdptError, match="cannot write"):
            report._put(LocalStore(tmp_path), "sheet.png", b"1234")
    (tmp_path / "a.bin").unlink()
    monkeypatch.setattr(Path, "replace", broken)
    with pytest.raises(Interrupted):
        save_published(tmp_path / "a.pt", {"a": torch.zeros(2)})
    with pytest.raises(Interrupted):
        write_annotations([("train", "a/b.png", np.zeros((18, 2)))], tmp_path, csv=False)
    with pytest.raises(Interrupted):
        save_folder(tmp_path / "vae", broken)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file() or "part" in p.name] == []


def test_the_files_of_a_folder_get_the_permissions_of_new_files(tmp_path: Path) -> None:
    (tmp_path / "new").touch()
    with atomic_write(tmp_path / "folder") as part:
        (part / "below").mkdir(parents=True)
        for file in (part / "a", part / "below" / "b"):
            file.touch(mode=0o600)
    for file in (tmp_path / "folder" / "a", tmp_path / "folder" / "below" / "b"):
        assert file.stat().st_mode == (tmp_path / "new").stat().st_mode
