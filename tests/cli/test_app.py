"""The command line's promises: exit codes, error and hint, help for every option."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import SafetensorError

from xmdpt_cli.cli import app as application
from xmdpt_cli.cli.app import build, run
from xmdpt_cli.cli.help import walk
from xmdpt_cli.errors import ConfigError, XmdptError

COMMANDS = [
    "demo",
    "prepare",
    "finetune-vae",
    "train",
    "distill",
    "sample",
    "evaluate",
    "status",
    "ui",
    "convert",
    "presets",
    "synth",
    "bench",
]


def test_every_command_and_option_has_a_help_line() -> None:
    commands = dict(walk(build()))
    shown = [n for n, one in commands.items() if n and " " not in n and not one.hidden]
    assert shown == COMMANDS
    assert "bench train" in commands
    for name, command in commands.items():
        assert command.help, name
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{name} {parameter.name}"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--help"]) == 0
    assert f"xmdpt {command}" in capsys.readouterr().out


def test_the_earlier_name_of_synth_works_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--people", "1", "--test-people", "1", "--height", "64"]
    assert run(["wardrobe", "--out", str(tmp_path / "raw"), *few]) == 0
    assert "xmdpt synth" in capsys.readouterr().err
    assert (tmp_path / "raw" / "test.lst").is_file()
    assert run(["--help"]) == 0
    assert "wardrobe" not in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("xmdpt 0.")


@pytest.mark.parametrize(
    "arguments",
    [["convert"], ["no-such-command"], ["train", "--no-such-option", "1"], ["demo", "x"]],
)
def test_wrong_usage_exits_2_with_error_and_hint(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "error: " in captured.err
    assert "hint: xmdpt" in captured.err
    assert "--help" in captured.err


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["train", "--preset", "paper/S-256", "--steps", "3", "--preset=paper/B-256"], "--preset"),
        (["bench", "data", "--rounds", "1", "--rounds", "2"], "--rounds"),
    ],
)
def test_an_option_of_one_value_is_given_once(
    arguments: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    assert f"error: {name} is given more than once" in capsys.readouterr().err


def test_a_flag_may_be_overridden_and_lists_be_repeated(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["train", "--flip", "--no-flip", "--json", "--json"]) == 1
    assert "no prepared dataset" in capsys.readouterr().err
    sources = ["--source", "a.jpg", "--source", "b.jpg", "--model", "no"]
    assert run(["sample", *sources, "--pose", "p.json"]) != 0
    assert "more than once" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [(["bench", "--latency"], "xmdpt bench latency"), (["--train"], "xmdpt train")],
)
def test_an_option_that_is_a_command_has_the_command_as_its_hint(
    arguments: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"hint: {hint}"


@pytest.mark.parametrize(
    ("raised", "code", "shown"),
    [
        (XmdptError("it broke", "mend it"), 1, "error: it broke\nhint: mend it\n"),
        (ConfigError("wrong [key]"), 2, "error: wrong [key]\n"),
        (KeyboardInterrupt(), 130, "run the same command again"),
        (RuntimeError("oops"), 3, "a bug in xmdpt: RuntimeError: oops"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, "error: out of memory"),
        (PermissionError(13, "Permission denied", "/x/y"), 1, "error: Permission denied: /x/y"),
        (OSError(28, "No space left on device", "/x/y"), 1, "No space left on device: /x/y"),
        (OSError(28, "No space left on device"), 1, "hint: free some space"),
        (
            SafetensorError("Error while serializing: No space left on device (os error 28)"),
            1,
            "hint: free some space",
        ),
    ],
)
def test_errors_become_messages_and_exit_codes(
    raised: BaseException,
    code: int,
    shown: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        raise raised

    monkeypatch.setattr(application, "build", fail)
    monkeypatch.delenv("XMDPT_DEBUG", raising=False)
    assert run([]) == code
    captured = capsys.readouterr()
    assert shown in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_debug_shows_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("XMDPT_DEBUG", "1")
    assert run(["train", "--data", str(tmp_path), "--out", str(tmp_path / "run")]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_json_is_one_object_on_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "people [1]"
    args = ["synth", "--out", str(out), "--people", "1", "--test-people", "1", "--height", "64"]
    assert run([*args, "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["root"] == str(out)
    assert "rendering" in captured.err


def test_an_interrupt_prints_how_to_resume(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("xmdpt_cli.toy.synthetic.make_synthetic", interrupted)
    assert run(["synth", "--out", str(tmp_path / "w")]) == 130
    assert "run the same command again" in capsys.readouterr().err
    # a measurement begins anew
    monkeypatch.setattr("xmdpt_cli.bench.sampling.measure_sampling", interrupted)
    assert run(["bench", "--size", "tiny"]) == 130
    assert "no measurement was saved" in capsys.readouterr().err
    monkeypatch.setattr(application, "build", interrupted)
    assert run(["ui"]) == 130
    assert "the page had not started yet" in capsys.readouterr().err
