"""The same command again says what of the work is done already, and only then."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from xmdpt_cli.cli.app import run
from xmdpt_cli.vae_training.trainer import VaeTrainer

Capture = pytest.CaptureFixture[str]


def resuming_lines(capsys: Capture, *arguments: object, code: int = 0) -> list[str]:
    """The lines about resuming that a command writes to stderr."""
    capsys.readouterr()
    assert run([str(a) for a in arguments]) == code
    out = capsys.readouterr()
    assert "resuming:" not in out.out
    return [line for line in out.err.splitlines() if line.startswith("resuming")]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("resuming")
    people = ["--people", 3, "--test-people", 2, "--height", 64]
    assert run([str(a) for a in ("synth", "--out", work / "raw", *people)]) == 0
    assert run([str(a) for a in prepare(work, work / "data")]) == 0
    return work


def prepare(work: Path, out: Path) -> list[object]:
    toy = ["--encoders", "toy", "--resolution", 32, "--vae-steps", 3]
    return ["prepare", "--root", work / "raw", "--out", out, *toy]


def test_prepare(work: Path, tmp_path: Path, capsys: Capture) -> None:
    data = tmp_path / "data"
    shutil.copytree(work / "data", data)
    assert resuming_lines(capsys, *prepare(work, data)) == []
    for path in [*data.glob("*test*"), data / "dataset.json"]:
        path.unlink()
    assert resuming_lines(capsys, *prepare(work, data)) == [
        "resuming: 1 of 2 shards are done; plan for the others:"
    ]


def test_train_and_sample(work: Path, tmp_path: Path, capsys: Capture) -> None:
    def train(steps: int) -> list[str]:
        settings = ["--size", "tiny", "--batch-size", 2, "--ema", 0.5, "--steps", steps]
        return resuming_lines(
            capsys, "train", "--data", work / "data", "--out", tmp_path / "run", *settings
        )

    assert train(2) == []
    assert train(3) == ["resuming at step 2 of 3"]
    assert train(3) == []  # all steps are done: nothing is resumed
    fewer = ["--size", "tiny", "--batch-size", "2", "--ema", "0.5", "--steps", "2"]
    assert run(["train", "--data", str(work / "data"), "--out", str(tmp_path / "run"), *fewer]) == 0
    shown = capsys.readouterr()
    assert "nothing to do, the run is at step 3, beyond --steps 2: " in shown.out
    assert "3/2" not in shown.err
    other = ["train", "--data", str(work / "data"), "--out", str(tmp_path / "run"), "--dry-run"]
    assert run([*other, "--size", "tiny", "--batch-size", "2", "--ema", "0.5", "--seed", "5"]) == 1
    assert "holds another run; what differs: seed: 0 -> 5" in capsys.readouterr().err
    vae = ["finetune-vae", "--data", work / "data", "--out", tmp_path / "run", "--dry-run"]
    assert run([str(word) for word in vae]) == 1
    assert "run holds a run, not a VAE training" in capsys.readouterr().err
    sample = ["sample", "--data", work / "data", "--model", tmp_path / "run", "--steps", 1]
    sample += ["--out", tmp_path / "samples"]
    assert resuming_lines(capsys, *sample) == []
    assert resuming_lines(capsys, *sample) == []
    next((tmp_path / "samples").glob("*_2_*.png")).unlink()
    assert resuming_lines(capsys, *sample) == ["resuming: 3 of 4 images are done"]


def test_finetune_vae(
    work: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["finetune-vae", "--data", work / "data", "--out", tmp_path / "vae"]
    command += ["--steps", 4, "--batch-size", 2, "--lpips", 0, "--alexnet-weights", "off"]
    step = VaeTrainer.step

    def interrupted(self: VaeTrainer, batch: object) -> dict[str, float]:
        if self.done == 2:
            raise KeyboardInterrupt
        return step(self, batch)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(VaeTrainer, "step", interrupted)
        assert resuming_lines(capsys, *command, code=130) == []
    train = ["train", "--data", work / "data", "--out", tmp_path / "vae", "--size", "tiny"]
    assert run([str(word) for word in train]) == 1
    assert "vae holds a VAE training, not a run" in capsys.readouterr().err
    assert resuming_lines(capsys, *command) == ["resuming at step 2 of 4"]
    assert resuming_lines(capsys, *command) == []
