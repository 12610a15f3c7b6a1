"""What a hostile client or another site's page sends to the running page, as raw requests."""

from __future__ import annotations

import http.client
import json
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Running, wait_until
from fake_pipeline import FakePipeline
from PIL import Image

pytest.importorskip("gradio", reason="the ui extra is not installed")

SECRET = "open-sesame-4711"
FILE_INPUTS = {"file", "gallery", "image", "uploadbutton", "video", "audio", "imageeditor"}
BOUNDARY = "----boundary"


class Client:
    """Sends each request on a new connection, with the given headers."""

    def __init__(self, url: str) -> None:
        self.netloc = url.split("/")[2]

    def send(
        self, method: str, path: str, body: bytes = b"", timeout: float = 20, **headers: str
    ) -> tuple[int, str]:
        """Send a request. ``headers``: names with underscores; one at the end is removed."""
        connection = http.client.HTTPConnection(self.netloc, timeout=timeout)
        named = {name.rstrip("_").replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, body or None, named)
            answer = connection.getresponse()
            return answer.status, answer.read().decode("utf-8", "replace")
        finally:
            connection.close()

    def call(self, function: int, data: list[Any]) -> str:
        """Call an event by the queue, and return the complete answer."""
        session = f"s{time.monotonic_ns()}"
        join = {"fn_index": function, "data": data, "session_hash": session}
        status, text = self.send(
            "POST",
            "/gradio_api/queue/join",
            json.dumps(join).encode(),
            content_type="application/json",
        )
        if status != 200:
            return text
        return text + self._events(f"/gradio_api/queue/data?session_hash={session}")

    def _events(self, path: str) -> str:
        connection = http.client.HTTPConnection(self.netloc, timeout=20)
        try:
            connection.request("GET", path)
            answer, text = connection.getresponse(), ""
            while "process_completed" not in text and "close_stream" not in text:
                line = answer.readline().decode()
                if not line:
                    break
                text += line
            return text
        finally:
            connection.close()

    def upload(self, name: str, content: bytes, **headers: str) -> tuple[int, str]:
        where = f'Content-Disposition: form-data; name="files"; filename="{name}"'
        body = f"--{BOUNDARY}\r\n{where}\r\n\r\n".encode()
        return self.send(
            "POST",
            "/gradio_api/upload",
            body + content + f"\r\n--{BOUNDARY}--\r\n".encode(),
            content_type=f"multipart/form-data; boundary={BOUNDARY}",
            **headers,
        )


@pytest.fixture
def page(running: Running) -> Iterator[tuple[Client, FakePipeline, Path]]:
    """(client, pipeline, folder of the page)."""
    pipe = FakePipeline()
    with running(pipe) as url:
        yield Client(url), pipe, Path(os.environ["GRADIO_TEMP_DIR"])


def events(client: Client) -> list[tuple[str, int, list[str]]]:
    """(name, number, types of the inputs) of every event in the configuration of the page."""
    config = json.loads(client.send("GET", "/config")[1])
    kinds = {one["id"]: one["type"] for one in config["components"]}
    return [
        (str(event["api_name"]), event["id"], [kinds[i] for i in event["inputs"]])
        for event in config["dependencies"]
    ]


def file(path: str) -> dict[str, Any]:
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def attacks(folder: Path, secret: Path) -> dict[str, str]:
    """Paths that no client may read; some are created in the folder of the page."""
    (folder / "link.json").symlink_to(secret)
    (folder / "linked").symlink_to(secret.parent, target_is_directory=True)
    os.mkfifo(folder / "fifo.json")
    return {
        "absolute": str(secret),
        "climbing": f"{folder}/../{os.path.relpath(secret, folder.parent)}",
        "link": str(folder / "link.json"),
        "linked folder": str(folder / "linked" / secret.name),
        "fifo": str(folder / "fifo.json"),
        "folder": str(folder),
        "device": "/dev/zero",
        "process": "/proc/self/environ",
        "url": f"http://127.0.0.1:9/{secret.name}",
        "file url": f"file://{secret}",
        "no such file": str(secret.with_name("none.json")),
        "nul": f"{secret}\0.png",
    }


def test_no_event_reads_a_file_that_was_not_uploaded(
    page: tuple[Client, FakePipeline, Path], tmp_path: Path
) -> None:
    client, pipe, folder = page
    secret = tmp_path / "secret.json"
    secret.write_text(json.dumps({"people": SECRET}))
    listed = events(client)
    attacked = [event for event in listed if FILE_INPUTS & set(event[2])]
    assert {name for name, _, _ in attacked} >= {"generate", "inspect", "pose", "keypoints"}
    refusals = set()
    for name, number, kinds in listed:
        for what, path in attacks(folder, secret).items():
            # also in place of a text, which must not be opened either
            values = {"gallery": [{"image": file(path), "caption": None}], "number": 1}
            answer = client.call(number, [values.get(kind, file(path)) for kind in kinds])
            assert SECRET not in answer, (name, what)
            if FILE_INPUTS & set(kinds):
                assert "was not uploaded to this page" in answer, (name, what, answer)
                refusals.add(answer.split('"error":')[1].split(',"')[0])
                assert secret.name not in answer.replace(path, ""), (name, what)
        for path in ("link.json", "linked", "fifo.json"):
            (folder / path).unlink()
    assert len(refusals) == 1  # the message does not show which files exist
    assert pipe.calls == []


def test_a_path_without_the_mark_of_a_file_is_not_read(
    page: tuple[Client, FakePipeline, Path], tmp_path: Path
) -> None:
    client, _, _ = page
    secret = tmp_path / "secret.json"
    secret.write_text(SECRET)
    number = next(number for name, number, _ in events(client) if name == "pose")
    shapes: list[Any] = [{"path": str(secret)}, str(secret), [file(str(secret))], {"url": "x"}]
    for shape in shapes:
        assert SECRET not in client.call(number, [shape, None])


def test_an_uploaded_file_is_read(page: tuple[Client, FakePipeline, Path], person: Path) -> None:
    client, _, folder = page
    status, text = client.upload("a person.png", person.read_bytes())
    assert status == 200
    path = json.loads(text)[0]
    assert Path(path).is_relative_to(folder)
    number = next(number for name, number, _ in events(client) if name == "pose")
    assert "Pose found in a person.png" in client.call(number, [file(path), None])


def test_the_folder_is_private(page: tuple[Client, FakePipeline, Path]) -> None:
    assert stat.S_IMODE(page[2].stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=http://example.org/",
        "/gradio_api/file=HTTPS://example.org/",
        "/gradio_api/proxy=http://example.org/",
        "/gradio_api/file=../../../../etc/passwd",
    ],
)
def test_other_paths_are_not_served(page: tuple[Client, FakePipeline, Path], path: str) -> None:
    status, text = page[0].send("GET", path)
    assert status in (403, 404)
    assert "root:" not in text


def test_only_known_host_names_are_served(page: tuple[Client, FakePipeline, Path]) -> None:
    client, port = page[0], page[0].netloc.split(":")[1]
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "", "192.0.2.1"):
        status, text = client.send("GET", "/config", host_=host)
        assert status == 400, host
        assert "components" not in text
        assert client.upload("a.png", b"x", host_=host)[0] == 400
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}", "pages.example"):
        assert client.send("GET", "/config", host_=host)[0] == 200, host


def test_requests_of_other_sites_are_refused(page: tuple[Client, FakePipeline, Path]) -> None:
    client, _, folder = page
    before = set(folder.rglob("*"))
    number = events(client)[0][1]
    join = json.dumps({"fn_index": number, "data": [], "session_hash": "s"}).encode()
    foreign = ["https://evil.example", "null", "http://127.0.0.1:1", "http://localhost:3000", "x"]
    for origin in foreign:
        assert client.upload("a.png", b"x", origin=origin)[0] == 403, origin
        answer = client.send("POST", "/gradio_api/queue/join", join, origin=origin)
        assert answer[0] == 403, origin
    assert set(folder.rglob("*")) == before
    for origin in (f"http://{client.netloc}", "https://pages.example"):
        assert client.upload("a.png", b"x", origin=origin)[0] == 200, origin


def test_the_size_of_a_request_is_limited_whatever_its_stated_length(
    page: tuple[Client, FakePipeline, Path], monkeypatch: pytest.MonkeyPatch
) -> None:

    from xmdpt_cli.ui import request_filter

    client, _, folder = page
    monkeypatch.setattr(request_filter, "MOST_REQUEST", 100_000)
    monkeypatch.setattr(request_filter, "MOST_CALL", 1000)
    assert client.upload("a.png", bytes(99_000))[0] == 200
    assert client.upload("b.png", bytes(100_001))[0] == 413
    call = json.dumps({"data": ["x" * 1000], "fn_index": 0, "session_hash": "s"}).encode()
    assert client.send("POST", "/gradio_api/queue/join", call)[0] == 413
    # in chunks, without a length
    connection = http.client.HTTPConnection(client.netloc, timeout=20)
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="c"\r\n\r\n'
    chunks = [head.encode(), *([bytes(50_000)] * 4)]
    kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    connection.request("POST", "/gradio_api/upload", iter(chunks), kind, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()
    for path in ("call/pose", "queue/join", "call/generate"):
        connection = http.client.HTTPConnection(client.netloc, timeout=20)
        parts = iter([b'{"data": ["', *([b"x" * 900] * 4), b'"]}'])
        kind = {"Content-Type": "application/json"}
        connection.request("POST", f"/gradio_api/{path}", parts, kind, encode_chunked=True)
        answer = connection.getresponse()
        assert (answer.status, b"at once" in answer.read()) == (413, True), path
        connection.close()
    # the answer of Gradio to an invalid form
    assert client.send("POST", "/gradio_api/upload", b"x", content_type="text/plain")[0] == 400
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 200_000


def test_storage_is_limited_and_the_oldest_files_are_removed_first(
    page: tuple[Client, FakePipeline, Path], monkeypatch: pytest.MonkeyPatch
) -> None:

    from xmdpt_cli.ui import request_filter

    client, _, folder = page
    monkeypatch.setattr(request_filter, "MOST_TOTAL", 250_000)
    for number in range(5):
        assert client.upload(f"{number}.png", bytes([number]) * 80_000)[0] == 200
        time.sleep(0.02)
    kept = sorted(path.name for path in folder.rglob("*.png"))
    assert kept == ["2.png", "3.png", "4.png"] or kept == ["3.png", "4.png"]


def test_the_partial_file_of_an_interrupted_upload_is_removed(
    page: tuple[Client, FakePipeline, Path], tmp_path: Path
) -> None:
    from xmdpt_cli.ui.uploads import remove_parts

    client, _, folder = page
    host, port = client.netloc.split(":")
    where = 'Content-Disposition: form-data; name="files"; filename="a.png"'
    with socket.create_connection((host, int(port))) as broken:
        head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: {client.netloc}\r\nContent-Length: 9999"
        kind = f"Content-Type: multipart/form-data; boundary={BOUNDARY}"
        form = f"--{BOUNDARY}\r\n{where}\r\n\r\n"
        broken.sendall(f"{head}\r\n{kind}\r\n\r\n{form}".encode() + bytes(5000))
        wait_until(lambda: list(folder.glob("tmp*")), "the upload starts")
        assert client.upload("b.png", b"x")[0] == 200
        assert list(folder.glob("tmp*"))  # the file of the other request in progress stays
    wait_until(lambda: not list(folder.glob("tmp*")), "the partial file is removed")
    assert [path.name for path in folder.rglob("*.png")] == ["b.png"]
    for name, when in (("tmp-old", 1000), ("tmp-new", 2000), ("other", 1000)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (when, when))
    remove_parts(tmp_path, 1500)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "tmp-new"]


def test_results_are_saved_in_the_folder_of_the_page(
    page: tuple[Client, FakePipeline, Path], tmp_path: Path
) -> None:
    from xmdpt_cli.ui.files import save_images

    files, saved = save_images([Image.new("RGB", (8, 8))] * 2, 1)
    assert all(Path(one).is_relative_to(page[2]) for one in [*files, saved])
