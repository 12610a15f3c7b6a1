"""Stores behind URLs: in memory, over sftp from a real sshd, over HTTP from a real nginx."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from servers import Server, free_port, nginx, sshd

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.storage import remote
from xmdpt_cli.storage.remote import RemoteStore
from xmdpt_cli.storage.stores import LocalStore, Store, open_store


@pytest.fixture(scope="module")
def ssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    with sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def key(ssh: tuple[Server, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The key of FSSPEC_SFTP_KEY_FILENAME, and a home without known hosts."""
    config = pytest.importorskip("fsspec.config")
    pytest.importorskip("paramiko")
    monkeypatch.setitem(config.conf, "sftp", {"key_filename": str(ssh[1]), "allow_agent": False})
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "WAIT", 0.01)


def sftp_url(server: Server, folder: Path) -> str:
    return f"sftp://{getpass.getuser()}@127.0.0.1:{server.port}{folder}"


@pytest.fixture(params=["local", "file", "memory", "sftp"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty folder that does not exist yet, of every kind that is written."""
    folder = tmp_path / "below" / "set"
    if request.param == "local":
        return open_store(folder)
    if request.param == "file":
        return open_store(f"file://{folder}")
    if request.param == "memory":
        return open_store(f"memory://{tmp_path.name}/set")
    request.getfixturevalue("key")
    return open_store(sftp_url(request.getfixturevalue("ssh")[0], folder))


def test_written_files_are_read_back(store: Store) -> None:
    assert store.size("a.json") is None
    assert store.names() == []
    with pytest.raises(FileNotFoundError):
        store.read("a.json")
    with pytest.raises(FileNotFoundError):
        store.read_range("a.json", 0, 4)
    store.remove("a.json")
    store.write("a.json", '{"ä": 1}'.encode())
    store.write("a.json", b'{"b": 22}')  # over the old one
    data = bytes(range(256)) * 1000
    for content in (b"old", data):
        file = store.scratch("train.tar")
        file.write_bytes(content)
        store.put(file, "train.tar")
        assert not file.exists()
    assert store.names() == ["a.json", "train.tar"]
    assert store.size("train.tar") == len(data)
    assert store.size("a.json") == 9
    assert store.read("a.json") == b'{"b": 22}'
    assert store.read("train.tar") == data
    assert store.read_range("train.tar", 100, 70_000) == data[100:70_100]
    assert store.read_range("train.tar", len(data) - 5, 100) == data[-5:]
    assert store.read_range("train.tar", len(data) + 5, 100) == b""
    store.remove("a.json")
    assert store.names() == ["train.tar"]


def test_threads_have_their_own_connections(store: Store) -> None:
    store.write("a", bytes(range(256)) * 200)
    wrong: list[object] = []

    def read(number: int) -> None:
        for i in range(5):
            if store.read_range("a", 256 * i + number, 3) != bytes(range(number, number + 3)):
                wrong.append((number, i))

    threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_scratch_files_are_removed_at_exit(tmp_path: Path) -> None:
    code = (
        "from xmdpt_cli.storage.stores import open_store\n"
        "file = open_store('memory://x').scratch('a.tar')\n"
        "file.write_bytes(b'left behind')\n"
        "print(file)\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert Path(result.stdout.strip()).is_relative_to(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_neither_store_imports_fsspec_early() -> None:
    code = (
        "import sys, xmdpt_cli.storage.stores, xmdpt_cli.storage.remote\n"
        "xmdpt_cli.storage.stores.open_store('s3://bucket/folder')\n"
        "assert not {'fsspec', 'paramiko', 'aiohttp', 'torch'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# what goes wrong


@pytest.mark.parametrize(
    ("url", "message", "hint"),
    [
        ("foo://x/y", "no such kind of URL: foo://", "sftp://"),
        ("sftp://me:geheim@127.0.0.1:{port}/x", "Unable to connect", "the server runs"),
        ("http://me:geheim@127.0.0.1:{port}/x", "Cannot connect", "the server runs"),
        ("http://me:geheim@no-such-host.invalid/x", "Cannot connect", "the address"),
    ],
)
def test_unreachable_urls_are_an_error(url: str, message: str, hint: str) -> None:
    pytest.importorskip({"sf": "paramiko", "ht": "aiohttp"}.get(url[:2], "fsspec"))
    store = open_store(url.format(port=free_port()))
    began = time.monotonic()
    for ask in (store.read, store.size):
        with pytest.raises(XmdptError, match=message) as error:
            ask("dataset.json")
        assert hint in error.value.hint
        assert "geheim" not in error.value.message + error.value.hint + store.url
    assert time.monotonic() - began < 8  # a server that was never there is not waited for


@pytest.mark.parametrize(
    ("url", "module", "extra"),
    [
        ("s3://bucket/x", "s3fs", "s3"),
        ("gs://bucket/x", "gcsfs", "gcs"),
        ("sftp://host/x", "paramiko", "sftp"),
        ("https://host/x", "aiohttp", "http"),
    ],
)
def test_a_missing_library_is_an_error_with_its_package(url: str, module: str, extra: str) -> None:
    code = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from xmdpt_cli.errors import XmdptError\n"
        "from xmdpt_cli.storage.stores import open_store\n"
        "try:\n"
        f"    open_store({url!r}).read('dataset.json')\n"
        "except XmdptError as err:\n"
        "    print(err.hint)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == f"pip install 'xmdpt-cli[{extra}]'\n"


def test_a_failed_upload_leaves_the_old_file(
    monkeypatch: pytest.MonkeyPatch, key: None, ssh: tuple[Server, Path], tmp_path: Path
) -> None:
    store = RemoteStore(sftp_url(ssh[0], tmp_path / "set"))
    store.write("dataset.json", b"whole")
    monkeypatch.setattr(remote, "_rename", lambda *_: (_ for _ in ()).throw(OSError("Failure")))
    with pytest.raises(XmdptError, match=r"cannot write sftp://.*dataset\.json: Failure"):
        store.write("dataset.json", b"half")
    assert (tmp_path / "set" / "dataset.json").read_bytes() == b"whole"


@pytest.mark.usefixtures("key")
def test_a_refused_key_is_an_error(
    ssh: tuple[Server, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec.config

    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
    refused = {"key_filename": str(other), "allow_agent": False, "look_for_keys": False}
    monkeypatch.setitem(fsspec.config.conf, "sftp", refused)
    with pytest.raises(XmdptError, match="Authentication failed") as error:
        open_store(sftp_url(ssh[0], tmp_path)).read("dataset.json")
    assert "FSSPEC_SFTP_KEY_FILENAME" in error.value.hint


@pytest.mark.usefixtures("key")
def test_a_server_with_another_key_than_known_hosts_lists(
    ssh: tuple[Server, Path], tmp_path: Path
) -> None:
    server, user_key = ssh
    known = tmp_path / "home" / ".ssh" / "known_hosts"
    known.parent.mkdir(parents=True)
    place = f"[127.0.0.1]:{server.port} "
    (tmp_path / "a").write_text("a")
    known.write_text(place + user_key.with_name("host_key.pub").read_text())
    assert open_store(sftp_url(server, tmp_path)).read("a") == b"a"
    known.write_text(place + user_key.with_suffix(".pub").read_text())
    with pytest.raises(XmdptError, match=r"not the one in .*known_hosts"):
        open_store(sftp_url(server, tmp_path)).read("a")


@pytest.mark.usefixtures("key")
def test_a_read_only_server_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec.config

    (tmp_path / "a").write_text("a")
    with sshd(tmp_path / "sshd", read_only=True) as (server, key):
        monkeypatch.setitem(fsspec.config.conf, "sftp", {"key_filename": str(key)})
        store = open_store(sftp_url(server, tmp_path))
        assert store.read("a") == b"a"
        with pytest.raises(XmdptError, match=r"cannot write .*Permission denied") as error:
            store.write("a", b"b")
    assert "choose another" in error.value.hint
    assert (tmp_path / "a").read_text() == "a"


@pytest.mark.usefixtures("key", "quick")
def test_an_sshd_that_restarts(
    ssh: tuple[Server, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ssh[0]
    store = open_store(sftp_url(server, tmp_path))
    data = os.urandom(3_000_000)
    file = store.scratch("big")
    file.write_bytes(data)
    store.put(file, "big")
    server.stop()
    with pytest.raises(XmdptError, match="cannot read sftp://"):
        store.read("big")
    file.write_bytes(data[:1000])
    with pytest.raises(XmdptError, match="cannot write sftp://"):
        store.put(file, "big")
    assert file.exists()  # nothing is lost
    monkeypatch.setattr(remote, "WAIT", 0.2)
    back = threading.Timer(0.3, server.start)
    back.start()
    assert store.read("big") == data
    back.join()
    server.stop()
    back = threading.Timer(0.3, server.start)
    back.start()
    store.put(file, "big")
    back.join()
    assert (tmp_path / "big").read_bytes() == data[:1000]


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[Server, str, Path]]:
    pytest.importorskip("aiohttp")
    served = tmp_path / "served"
    (served / "set").mkdir(parents=True)
    with nginx(tmp_path / "nginx", served) as (server, url):
        yield server, f"{url}/set/", served / "set"


def test_a_web_server_is_read_only(web: tuple[Server, str, Path]) -> None:
    _, url, folder = web
    data = os.urandom(300_000)
    (folder / "a.tar").write_bytes(data)
    store = open_store(url)
    assert store.url == url.rstrip("/")
    assert store.size("a.tar") == len(data)
    assert store.size("b.tar") is None
    assert store.read("a.tar") == data
    assert store.read_range("a.tar", 1000, 250_000) == data[1000:251_000]
    assert store.read_range("a.tar", 299_999, 10) == data[-1:]
    assert store.read_range("a.tar", 300_000, 10) == b""
    with pytest.raises(FileNotFoundError):
        store.read("b.tar")
    file = store.scratch("b.tar")
    file.write_bytes(b"b")
    for write in (
        lambda: store.write("b", b"b"),
        lambda: store.put(file, "b.tar"),
        lambda: store.remove("a.tar"),
        store.names,
    ):
        with pytest.raises(XmdptError, match="web servers") as error:
            write()
        assert "sftp://" in error.value.hint
    with pytest.raises(XmdptError, match="ends with its path") as error:
        open_store(f"{url}?token=geheim")
    assert "geheim" not in error.value.message


def test_a_web_server_without_ranges(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    (tmp_path / "a").write_bytes(bytes(1000))
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        store = open_store(f"http://127.0.0.1:{server.server_port}")
        assert store.read("a") == bytes(1000)
        with pytest.raises(
            XmdptError, match="whole files instead of the requested ranges"
        ) as error:
            store.read_range("a", 10, 10)
        server.shutdown()
    assert "nginx" in error.value.hint


@pytest.mark.usefixtures("quick")
def test_an_nginx_that_restarts(
    web: tuple[Server, str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, url, folder = web
    (folder / "a").write_bytes(b"abc")
    store = open_store(url)
    assert store.read("a") == b"abc"
    server.stop()
    for ask in (store.read, store.size):
        with pytest.raises(XmdptError, match=r"cannot (read|look at) http://127"):
            ask("a")
    monkeypatch.setattr(remote, "WAIT", 0.2)
    back = threading.Timer(0.3, server.start)
    back.start()
    assert store.read("a") == b"abc"
    back.join()


class Flaky:
    """A file system that raises the given errors, then works."""

    def __init__(self, errors: list[Exception]) -> None:
        self.errors = errors

    def cat_file(self, path: str, **limits: int) -> bytes:
        if self.errors:
            raise self.errors.pop(0)
        return b"data"


class HttpError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("errors", "found"),
    [
        ([ConnectionResetError("reset")] * 4, "data"),
        ([ConnectionResetError("reset")] * 5, "again and again"),
        ([HttpError(503), TimeoutError(), EOFError()], "data"),
        ([HttpError(403)], "the name and the password"),
        ([PermissionError("no")], "the name and the password"),
        ([OSError("Failure")], "check the URL"),
    ],
)
def test_transient_errors_are_retried(
    monkeypatch: pytest.MonkeyPatch, errors: list[Exception], found: str
) -> None:
    import fsspec.core

    system: Any = Flaky(list(errors))
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda *_, **__: (system, "/x"))
    store = open_store("dav://host/x")
    if found == "data":
        assert store.read("a") == b"data"
    else:
        with pytest.raises(XmdptError) as error:
            store.read("a")
        assert found in error.value.hint
        assert system.errors == []


def test_urls_and_paths(tmp_path: Path) -> None:
    assert isinstance(open_store(tmp_path), LocalStore)
    assert open_store(f"file://{tmp_path}").folder == tmp_path
    assert open_store("sftp://host/x/").url == "sftp://host/x"
    assert open_store("sftp://host/x").folder is None
