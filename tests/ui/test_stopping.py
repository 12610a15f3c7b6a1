"""A signal ends the server of the page, and its files are removed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from test_serve import first_object, start

from xmdpt_cli.ui.hosts import Hosts
from xmdpt_cli.ui.uploads import LOCK, PREFIX, make_room, remove_stale, upload_folder

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends signals")


def started(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[subprocess.Popen[str], str]:
    pytest.importorskip("gradio", reason="the ui extra is not installed")
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
    process = start()
    return process, first_object(process)["url"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_server_and_removes_the_uploads(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, _ = started(tmp_path, monkeypatch)
    try:
        (own,) = tmp_path.glob(f"{PREFIX}*")
        (own / "upload.png").write_bytes(b"x")
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_killed_page_is_removed_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = started(tmp_path, monkeypatch)
    first.kill()
    first.communicate()
    (left,) = tmp_path.glob(f"{PREFIX}*")
    others = tmp_path / f"{PREFIX}of-another-program"  # no lock, so not the folder of a page
    others.mkdir()
    with monkeypatch.context() as here:
        here.setattr("tempfile.tempdir", str(tmp_path))
        with upload_folder() as folder:
            assert not left.exists()
            assert folder.parent == tmp_path
            remove_stale(tmp_path)
            assert folder.exists(), "a page that runs keeps its folder"
    assert list(tmp_path.iterdir()) == [others]


BUSY = """
import sys, threading, time
sys.path[:0] = {tests!r}
from test_serve import CHILD
import xmdpt_cli.ui.events as events

def busy(*_):
    while True:
        time.sleep(0.1)

import xmdpt_cli.ui.page as page
page.pose_handler = lambda *_: busy
exec(CHILD.format(tests={tests!r}))
"""


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_call_that_never_ends_does_not_prevent_the_stop(
    asynchronous: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``asynchronous``: the call blocks the event loop of the server; else one thread."""
    pytest.importorskip("gradio", reason="the ui extra is not installed")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
    code = BUSY.format(
        tests=[str(Path(__file__).parent), str(Path(__file__).parents[1] / "helpers")]
    )
    if asynchronous:
        code = code.replace("def busy", "async def busy")
    options = ["ui", "--model", "RUN", "--device", "cpu", "--json", "--port", "0"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "NO_PROXY": "*"},
    )
    try:
        url = first_object(process)["url"]
        body = json.dumps({"data": [None, None]}).encode()
        kind = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{url}gradio_api/call/pose", body, kind)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        assert "event_id" in opener.open(request, timeout=20).read().decode()
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert list(tmp_path.iterdir()) == []


def test_the_oldest_files_are_removed_to_make_room(tmp_path: Path) -> None:
    for number in range(4):
        path = tmp_path / str(number)
        path.write_bytes(bytes(10))
        os.utime(path, (number, number))
    (tmp_path / LOCK).touch()
    make_room(tmp_path, 25)
    assert sorted(path.name for path in tmp_path.iterdir()) == [LOCK, "2", "3"]


def test_host_names_of_a_local_and_a_public_page() -> None:
    here, out = Hosts("127.0.0.1"), Hosts("0.0.0.0", ["Page.Example."])
    for bound in ("::1", "::", "fe80::1", "localhost"):
        assert not Hosts(bound, [""]).known("")
        assert Hosts(bound).known("[::1]:7860")
    assert Hosts("my-machine").known("my-machine:7860")
    for name in ("localhost:7860", "127.0.0.1", "[::1]:80", "LOCALHOST"):
        assert here.known(name)
        assert out.known(name)
    for name in ("192.168.1.5:7860", "[fe80::1]:80", "page.example:443"):
        assert out.known(name)
        assert not here.known(name)
    for name in ("evil.example", "127.0.0.1.evil.example", "", "[", "localhost.evil.example"):
        assert not here.known(name)
        assert not out.known(name)
