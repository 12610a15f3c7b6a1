"""Which addresses the page listens on, and the errors when it cannot be served."""

from __future__ import annotations

import builtins
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from xmdpt_cli.cli.app import run
from xmdpt_cli.encoders.places import check_encoders
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.ui.serve import address, check_gradio, listen


def test_a_taken_port_is_reported_with_a_hint() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(XmdptError, match=f"port {port} of 127.0.0.1 is taken") as caught:
            listen("127.0.0.1", port)
        assert "--port 0" in caught.value.hint


def test_an_address_of_another_machine_is_a_usage_error() -> None:
    with pytest.raises(ConfigError, match=r"cannot listen on 192\.0\.2\.1"):
        listen("192.0.2.1", 0)  # reserved for documentation (RFC 5737)


def test_the_url_works_on_this_machine() -> None:
    for host in ("127.0.0.1", "0.0.0.0"):
        with listen(host, 0) as listener:
            assert address(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}/"


def test_without_gradio_the_hint_installs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "gradio":
            raise ImportError("No module named 'gradio'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    assert run(["ui", "--model", str(tmp_path)]) == 1
    assert "hint: pip install 'xmdpt-cli[ui]'" in capsys.readouterr().err


def test_without_a_model_the_hint_makes_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("xmdpt_cli.toy.pretrained.FOLDER", tmp_path / "none")
    assert run(["ui"]) == 2
    err = capsys.readouterr().err
    assert "no model in runs/" in err
    assert "xmdpt demo" in err


def test_without_a_model_the_model_of_the_demo_is_opened(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "xmdpt-demo" / "run-tokens" / "model"
    model.mkdir(parents=True)
    (model / "xmdpt.json").write_text('{"format": "xmdpt-model", "resolution": 64}')
    assert run(["ui", "--port", "0"]) == 1  # the model is chosen, and it is broken
    err = capsys.readouterr().err.replace("\n", " ")
    assert "model: xmdpt-demo/run-tokens (from xmdpt demo)" in err
    assert "xmdpt-demo/run-tokens" in err.split("error:")[1]


def test_a_wrong_encoders_folder_is_reported_before_the_port_opens(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("xmdpt_cli.ui.serve.listen", lambda *_: pytest.fail("the port is open"))
    wrong = ["ui", "--model", str(tmp_path), "--encoders", str(tmp_path / "none")]
    assert run(wrong) == 2
    assert "is not a folder" in capsys.readouterr().err.replace("\n", " ")
    (tmp_path / "none" / "vae").mkdir(parents=True)
    assert run(wrong) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert "has no dino_source/, dino_pose/" in err
    assert "hint: name a folder with vae/, dino_source/, dino_pose/" in err
    check_encoders(tmp_path / "none", {"dino_source", "dino_pose"})  # given by other options
    for name in ("dino_source", "dino_pose"):
        (tmp_path / "none" / name).mkdir()
    check_encoders(tmp_path / "none")


CHILD = """
import sys
sys.path[:0] = {tests!r}
from fake_pipeline import FakePipeline
from xmdpt_cli.sampling import pipeline

class XMDPTPipeline(FakePipeline):
    @classmethod
    def from_pretrained(cls, folder, **options):
        print(sorted(options.items()), file=sys.stderr)
        return cls()

pipeline.XMDPTPipeline = XMDPTPipeline
from xmdpt_cli.cli.app import run
sys.exit(run(sys.argv[1:]))
"""


def start(*arguments: str) -> subprocess.Popen[str]:
    code = CHILD.format(
        tests=[str(Path(__file__).parent), str(Path(__file__).parents[1] / "helpers")]
    )
    command = [sys.executable, "-c", code, "ui", "--model", "RUN", "--device", "cpu", "--json"]
    return subprocess.Popen(
        [*command, "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "NO_PROXY": "*"},
    )


def first_object(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        if line.startswith("}"):
            return json.loads(text)
    raise AssertionError(process.stderr and process.stderr.read())


def listening(port: int) -> set[str]:
    """The addresses that a port listens on, from /proc/net/tcp."""
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        local, state = line.split()[1], line.split()[3]
        host, at = local.split(":")
        if state == "0A" and int(at, 16) == port:
            found.add(socket.inet_ntoa(bytes.fromhex(host)[::-1]))
    return found


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs /proc/net/tcp")
@pytest.mark.parametrize("host", [None, "0.0.0.0"])
def test_the_page_listens_on_loopback_by_default(
    host: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import signal
    import urllib.request

    pytest.importorskip("gradio", reason="the ui extra is not installed")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    process = start(*(["--host", host] if host else []), "--openpose", "DIR")
    try:
        started = first_object(process)
        assert started["toy"] is True
        port = int(started["url"].rsplit(":", 1)[1].strip("/"))
        assert listening(port) == {host or "127.0.0.1"}
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        page = opener.open(started["url"], timeout=20).read().decode()
        assert "TOY model" in page
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert "('openpose', 'DIR')" in err
    assert ("without a password" in err) is (host is not None)
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []  # the uploads are removed


def test_the_analytics_of_gradio_are_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gradio", reason="the ui extra is not installed")
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "True")
    check_gradio()
    from gradio.analytics import analytics_enabled

    assert not analytics_enabled()
