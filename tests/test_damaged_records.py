"""Damaged metadata: every command answers with an error of its own, never with a bug of ours.

Each file that a command leaves behind is changed at random (wrong types, missing keys, cut short,
nested without end, numbers of thousands of digits) and the commands that read it are run. The
short form runs here; XMDPT_DAMAGES=2000 makes it a campaign.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from short_way import SHORT

from xmdpt_cli.cli.app import run

DAMAGES = int(os.environ.get("XMDPT_DAMAGES", "3"))  # of each file

TINY = {**SHORT, "XMDPT_TRAIN_SIZE": "tiny"}
TRAIN, SAMPLE = ["train", "--steps", "3"], ["sample", "--limit", "1"]
EVALUATE, VAE = ["evaluate", "--ssim"], ["finetune-vae"]
CHECK = ["prepare", "--check", "data/32"]
REPAIR = [*CHECK, "--repair", "--root", "DeepFashion"]
PREPARE = ["prepare", "--root", "DeepFashion"]
#: file -> the commands that read it
READERS: dict[str, list[list[str]]] = {
    "data/32/dataset.json": [CHECK, TRAIN, SAMPLE, EVALUATE, PREPARE],
    "data/32/prepare.json": [PREPARE, REPAIR],
    "data/32/train-000000.index.json": [CHECK, TRAIN],
    "data/32/encoders/vae/xmdpt_toy.json": [SAMPLE],
    "data/32/encoders/vae/config.json": [SAMPLE],
    "runs/tiny/run.json": [TRAIN],
    "runs/tiny/config.toml": [["train", "--config", "runs/tiny/config.toml"]],
    "runs/tiny/metrics.jsonl": [TRAIN],
    "runs/tiny/checkpoints/step_0000002/state.json": [TRAIN],
    "runs/tiny/model/xmdpt.json": [SAMPLE, ["convert", "runs/tiny/model", "--to", "published",
                                            "--out", "p.pt"]],
    "runs/tiny/model/config.json": [SAMPLE],
    "samples/tiny/samples.json": [SAMPLE, EVALUATE],
    "samples/tiny/metrics.json": [EVALUATE],
    "vae/32/run.json": [VAE],
    "vae/32/xmdpt_training.json": [VAE, EVALUATE],
    "vae/32/report.json": [VAE],
}  # fmt: skip
WRONG: list[Any] = [None, True, -1, 0, 10**30, 1.5, float("nan"), "x", "", [], {}, [[]], {"a": 1}]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A workspace in which everything was made."""
    folder = tmp_path_factory.mktemp("workspace")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, value in TINY.items():
            patch.setenv(name, value)
        people = ["--people", "2", "--test-people", "2", "--views", "2", "--height", "64"]
        made = [["synth", "--out", "DeepFashion", *people], PREPARE, ["train"], VAE]
        for line in [*made, ["sample"], EVALUATE]:
            assert run(line) == 0, line
        yield folder


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every value in plain data."""
    if at:
        yield at
    children = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        children = enumerate(value)
    for key, child in children:
        yield from places(child, (*at, key))


def damaged(text: str, choose: random.Random) -> str:
    """A file with one thing wrong."""
    kind = choose.choice(["value", "value", "value", "value", "key", "cut", "byte", "deep", "long"])
    try:
        content = json.loads(text)
    except ValueError:  # TOML, or lines
        kind = choose.choice(["cut", "byte", "deep", "long"])
        content = None
    if kind in ("value", "key"):
        *path, last = choose.choice(list(places(content)))
        parent = content
        for key in path:
            parent = parent[key]
        if kind == "key":
            del parent[last]
        else:
            parent[last] = choose.choice(WRONG)
        return json.dumps(content)
    at = choose.randrange(len(text))
    if kind == "cut":
        return text[:at]
    if kind == "byte":
        return text[:at] + choose.choice('\0{}[]",:9-\n') + text[at + 1 :]
    if kind == "deep":
        return text[:at] + "[" * 100_000 + text[at:]
    return text[:at] + "9" * 10_000 + text[at:]


@pytest.mark.parametrize("file", READERS)
def test_damaged_records_are_named_without_a_traceback(
    file: str,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in TINY.items():
        monkeypatch.setenv(name, value)
    for seed in range(DAMAGES):
        copy = tmp_path / str(seed)
        shutil.copytree(whole, copy)
        monkeypatch.chdir(copy)
        path = copy / file
        path.write_text(damaged(path.read_text(), random.Random(f"{file}{seed}")))
        for line in [["status"], *READERS[file]]:
            code = run(line)
            output = capsys.readouterr().err
            assert code in ((0,) if line == ["status"] else (0, 1, 2)), f"{line}, {seed}: {output}"
            assert "Traceback" not in output
        monkeypatch.chdir(tmp_path)
        shutil.rmtree(copy)
