"""Variables of several processes: complete and consistent, or refused by name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from xmdpt_cli.errors import ConfigError
from xmdpt_cli.storage.ranks import World
from xmdpt_cli.utils.processes import local_rank, rank_and_size

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def given(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for part in text.split():
        name, _, value = part.partition("=")
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", (0, 1)),
        ("WORLD_SIZE=1", (0, 1)),
        ("LOCAL_RANK=0", (0, 1)),
        ("MASTER_ADDR=node1 MASTER_PORT=29500", (0, 1)),  # clusters set these for everybody
        ("SLURM_PROCID=3 SLURM_NTASKS=8", (0, 1)),
        ("RANK=0 WORLD_SIZE=1", (0, 1)),
        ("RANK=3 WORLD_SIZE=8", (3, 8)),
        ("RANK=9 WORLD_SIZE=16 LOCAL_RANK=1 LOCAL_WORLD_SIZE=8", (9, 16)),
    ],
)
def test_valid_variables(
    monkeypatch: pytest.MonkeyPatch, text: str, found: tuple[int, int]
) -> None:
    given(monkeypatch, text)
    assert rank_and_size() == found
    assert World.from_environment() == World(*found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("WORLD_SIZE=2", "WORLD_SIZE=2 set, but RANK missing"),
        ("RANK=0", "RANK=0 set, but WORLD_SIZE missing"),
        ("LOCAL_RANK=1", "LOCAL_RANK=1 set, but RANK and WORLD_SIZE missing"),
        ("RANK= WORLD_SIZE=2", "variable RANK is empty"),
        ("RANK=0 WORLD_SIZE=", "variable WORLD_SIZE is empty"),
        ("LOCAL_RANK=", "variable LOCAL_RANK is empty"),
        ("RANK=one WORLD_SIZE=2", "variable RANK is 'one', not a number"),
        ("RANK=-1 WORLD_SIZE=2", "variable RANK is '-1', not a number"),
        ("RANK=0 WORLD_SIZE=2.0", "variable WORLD_SIZE is '2.0', not a number"),
        ("RANK=2 WORLD_SIZE=2", "RANK=2 and WORLD_SIZE=2 contradict each other"),
        ("RANK=0 WORLD_SIZE=0", "RANK=0 and WORLD_SIZE=0 contradict each other"),
        ("RANK=1 WORLD_SIZE=4 LOCAL_RANK=2", "LOCAL_RANK=2 contradict each other"),
        ("RANK=3 WORLD_SIZE=4 LOCAL_RANK=3 LOCAL_WORLD_SIZE=2", "contradict each other"),
    ],
)
def test_invalid_variables_are_refused(
    monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    given(monkeypatch, text)
    with pytest.raises(ConfigError, match=message) as err:
        rank_and_size()
    assert "torchrun" in err.value.hint
    assert "unset" in err.value.hint


def test_a_process_group_needs_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    both = "RANK=0 WORLD_SIZE=2 LOCAL_RANK=0 MASTER_ADDR=127.0.0.1"
    given(monkeypatch, both)
    with pytest.raises(ConfigError, match="WORLD_SIZE is 2, but MASTER_PORT missing"):
        local_rank()
    given(monkeypatch, f"{both} MASTER_PORT=http")
    with pytest.raises(ConfigError, match="MASTER_PORT is 'http', not a number"):
        local_rank()
    given(monkeypatch, f"{both} MASTER_PORT=99999")
    with pytest.raises(ConfigError, match="MASTER_PORT=99999 is no port"):
        local_rank()
    given(monkeypatch, f"{both} MASTER_PORT=29500")
    assert local_rank() == 0


@pytest.mark.parametrize("command", ["sample", "evaluate", "ui"])
def test_every_command_refuses_before_it_works(tmp_path: Path, command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "xmdpt_cli", command],
        env={**os.environ, "WORLD_SIZE": "2", "PYTHONPATH": str(Path(__file__).parents[2])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: WORLD_SIZE=2 set, but RANK missing\nhint: ")
