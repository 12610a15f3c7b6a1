"""Passwords in URLs are neither printed nor stored; names of files do not act on a terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import nginx
from small_set import images, make_small

from xmdpt_cli.cli.app import run
from xmdpt_cli.cli.console import Talk, error, table
from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import write_text
from xmdpt_cli.storage.remote import RemoteStore
from xmdpt_cli.utils.redact import masked, masked_values, shown, visible, visible_json

Capture = pytest.CaptureFixture[str]
SECRET = "gehe1m-4711"


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("http://me:S@h/d", "http://me:***@h/d"),
        ("sftp://me:S@h:22/d", "sftp://me:***@h:22/d"),
        ("http://me:aS@b@h/d", "http://me:***@h/d"),
        ("http://me:a/S@h/d", "http://me:***@h/d"),
        ("http://me:a'S\"b@h/d", "http://me:***@h/d"),
        ("http://:S@h/d", "http://:***@h/d"),
        ("https://S@h/d", "https://***@h/d"),
        ("https://h/d?X-Amz-Signature=S&n=1", "https://h/d?X-Amz-Signature=***&n=1"),
        ("https://h/d?n=1&token=S#x", "https://h/d?n=1&token=***#x"),
        ("https://h/d?sv=1&amp;sig=S", "https://h/d?sv=1&amp;sig=***"),
        ("https://h/d?AWSAccessKeyId=S&access_token=S",
         "https://h/d?AWSAccessKeyId=***&access_token=***"),
        ("simplecache::https://me:S@h/d", "simplecache::https://me:***@h/d"),
    ],
)  # fmt: skip
def test_a_secret_in_a_url_is_masked(url: str, public: str) -> None:
    url = re.sub(r"S(?=[@&\"]|$|#)", SECRET, url)
    for around in ("{}", "see {} and more a@b", '"{}"', "cannot read {} : no"):
        assert masked(around.format(url)) == around.format(public)
    assert masked(masked(url)) == masked(url)


@pytest.mark.parametrize(
    ("typed", "public"),
    [("http:/me:S@host/d", "http:/me:***@host/d"), ("me:S@host/d", "me:***@host/d"),
     ("me:S@[::1]/d", "me:***@[::1]/d")],
)  # fmt: skip
def test_mistyped_urls_are_masked_where_they_are_shown(typed: str, public: str) -> None:
    assert shown(f"cannot read {typed.replace('S', SECRET)}: no") == f"cannot read {public}: no"


def test_incomplete_urls_are_an_error_and_not_a_bug(capsys: Capture) -> None:
    assert run(["train", "--data", f"http://me:{SECRET}@[bad/d"]) == 2
    errors = capsys.readouterr().err
    assert "not a URL" in errors
    assert SECRET not in errors


@pytest.mark.parametrize(
    "text",
    [
        "sftp://me@h/d",
        "http://h:8080/a@b",
        "http://h:80",
        "https://h/d?n=1",
        "a?token=b.png",
        '{"a":"http://h","b":"x@y"}',
        '{"a":"http://h:80","b":"x@y"}',
        "s3://bucket/key=1/x",
        "me@h:d",
        "C:\\a@b",
    ],
)
def test_other_text_is_unchanged(text: str) -> None:
    assert masked(text) == text


def test_control_characters_are_escaped() -> None:
    assert visible("a\x1b[2Jb\rc\x9bd\u202ee\udcff\x7f") == (
        "a\\x1b[2Jb\\rc\\x9bd\\u202ee\\udcff\\x7f"
    )
    assert visible("Zoë 李 👍\n\tx [y]") == "Zoë 李 👍\n\tx [y]"
    text = visible_json(json.dumps({"a": "\x1b\x9b\u202e\udcff"}, ensure_ascii=False))
    assert text.isascii()
    assert json.loads(text) == {"a": "\x1b\x9b\u202e\udcff"}


def test_console_output_is_masked_and_escaped(capsys: Capture) -> None:
    bad = f"http://me:{SECRET}@h/d \x1b[31m\udcff :smile: [bold]"
    talk = Talk()
    for print_text in (talk.say, talk.warn, talk.hint):
        print_text(bad)
    talk.result({}, table(bad, ["a", bad], [["b", bad]]), text=bad)
    Talk(as_json=True).result({bad: [bad, {"deep": bad}]})
    error(bad, bad)
    with talk.progress() as progress:
        progress("read", 1, 2, shard=bad)
    output = capsys.readouterr()
    for text in (output.out, output.err):
        assert SECRET not in text
        assert "\x1b" not in text
        assert ":smile:" in text
        assert "[bold]" in text
    assert f"{XmdptError(bad, bad)}{XmdptError(bad, bad).hint}".count(SECRET) == 0


def test_the_traceback_of_an_error_is_masked(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def broken(*_: Any) -> None:
        raise ValueError(f"http://me:{SECRET}@h/\x1b[2J")

    monkeypatch.setenv("XMDPT_DEBUG", "1")
    monkeypatch.setattr("xmdpt_cli.data.dataset.PairDataset.__init__", broken)
    assert run(["sample", "--data", "x://y", "--model", "m", "--out", "o"]) != 0
    monkeypatch.setattr("xmdpt_cli.cli.app.build", broken)
    assert run([]) == 3
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert SECRET not in err
    assert "\x1b" not in err


def test_stored_text_is_masked(tmp_path: Path) -> None:
    write_text(tmp_path / "a.toml", f'data = "http://me:{SECRET}@h/d"\n')
    assert (tmp_path / "a.toml").read_text() == 'data = "http://me:***@h/d"\n'
    assert masked_values({"a": [(f"http://me:{SECRET}@h", 1, None)]}) == {
        "a": [["http://me:***@h", 1, None]]
    }
    assert shown(f"http://me:{SECRET}@h\x1b") == "http://me:***@h\\x1b"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("masked")
    make_small(root)
    return root


@pytest.fixture(scope="module")
def host(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """host:port of a server that wants a name and a password."""
    pytest.importorskip("aiohttp")
    with nginx(tmp_path_factory.mktemp("nginx"), small / "data", "me", SECRET) as (_, url):
        yield url.removeprefix("http://")


@pytest.mark.usefixtures("short_estimates")
def test_the_password_of_a_dataset_is_in_no_output_and_in_no_file(
    host: str, small: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"http://me:{SECRET}@{host}"
    model = str(small / "model")
    off = ["--alexnet-weights", "off", "--inception-weights", "off"]
    commands = [
        ["prepare", "--check", url],
        ["prepare", "--check", url, "--json"],
        ["train", "--data", url, "--out", "run", "--size", "S", "--dry-run"],
        ["train", "--data", f"{url}/none", "--out", "run", "--size", "S"],
        ["sample", "--data", f"{url}?token={SECRET}", "--model", model, "--out", "out"],
        ["sample", "--data", url, "--model", model, "--out", "out", "--limit", "2",
         "--vae", str(small / "data/encoders/vae")],
        ["evaluate", "--data", url, "--generated", "out", *off],
        ["evaluate", "--data", url, "--generated", "out", "--json", *off],
        ["status"],
    ]  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for command in commands:
        run(command)
    output = capsys.readouterr()
    assert images(tmp_path / "out"), output.err
    assert "metrics.html" in {path.name for path in (tmp_path / "out").iterdir()}, output.err
    assert SECRET not in output.out + output.err
    assert "http://me:***@127.0.0.1" in output.out + output.err
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path


def test_a_password_in_netrc_is_used(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login me password {SECRET}\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("NO_PROXY", "*")
    with pytest.raises(XmdptError, match="cannot read"):
        RemoteStore(f"http://{host}").read("dataset.json")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    store = RemoteStore(f"http://{host}")
    assert json.loads(store.read("dataset.json"))["format"] == "xmdpt-dataset"
    with pytest.raises(XmdptError, match="cannot read"):  # the URL's own is taken
        RemoteStore(f"http://me:wrong@{host}").read("dataset.json")
    assert PairDataset(store, "test").path == f"http://{host}"
