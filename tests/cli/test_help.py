"""Help: every option in a panel, nothing cut off at any width, every option a variable."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from xmdpt_cli.cli.app import build, run
from xmdpt_cli.cli.help import GENERAL, option_name, walk
from xmdpt_cli.config import presets

PATHS = [path for path, _ in walk(build())]


def text_of(path: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: object) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    assert run([*path.split(), "--help"]) == 0
    return str(capsys.readouterr().out)  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("path", PATHS)
def test_help_shows_every_option_uncut(
    path: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = text_of(path, width, monkeypatch, capsys)
    assert "…" not in shown
    command = dict(walk(build()))[path]
    words = " ".join(shown.replace("│", " ").split())
    for parameter in (p for p in command.params if not getattr(p, "hidden", False)):
        for name in parameter.opts + parameter.secondary_opts:
            assert re.search(rf"(^|[\s,]){re.escape(name)}([\s,]|$)", words), name
        for word in parameter.help.replace("\\[", "[").split():
            # a long word may be broken at its hyphens, and only there
            assert word in words or word.replace("-", "- ") in words or "-" in word, word
    assert max(len(line) for line in shown.splitlines()) <= width


@pytest.mark.parametrize("path", [path for path in PATHS if path])
def test_every_option_is_in_a_panel_of_its_command(path: str) -> None:
    command = dict(walk(build()))[path]
    for parameter in command.params:
        if parameter.param_type_name == "option" and not parameter.hidden:
            assert parameter.rich_help_panel, f"{path} --{option_name(parameter)} has no panel"
    named = getattr(command.callback, "panels", {})
    assert set(named) <= {option_name(parameter) for parameter in command.params}
    assert GENERAL not in named.values()


def test_each_command_has_one_line_at_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = text_of("", 80, monkeypatch, capsys).splitlines()
    for name, command in build().commands.items():
        first = command.help.split("\n\n")[0]
        assert command.hidden or any(
            line.strip("│ ").startswith(f"{name} ") and line.strip("│ ").endswith(first)
            for line in lines
        ), name


def test_defaults_choices_and_panels_are_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = text_of("train", 120, monkeypatch, capsys)
    assert "<tiny|mini|S|B|L|XL>" in shown
    words = " ".join(shown.replace("│", " ").split())
    assert "Choices: none, self, cross, cross-self, self-cross. [default: self-cross]" in words
    assert "[default: runs/SIZE, runs/PRESET or runs/FILE]" in words
    assert re.search(r"--swap --no-swap [^\]]*\[default: on\]", words)
    assert "[train] table" in words
    titles = re.findall(r"╭─ (.+?) ─+╮", shown)
    assert titles[0] == "Run"
    assert titles[-1] == GENERAL


def test_the_choices_of_protocol_are_the_protocols() -> None:
    from xmdpt_cli.cli.evaluate_options import ProtocolName
    from xmdpt_cli.metrics.protocols import PROTOCOLS

    assert {one.value for one in ProtocolName} == {*PROTOCOLS, "native", "all"}


@pytest.mark.parametrize("path", [path for path in PATHS if path])
def test_every_option_has_a_variable(path: str) -> None:
    prefix = f"XMDPT_{path}_".upper().replace("-", "_").replace(" ", "_")
    command = dict(walk(build()))[path]
    for parameter in command.params:
        if parameter.param_type_name == "option":
            name = option_name(parameter).upper().replace("-", "_")
            assert parameter.envvar == prefix + name


def test_a_flag_takes_precedence_over_a_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("XMDPT_SYNTH_PEOPLE", "1")
    monkeypatch.setenv("XMDPT_SYNTH_TEST_PEOPLE", "7")
    monkeypatch.setenv("XMDPT_SYNTH_PLAIN", "true")
    monkeypatch.setenv("XMDPT_SYNTH_HEIGHT", "64")
    assert run(["synth", "--out", str(tmp_path / "w"), "--test-people", "1"]) == 0
    assert "4 training and 4 test images" in capsys.readouterr().out


def test_an_invalid_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XMDPT_TRAIN_STEPS", "many")
    assert run(["train"]) == 2
    assert "XMDPT_TRAIN_STEPS" in capsys.readouterr().err
    monkeypatch.setenv("XMDPT_TRAIN_STEPS", "10")
    monkeypatch.setenv("XMDPT_TRAIN_SCHEDULE", "round")
    assert run(["train"]) == 2
    output = capsys.readouterr().err
    assert "XMDPT_TRAIN_SCHEDULE" in output
    assert "linear" in output


def test_a_variable_takes_precedence_over_a_preset(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """flag > environment > file > preset: the settings of a dry run tell."""
    monkeypatch.setenv("XMDPT_SYNTH_HEIGHT", "64")
    assert run(["synth", "--people", "2", "--test-people", "1"]) == 0
    toy = ["--encoders", "toy", "--resolution", "32", "--vae-steps", "2"]
    assert run(["prepare", "--root", "people", *toy]) == 0
    monkeypatch.setenv("XMDPT_TRAIN_BATCH_SIZE", "4")
    monkeypatch.setenv("XMDPT_TRAIN_EMA_WARMUP", "false")
    capsys.readouterr()
    command = ["train", "--preset", "demo/tokens-64", "--seed", "3", "--dry-run", "--json"]
    assert run(command) == 0
    config = json.loads(capsys.readouterr().out)["config"]
    assert (config["batch_size"], config["ema_warmup"], config["seed"]) == (4, False, 3)
    assert config["conditioning"] == "tokens"  # the preset's
    assert run([*command, "--batch-size", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["config"]["batch_size"] == 2


def test_presets_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["presets"]) == 0
    listed = capsys.readouterr().out
    assert all(f"\n{name}\n" in f"\n{listed}" for name in presets())
    assert "Meng et al. 2023" in " ".join(listed.split())  # the whole first sentence
    assert run(["presets", "paper/S-512"]) == 0
    shown = capsys.readouterr().out
    assert "batch_size = 10" in shown
    assert "xmdpt train --preset paper/S-512" in shown
    # a preset with a base: each value, with the preset that sets it
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert "batch_size = 10 # paper/S-512" in lines
    assert 'swap_by = "batch" # paper/S-256' in lines
    assert run(["presets", "paper/L-512", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["settings"]["steps"] == 1_000_000
    assert (told["set_by"]["size"], told["set_by"]["steps"]) == ("paper/L-512", "paper/S-512")
    assert run(["presets", "distill/4-steps"]) == 0
    assert "distill with it: xmdpt distill --preset distill/4-steps" in capsys.readouterr().out
    assert run(["presets", "paper/XXL"]) == 2
    assert "paper/S-256" in capsys.readouterr().err
    assert run(["presets", "mine.toml"]) == 2
    assert "a preset is a name, not a file (--config reads a file)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "words", "offered"),
    [
        ("xmdpt tr", "1", "train"),
        ("xmdpt train --pre", "2", "--preset"),
        ("xmdpt train --preset paper/S", "3", "paper/S-256"),
        ("xmdpt presets mdt", "2", "mdtv2/S-256"),
    ],
)
def test_the_shell_completes(line: str, words: str, offered: str) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "xmdpt_cli"],
        env={"_XMDPT_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": words},
        capture_output=True,
        text=True,
        check=False,
    )
    assert offered in found.stdout.split()
