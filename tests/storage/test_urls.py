"""A URL where a path or a hub id is taken is refused as it was typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from xmdpt_cli.cli.app import run
from xmdpt_cli.errors import ConfigError
from xmdpt_cli.sampling import hub
from xmdpt_cli.storage.stores import refuse_url

URL = "https://host/a/b.png"


@pytest.mark.parametrize(
    ("arguments", "option", "takes"),
    [
        (["sample", "--model", URL], "--model", "a folder or a hub id"),
        (["sample", "--vae", URL], "--vae", "a folder or a hub id"),
        (["sample", "--source", "a.png", "--source", URL], "--source", "a path of this machine"),
        (["sample", "--pose", URL], "--pose", "a path of this machine"),
        (["sample", "--out", URL], "--out", "a path of this machine"),
        (["evaluate", "--generated", URL], "--generated", "a path of this machine"),
        (["prepare", "--root", URL], "--root", "a path of this machine"),
        (["prepare", "--openpose", URL], "--openpose", "a folder or a hub id"),
        (["train", "--out", URL], "--out", "a path of this machine"),
        (["convert", URL], "SOURCE", "a path of this machine"),
        (["sample", "--pairs", URL], "--pairs", "a path of this machine"),
        (["bench", "--compare", URL], "--compare", "a path of this machine"),
        (["ui", "--model", URL], "--model", "a folder or a hub id"),
    ],
)
def test_the_option_and_the_url_are_named(
    arguments: list[str], option: str, takes: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    output = capsys.readouterr().err.replace("\n", " ")
    assert f"error: {option} takes {takes}, not a URL: {URL}" in output


def test_a_page_of_the_hub_becomes_an_id() -> None:
    for url in ("https://huggingface.co/some/model", "https://hf.co/some/model/"):
        with pytest.raises(ConfigError, match="not a URL") as err:
            hub.fetch(url)
        assert err.value.hint == "--model some/model"


def test_paths_are_not_urls() -> None:
    for path in (Path("a:b"), Path("C:/x"), Path("/a/b"), Path("a/b:/c"), "some/model", "~/x"):
        refuse_url("--out", path)
    with pytest.raises(ConfigError, match="not a URL: s3://bucket/a"):
        refuse_url("--out", Path("s3://bucket/a"))
