"""Commands as they are started: in any encoding, without a reader, a home or a working folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from xmdpt_cli.cli.app import build
from xmdpt_cli.cli.help import walk

pytestmark = pytest.mark.skipif(os.name == "nt", reason="of POSIX systems")
REPO = Path(__file__).resolve().parents[2]
ENCODINGS = ["cp1252", "latin-1", "ascii"]
#: a user without an entry in /etc/passwd and without HOME, as in containers
NOBODY = """
import os, pwd
def unknown(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = unknown
"""
HOMES = {"HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "XDG_CACHE_HOME", "XMDPT_CACHE"}
HOMES |= {"TORCH_HOME", "HF_HOME"}


def xmdpt(
    *arguments: str | bytes, before: str = "", **settings: Any
) -> subprocess.CompletedProcess[bytes]:
    code = f"{before}\nfrom xmdpt_cli.__main__ import main\nmain()\n"
    env = {**os.environ, **settings.pop("env", {})}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**env, "PYTHONPATH": str(REPO)},
        capture_output="stdout" not in settings,
        timeout=300,
        check=False,
        **settings,
    )


def images(folder: Path) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("é_1", "é_2"):
        Image.fromarray(rng.integers(0, 256, (64, 44, 3), np.uint8)).save(folder / f"{name}.png")
    return folder


HELP_OF_ALL = """
from xmdpt_cli.cli.app import build, run
from xmdpt_cli.cli.help import walk
from xmdpt_cli.utils.streams import prepare_streams
prepare_streams()
for path, _ in walk(build()):
    assert run([*path.split(), "--help"]) == 0, path
"""


def test_help_of_every_command_in_every_encoding() -> None:
    for encoding in ENCODINGS:
        done = subprocess.run(
            [sys.executable, "-c", HELP_OF_ALL],
            env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(REPO)},
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        assert done.stdout.count(b"Usage:") == len(list(walk(build())))


def test_results_are_shown_in_any_encoding(tmp_path: Path) -> None:
    """Names with accents, and characters that no Latin encoding has."""
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    here = tmp_path / "Zoë 黄"
    images(here / "g")
    images(here / "t")
    measure = ["evaluate", "--generated", "g", "--target", "t", "--psnr", "--ssim", "--protocol"]
    shown = xmdpt(*measure, "native", cwd=here, env=env)
    assert shown.returncode == 0, shown.stderr.decode()
    assert b"psnr" in shown.stdout.lower()
    for encoding in ENCODINGS:
        listed = xmdpt("status", "--json", cwd=here, env={"PYTHONIOENCODING": encoding})
        assert listed.returncode == 0, listed.stderr.decode()
        json.loads(listed.stdout.decode("ascii"))
        shown = xmdpt("status", cwd=here, env={"PYTHONIOENCODING": encoding})
        assert shown.returncode == 0, shown.stderr.decode()
        assert rb"\u9ec4" in shown.stdout


CLOSED = "import os, sys\nos.close(1); sys.stdout = None\n"


@pytest.mark.parametrize("arguments", [["presets"], ["presets", "--json"], ["train", "--help"]])
def test_a_closed_pipe_or_stdout_is_not_a_failure(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as gone:
        done = xmdpt(*arguments, stdout=gone, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")
    done = xmdpt(*arguments, before=CLOSED)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="of Linux")
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_full_disk_behind_stdout_is_a_failure(more: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = xmdpt("presets", *more, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr.startswith(b"error: ")
    assert b"No space left" in done.stderr
    assert b"Traceback" not in done.stderr


def test_without_home_caches_go_to_a_private_folder_with_a_message(tmp_path: Path) -> None:
    """And what is printed does not land in the file that gets the number of the closed stream."""
    images(tmp_path / "work" / "g")
    images(tmp_path / "work" / "t")
    (tmp_path / "tmp").mkdir()
    kept = {key: value for key, value in os.environ.items() if key not in HOMES}
    drop = NOBODY + f"for name in {sorted(HOMES)!r}:\n    os.environ.pop(name, None)\n"
    done = xmdpt(
        "evaluate", "--generated", "g", "--target", "t", "--fid",
        "--protocol", "native", "--inception-weights", "toyconv",
        "--out", "r.json", before=drop + CLOSED, cwd=tmp_path / "work",
        env={**kept, "TMPDIR": str(tmp_path / "tmp")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    (home,) = (tmp_path / "tmp").glob("xmdpt-home-*")
    assert f"no home directory (HOME is not set): libraries keep their files in {home}" in (
        done.stderr.decode()
    )
    assert done.stdout == b""
    assert json.loads((tmp_path / "work" / "r.json").read_text())
    assert list(home.rglob("reference/*.npz"))
    assert home.stat().st_mode & 0o077 == 0
    assert not (tmp_path / "work" / "~").exists()


GONE = "import os, tempfile\nhere = tempfile.mkdtemp()\nos.chdir(here); os.rmdir(here)\n"


@pytest.mark.parametrize("arguments", [["sample", "--out", "x"], []])
def test_a_deleted_working_folder_is_refused(arguments: list[str]) -> None:
    done = xmdpt(*arguments, before=GONE)
    assert done.returncode == 1
    assert b"error: the working folder was deleted" in done.stderr
    assert b"hint: cd to a folder that exists" in done.stderr
    assert xmdpt("train", "--help", before=GONE).returncode == 0


def test_arguments_that_are_not_text_are_refused(tmp_path: Path) -> None:
    for arguments, env in ((["sample", b"--out", b"a\xff"], {}), (["sample"], BAD_VARIABLE)):
        done = xmdpt(*arguments, cwd=tmp_path, env=env)
        assert done.returncode == 2
        assert rb"b'a\xff' is not UTF-8" in done.stderr
        assert b"hint: rename that file or folder" in done.stderr
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = xmdpt("sample", "--out", "é".encode(), cwd=tmp_path, env=plain)
    assert done.returncode == 2
    assert b"PYTHONUTF8=1" in done.stderr
    assert list(tmp_path.iterdir()) == []


BAD_VARIABLE = {"XMDPT_SAMPLE_OUT": os.fsdecode(b"a\xff")}
