"""``xmdpt finetune-vae`` as a user meets it: plan, precedence, JSON output and messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from xmdpt_cli.cli.app import run

Capture = pytest.CaptureFixture[str]
pytestmark = pytest.mark.usefixtures("short_estimates")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("finetune")
    people = ["--people", 3, "--test-people", 2, "--height", 64]
    assert call("synth", "--out", work / "raw", *people) == 0
    toy = ["--encoders", "toy", "--resolution", 32, "--vae-steps", 3]
    assert call("prepare", "--root", work / "raw", "--out", work / "data", *toy) == 0
    return work / "data"


def call(*arguments: object) -> int:
    return run([str(argument) for argument in arguments])


def finetune(data: Path, out: Path, *more: object) -> int:
    return call("finetune-vae", "--data", data, "--out", out, *more)


def result(capsys: Capture, data: Path, out: Path, *more: object) -> dict[str, Any]:
    """Run with --json and parse what stdout holds: nothing but one object."""
    capsys.readouterr()
    assert finetune(data, out, *more, "--json") == 0
    parsed: dict[str, Any] = json.loads(capsys.readouterr().out)
    return parsed


def test_the_plan_is_the_papers_and_writes_nothing(
    data: Path, tmp_path: Path, capsys: Capture
) -> None:
    plan = result(capsys, data, tmp_path / "no", "--dry-run")
    assert not (tmp_path / "no").exists()
    assert plan["epochs"] == 77
    assert plan["steps"] == -(-77 * plan["images"] // 8)
    assert plan["trains"] == "decoder"
    assert plan["latents"] == "the dataset's"
    assert plan["toy"] is True
    assert "random weights" in plan["LPIPS"]
    assert finetune(data, tmp_path / "no", "--dry-run", "--encode", "--epochs", 2) == 0
    printed = capsys.readouterr().out
    assert "encoded in every step" in printed
    assert "epochs = 2.0  (default 77.0)" in printed
    assert "toy: yes\n" in printed
    assert "state on disk: " in printed
    assert "  l1 = " not in printed  # a default
    for line in ("time: about", "memory: about", "disk: about"):
        assert line in printed
    assert plan["seconds"] > 0
    assert plan["memory"]["optimizer"] == 2 * plan["memory"]["gradients"]


def test_flag_over_environment_over_file(
    data: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    toml = tmp_path / "mine.toml"
    toml.write_text("[finetune_vae]\nsteps = 5\nbatch_size = 3\nface_weight = 7\n")
    monkeypatch.setenv("XMDPT_FINETUNE_VAE_BATCH_SIZE", "2")
    monkeypatch.setenv("XMDPT_FINETUNE_VAE_STEPS", "6")
    plan = result(
        capsys, data, tmp_path / "no", "--dry-run", "--config", toml, "--steps", 4
    )["config"]  # fmt: skip
    assert (plan["steps"], plan["batch_size"], plan["face_weight"]) == (4, 2, 7.0)
    toml.write_text("[finetune_vae]\nface_wait = 7\n")
    assert finetune(data, tmp_path / "no", "--config", toml) == 2
    assert "unknown key 'face_wait'" in capsys.readouterr().err


def test_a_run_and_its_repetition(data: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "vae"
    options = ["--steps", 2, "--batch-size", 2, "--ema", 0.9, "--face-weight", 3]
    first = result(capsys, data, out, *options)
    assert first["decoder_only"] is True
    assert first["encoder"]["before"] == first["encoder"]["after"]
    assert first["report"]["counts"]["after"] > 0
    assert result(capsys, data, out, *options) == first
    assert finetune(data, out, *options) == 0
    printed = capsys.readouterr().out
    assert "lpips_alex_v0.1_toy" in printed
    assert "psnr_face" in printed
    assert "TOY VAE" in printed
    assert f"encoder unchanged, sha256 {first['encoder']['after']}" in printed
    # what was written down is what it was made with
    config = ["--config", out / "config.toml"]
    assert result(capsys, data, out, *config) == first
    assert finetune(data, out, *options, "--learning-rate", 0.1) == 1
    assert "learning_rate" in capsys.readouterr().err


def test_from_scratch(data: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "vae"
    options = ["--all-weights", "--steps", 2, "--batch-size", 2, "--lpips", 0, "--limit", 3]
    assert finetune(data, out, *options) == 0
    printed = capsys.readouterr().out
    assert f"xmdpt prepare --vae {out}" in printed
    assert "latents of another encoder do not fit" in printed
    assert json.loads((out / "report.json").read_text())["counts"] == {"before": 3, "after": 3}
    assert json.loads((out / "xmdpt_toy.json").read_text())["toy"] is True
    assert finetune(data, tmp_path / "b", *options, "--vae", data / "encoders/vae") == 2
    assert "leave out --vae" in capsys.readouterr().err
    # the decoder of a new encoder does not decode this dataset's latents
    assert finetune(data, tmp_path / "c", "--vae", out, "--steps", 1) == 1
    assert "another encoder" in capsys.readouterr().err


def test_a_tiny_decoder(data: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "tiny"
    options = ["--decoder", "tiny", "--steps", 2, "--batch-size", 2, "--lpips", 0, "--limit", 2]
    plan = result(capsys, data, out, *options, "--dry-run")
    assert plan["trains"] == "tiny decoder"
    assert plan["starts_from"].startswith("random weights (madebyollin/taesd decodes Stable")
    assert plan["targets"] == "0.5 x full decoder, 0.5 x photographs"
    assert not out.exists()
    assert finetune(data, out, *options) == 0
    printed = capsys.readouterr().out
    for said in ("full decoder", "tiny decoder", "tiny against full", f"sample --vae {out}"):
        assert said in printed
    assert finetune(data, out, *options, "--seed", 1, "--dry-run") == 1
    assert "another VAE training; what differs: seed: 0 -> 1" in capsys.readouterr().err
    # it is no VAE, and says so
    assert finetune(data, tmp_path / "no", "--vae", out, "--steps", 1) == 1
    assert "a tiny decoder only decodes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "code", "output"),
    [
        (["--ema", "1"], 2, "ema lies in [0, 1)"),
        (["--lpips", "0.1", "--alexnet-weights", "off"], 2, "--lpips 0"),
        (["--alexnet-weights", "/no/such/file"], 1, "no weights at /no/such/file"),
        (["--vae", "/no/such/folder"], 1, "no such VAE folder"),
        (["--decoder", "tiny", "--all-weights"], 2, "leave out one of them"),
        (["--start", "none"], 2, "--start is an option of --decoder tiny"),
        (["--full-share", "1"], 2, "add --decoder tiny, or leave out --full-share"),
        (["--decoder", "tiny", "--full-share", "2"], 2, "full_share lies in [0, 1]"),
        (["--decoder", "tiny", "--start", "/no/such"], 1, "no such tiny decoder folder"),
        (["--decoder", "tiny", "--vae", "/no/such"], 1, "no such VAE folder"),
        (["--precision", "fp8"], 2, "'auto', 'fp32', 'bf16'"),
    ],
)
def test_wrong_options_are_errors(
    data: Path, tmp_path: Path, capsys: Capture, options: list[str], code: int, output: str
) -> None:
    assert finetune(data, tmp_path / "no", "--steps", 1, *options) == code
    assert output in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
