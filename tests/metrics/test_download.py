"""Downloads of the metrics' weights: complete and checked, or one error that names all."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from encoder_records import encoder_records
from PIL import Image

from xmdpt_cli.cli import evaluate_inputs
from xmdpt_cli.cli.app import run
from xmdpt_cli.cli.console import Talk
from xmdpt_cli.cli.evaluate_networks import find_networks
from xmdpt_cli.cli.evaluate_options import EvaluateOptions
from xmdpt_cli.data.manifest import FORMAT, VERSION
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.metrics import download as module
from xmdpt_cli.metrics import features, lpips_metric
from xmdpt_cli.metrics.download import MIB, Published, choose, download
from xmdpt_cli.metrics.lpips_metric import LpipsNetwork
from xmdpt_cli.training.distributed import SINGLE_PROCESS

CONTENT = np.random.default_rng(0).bytes(3 * MIB + 5)


def named(content: bytes, name: str = "net") -> str:
    return f"{name}-{hashlib.sha256(content).hexdigest()[:8]}.pth"


class WeightServer(ThreadingHTTPServer):
    """Serves files from memory; ``cut``: only so many bytes are sent, ``hold``: then it waits."""

    daemon_threads = True

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.cut: int | None = None
        self.hold = False
        self.length = True  # send a Content-Length
        super().__init__(("127.0.0.1", 0), Handler)

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: WeightServer

    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        self.server.requests.append(name)
        content = self.server.files.get(name)
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        if self.server.length:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: self.server.cut])
        self.wfile.flush()
        while self.server.hold:
            time.sleep(0.05)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WeightServer]:
    """A server on loopback, an empty torch hub folder, and downloads allowed."""
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.delenv("TRANSFORMERS_OFFLINE")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with WeightServer() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.hold = False
        server.shutdown()


@pytest.fixture
def network(server: WeightServer) -> Published:
    name = named(CONTENT)
    server.files[name] = CONTENT
    return Published("net", "LPIPS", server.url(name), "--net-weights")


def left(network: Published) -> list[str]:
    """The files in torch hub's folder."""
    folder = network.path.parent
    return sorted(os.listdir(folder)) if folder.is_dir() else []


def test_a_file_is_downloaded_once_with_progress(server: WeightServer, network: Published) -> None:
    calls: list[tuple[str, int, int]] = []
    timeout, bar = module.socket.getdefaulttimeout(), torch.hub.tqdm
    download([network], lambda stage, done, total, **_: calls.append((stage, done, total)))
    assert network.path.read_bytes() == CONTENT
    assert network.path.parent.name == "checkpoints"
    assert left(network) == [network.path.name]
    assert calls[0] == ("download net", 0, 3)
    assert calls[-1] == ("download net", 3, 3)
    assert all(done < total for _, done, total in calls[:-1])
    assert (module.socket.getdefaulttimeout(), torch.hub.tqdm) == (timeout, bar)
    download([network])
    assert server.requests == [network.path.name]


def test_an_existing_file_is_used(server: WeightServer, network: Published) -> None:
    network.path.parent.mkdir(parents=True)
    network.path.write_bytes(b"mine")
    download([network])
    assert network.path.read_bytes() == b"mine"
    assert server.requests == []


def test_downloads_work_without_a_content_length(server: WeightServer, network: Published) -> None:
    server.length = False
    calls: list[tuple[int, int]] = []
    download([network], lambda stage, done, total, **_: calls.append((done, total)))
    assert network.path.read_bytes() == CONTENT
    assert calls[-1] == (3, 3)
    assert all(done < total for done, total in calls[:-1])


@pytest.mark.parametrize("trouble", ["cut", "changed", "404", "gone", "stalls", "no folder"])
def test_a_failed_download_leaves_no_file(
    server: WeightServer, network: Published, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if trouble == "cut":
        server.cut, reason = MIB, "not the published file"
    elif trouble == "changed":
        server.files[network.path.name] = b"x" + CONTENT[1:]
        reason = "not the published file"
    elif trouble == "404":
        del server.files[network.path.name]
        reason = "404"
    elif trouble == "gone":
        server.shutdown()
        server.server_close()  # nothing listens there any more
        reason = "refused"
    elif trouble == "stalls":
        server.cut, server.hold, reason = MIB, True, "nothing came"
        monkeypatch.setattr(module, "TIMEOUT", 0.3)
    else:
        network.path.parent.parent.mkdir(parents=True)
        network.path.parent.write_text("a file in the place of the folder")
        reason = "checkpoints"
    ended: list[bool] = []
    with pytest.raises(XmdptError, match=reason) as caught:
        download([network], lambda stage, done, total, **_: ended.append(done == total))
    assert not any(ended) or trouble == "changed"
    assert not network.path.exists()
    if network.path.parent.is_dir():
        assert left(network) == []
    for part in (network.url, str(network.path), "--net-weights PATH", "--net-weights off"):
        assert part in caught.value.hint


def test_all_missing_networks_are_named_in_one_error(
    server: WeightServer, network: Published
) -> None:
    gone = [
        Published(name, "FID", server.url(f"{name}-0123abcd.pth"), f"--{name}", ("toy", "toyconv"))
        for name in ("one", "two")
    ]
    with pytest.raises(XmdptError) as caught:
        download([gone[0], network, gone[1]])
    assert caught.value.message.count("is not on this machine") == 2
    assert network.path.is_file()  # the others are not given up
    for other in gone:
        assert f"{other.name}, for FID" in caught.value.message
        assert other.url in caught.value.hint
    assert "--one off --two off" in caught.value.hint
    assert "--one toyconv --two toyconv" in caught.value.hint


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_mode_sends_no_request(
    server: WeightServer, network: Published, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(XmdptError, match="HF_HUB_OFFLINE is set"):
        download([network])
    assert server.requests == []
    assert left(network) == []


def test_an_interrupted_download_leaves_no_file(server: WeightServer, network: Published) -> None:
    def interrupt(stage: str, done: int, total: int, /, **_: object) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download([network], interrupt)
    assert left(network) == []
    download([network])
    assert network.path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("load", "network"),
    [
        (lpips_metric.LpipsNetwork, lpips_metric.ALEXNET),
        (features.inception_features, features.INCEPTION),
        (features.tensorflow_features, features.TF_INCEPTION),
    ],
)
def test_missing_weights_are_named_with_url_path_and_option(
    load: Callable[[], object],
    network: Published,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # HF_HUB_OFFLINE is set
    with pytest.raises(XmdptError) as caught:
        load()
    for part in (network.url, str(tmp_path / "hub/checkpoints"), f"{network.option} PATH"):
        assert part in caught.value.hint


CHILD = (
    "import sys; from xmdpt_cli.metrics.download import Published, download\n"
    "print('ready', flush=True); sys.stdin.readline()\n"
    "download([Published('net', 'LPIPS', sys.argv[1], '--net-weights')])\n"
)


def start(network: Published) -> subprocess.Popen[str]:
    """A process that is about to download."""
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, network.url],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def go(child: subprocess.Popen[str]) -> None:
    assert child.stdout is not None
    assert child.stdin is not None
    assert child.stdout.readline() == "ready\n"
    child.stdin.write("\n")
    child.stdin.flush()


def test_partial_files_are_removed_and_two_processes_download_once(
    server: WeightServer, network: Published
) -> None:
    """A killed process leaves no complete file; of two processes one downloads, one waits."""
    killed, other = start(network), start(network)
    server.cut, server.hold = MIB, True
    go(killed)
    for _ in range(1000):
        if any(part.stat().st_size for part in network.path.parent.glob("*.partial")):
            break
        time.sleep(0.02)
    assert not network.path.exists()
    killed.kill()
    killed.communicate(timeout=60)
    assert len(left(network)) == 2  # the lock's file and the part, by their names

    server.cut, server.hold = None, False
    requested = len(server.requests)
    go(other)
    download([network])
    _, output = other.communicate(timeout=120)
    assert other.returncode == 0, output
    assert len(server.requests) == requested + 1
    assert network.path.read_bytes() == CONTENT
    assert left(network) == [network.path.name]  # the partial file is removed too


def test_choose_returns_the_networks_to_download(tmp_path: Path) -> None:
    lpips = Published("a", "LPIPS", "http://x/a-1234.pth", "--a")
    fid = Published("b", "FID", "http://x/b-1234.pth", "--b", ("toy", "toyconv"))
    file = tmp_path / "weights.pth"
    file.write_bytes(b"")
    assert choose({lpips: None, fid: "toyconv"}) == [lpips]
    assert choose({lpips: "off", fid: str(file)}) == []
    with pytest.raises(XmdptError) as caught:
        choose({lpips: "toyconv", fid: tmp_path / "no.pth"})
    assert caught.value.message == (
        f"no weights at toyconv (--a)\nno weights at {tmp_path / 'no.pth'} (--b)"
    )
    assert caught.value.hint == "name a file of weights, or: --a off|toy, --b off|toy|toyconv"


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    """Arguments of an evaluation of two folders."""
    rng = np.random.default_rng(0)
    for folder in ("made", "true"):
        (tmp_path / folder).mkdir()
        for i in range(3):
            image = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(image).save(tmp_path / folder / f"{i}.png")
    return ["evaluate", "--generated", str(tmp_path / "made"), "--target", str(tmp_path / "true")]


def test_evaluate_downloads_missing_weights(
    server: WeightServer,
    folders: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trunk = lpips_metric._untrained_trunk()
    state = {
        f"features.{name.split('.', 1)[1]}": tensor
        for name, tensor in trunk.net.state_dict().items()
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    name = named(buffer.getvalue(), "alexnet")
    server.files[name] = buffer.getvalue()
    monkeypatch.setattr(
        lpips_metric,
        "ALEXNET",
        Published("alexnet", "LPIPS", server.url(name), "--alexnet-weights"),
    )
    assert run([*folders, "--lpips", "--ssim", "--json"]) == 0
    output = capsys.readouterr()
    rows = json.loads(output.out)["rows"]["generated"]
    assert "lpips_alex_v0.1" in rows
    assert "ssim_w51" in rows
    assert "download alexnet: 0/" in output.err
    assert server.requests == [name]
    assert json.loads(output.out)["weights"]["lpips_alex_v0.1"].endswith(
        hashlib.sha256(buffer.getvalue()).hexdigest()  # and not "(not the published file)"
    )
    assert LpipsNetwork().weights == json.loads(output.out)["weights"]["lpips_alex_v0.1"]
    assert server.requests == [name]


def test_evaluate_stops_without_weights(
    folders: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))  # HF_HUB_OFFLINE is set
    monkeypatch.setattr(
        "xmdpt_cli.cli.evaluate_inputs.measure", lambda *_: pytest.fail("measured all the same")
    )
    assert run([*folders, "--protocol", "cfld", "--protocol", "clean"]) == 1
    output = capsys.readouterr().err
    for network in (lpips_metric.ALEXNET, features.INCEPTION, features.TF_INCEPTION):
        assert network.url in output
        assert str(network.path) in output
        assert f"{network.option} PATH" in output
    assert not (tmp_path / "made/metrics.json").exists()
    assert run([*folders, "--lpips"]) == 1
    output = capsys.readouterr().err
    assert "alexnet" in output
    assert "inception" not in output  # not needed for LPIPS


def test_ssim_and_psnr_need_no_weights(
    folders: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    assert run([*folders, "--ssim", "--psnr", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["rows"]["generated"]) == {
        "ssim_w51", "ssim_256", "psnr"
    }  # fmt: skip
    assert run([*folders, "--lpips", "--alexnet-weights", "toy", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["toy"] == ["lpips_alex_v0.1_toy"]
    assert run([*folders, "--lpips", "--ssim", "--alexnet-weights", "off", "--json"]) == 0
    output = capsys.readouterr()
    assert "metrics that need a network are left out: --alexnet-weights off" in output.err
    assert "lpips" not in output.out


def dataset(folder: Path, toy: bool) -> str:
    """A folder with only a manifest."""
    folder.mkdir()
    counts = {"items": 1, "images": 2, "pairs": 1}
    content = {
        "format": FORMAT, "version": VERSION, "toy": toy, "resolution": 64, "shards": [],
        "skipped": [], "counts": {"train": counts, "test": counts}, "encoders": encoder_records(),
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(content))
    return str(folder)


def test_missing_weights_are_found_before_images_are_generated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(
        evaluate_inputs, "generate_missing", lambda *_: pytest.fail("generated all the same")
    )
    (tmp_path / "model").mkdir()
    for name in ("config.json", "model.safetensors", "xmdpt.json"):
        (tmp_path / "model" / name).touch()
    data = dataset(tmp_path / "data", toy=False)
    assert run(["evaluate", "--model", str(tmp_path / "model"), "--data", data, "--lpips"]) == 1
    assert "alexnet, for LPIPS, is not on this machine" in capsys.readouterr().err


def test_toy_datasets_use_random_networks_with_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    weights = ("alexnet_weights", "inception_weights", "tf_inception_weights")
    chosen = EvaluateOptions(
        data=dataset(tmp_path / "data", toy=True),
        protocol=["cfld", "clean"],
        tf_inception_weights="off",
    )
    find_networks(chosen, SINGLE_PROCESS, Talk())
    assert [getattr(chosen, name) for name in weights] == ["toy", "toyconv", "off"]
    output = capsys.readouterr().err
    assert "toy dataset: LPIPS with random weights, named lpips_alex_v0.1_toy" in output
    assert "toy dataset: FID with random weights, named fid_toyconv" in output
    assert output.count("toy dataset") == 2
    find_networks(chosen, SINGLE_PROCESS, Talk())  # no second note
    assert capsys.readouterr().err == ""
