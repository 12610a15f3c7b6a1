"""Distilling on a small prepared dataset: the student, exact resume, validation, bad input."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_data import logged, same, weights
from small_teacher import SHORT, make_teacher

from xmdpt_cli.cli.app import run
from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.diffusion import sample
from xmdpt_cli.distillation.config import DistillConfig
from xmdpt_cli.distillation.distill import distill
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.images import load_image
from xmdpt_cli.sampling.model_card import model_card
from xmdpt_cli.sampling.sampler import Sampler
from xmdpt_cli.training import footprint
from xmdpt_cli.training.config import TrainConfig
from xmdpt_cli.training.loop import train

VALIDATED = dataclasses.replace(SHORT, validate_every=2, validation_pairs=2)


@pytest.fixture(scope="module")
def finished(data: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run of ``VALIDATED``."""
    out = tmp_path_factory.mktemp("finished") / "run"
    distill(VALIDATED, teacher, data, out)
    return out


def test_the_student_is_a_model_that_knows_its_teacher(finished: Path, teacher: Path) -> None:
    student, known = Sampler.load(finished), Sampler.load(teacher)
    assert student.model.guidance_embed is not None
    assert student.model.mipnet is None
    assert student.metadata["prediction"] == "v"
    assert student.metadata["sampling"] == known.metadata["sampling"]
    assert student.metadata["trained_steps"] == 4
    assert student.metadata["distilled"] == {
        "stage": "guidance",
        "steps": None,
        "guidance": [1.0, 3.0],
        "power": 0.5,
        "loss": "guidance",
        "teacher": {
            "sha256": known.identity,
            "name": "wise",
            "trained_steps": 7,
            "conditioning": "vector",
            "prediction": "epsilon",
        },
    }
    rows = [row for row in logged(finished) if "loss" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(row["loss"] == pytest.approx(row["mse"]) for row in rows)


def test_a_resumed_run_equals_an_uninterrupted_run(
    finished: Path, data: Path, teacher: Path, tmp_path: Path
) -> None:
    for steps in (1, 3, 4):
        config = dataclasses.replace(VALIDATED, steps=steps, validate_every=0)
        distill(config, teacher, data, tmp_path / "run")
    assert same(weights(tmp_path / "run"), weights(finished))


def test_validation_shows_the_teacher_beside_the_student(finished: Path, data: Path) -> None:
    values = [row["val_loss"] for row in logged(finished) if "val_loss" in row]
    assert len(values) == 2
    assert values[0] != values[1]
    first, last = (
        np.asarray(load_image(finished / f"samples/step_000000{step}.png")) for step in (2, 4)
    )
    assert first.shape == (2 * 32, 5 * 32, 3)  # source, pose, ground truth, teacher, student
    test = PairDataset(data, "test")
    pair = test.pairs[0]
    assert (first[:32, 64:96] == test.image(pair.key, pair.target)).all()
    assert (first[:, :128] == last[:, :128]).all()
    assert (first[:, 128:] != last[:, 128:]).any()
    assert (first[:, 96:128] != first[:, 128:]).any()


def test_a_student_of_a_flow_teacher_samples_on_its_path(data: Path, tmp_path: Path) -> None:
    """One step leads to the x_0 at its end, noise minus the second prediction."""
    folder = make_teacher(tmp_path / "wise", data, prediction="flow", schedule="flow")
    config = dataclasses.replace(SHORT, stage="steps", student_steps=1, steps=1)
    student = Sampler.load(distill(config, folder, data, tmp_path / "run").model)
    assert (student.schedule.kind, student.schedule.prediction) == ("flow", "flow")
    model = student.model
    rng = torch.Generator().manual_seed(0)
    noise, condition = (
        torch.randn(2, *shape, generator=rng) for shape in ((4, 8, 8), (model.width,))
    )
    found = sample(model, noise, condition, 1, 1.5, solver="policy", schedule=student.schedule)
    with torch.no_grad():
        out = model(noise, torch.tensor([999, 999]), condition, cfg_scales=torch.full((2,), 1.5))
    torch.testing.assert_close(found, noise - out[:, 4:], rtol=1e-4, atol=1e-5)


def test_few_steps_in_one_command(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From the newest model of a workspace, with the dataset that it was trained on."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(data, "data/32")
    make_teacher(Path("models/wise"), data, conditioning="tokens", prediction="v", data="data/32")
    monkeypatch.setattr(footprint, "LONG", 0.0)  # the dry run measures no step
    monkeypatch.setattr(footprint, "matmul_rate", lambda device, dtype: 1e9)
    command = ["distill", "--student-steps", "2", "--steps", "2", "--batch-size", "2", "--ema", "0"]
    assert run([*command, "--dry-run"]) == 0
    plan = capsys.readouterr().out
    assert "distil to 2 sampling steps of one evaluation, size custom" in plan
    assert "teacher: models/wise (TOY model), 3 sampling steps with guidance 1.5: 6 eval" in plan
    assert re.search(r"memory: .*teacher [\d.]+ [KM]iB", plan)
    assert not Path("runs").exists()
    assert run(command) == 0
    shown = capsys.readouterr()
    assert "model: models/wise" in shown.err
    assert shown.out.endswith("runs/wise-2-steps/model\nnext: xmdpt sample\n")
    student = Sampler.load("runs/wise-2-steps")
    assert student.metadata["sampling"] == {
        "steps": 2, "solver": "policy", "guidance": 1.5, "power": 0.5,
    }  # fmt: skip
    assert student.model.conditioning == "tokens"
    assert run(command) == 0  # the newest model is the student, which cannot be a teacher
    assert "nothing to do, the run is at step 2 of 2: " in capsys.readouterr().out
    settings = Path("runs/wise-2-steps/config.toml")
    settings.write_text(settings.read_text().replace("\nsteps = 2", "\nsteps = 3"))
    assert run(["status"]) == 0
    assert "step 2 of 3, last loss" in (text := capsys.readouterr().out)
    assert "distilled: 2 steps" in text
    resume = f"xmdpt distill --config {settings} --out {settings.parent}"
    assert f"next: {resume}\n" in text
    assert run(resume.split()[1:]) == 0
    shown = capsys.readouterr()
    assert "(the teacher of runs/wise-2-steps)" in shown.err
    assert "distilled 3 steps in" in shown.out
    assert Sampler.load("runs/wise-2-steps").metadata["distilled"]["teacher"]["name"] == "wise"


def test_the_card_names_teacher_loss_and_evaluations(finished: Path) -> None:
    metadata = json.loads((finished / "model/xmdpt.json").read_text())
    text = " ".join(model_card("me/quick", metadata, {"inference": 1}).split())
    sha = metadata["distilled"]["teacher"]["sha256"]
    assert f"A student of the model `wise` (sha256 of its weights `{sha[:12]}`" in text
    assert "loss `guidance` ([guidance distillation](https://arxiv.org/abs/2210.03142))." in text
    assert "It samples in any number of steps, each one evaluation" in text
    assert "Distilled for 4 steps to predict v" in text
    assert "- distilled ---" in text  # a tag
    metadata["distilled"] |= {"stage": "steps", "steps": 4}
    text = " ".join(model_card("me/quick", metadata, {"inference": 1}).split())
    assert "It samples in exactly 4 steps, each one evaluation" in text
    assert "with a guidance scale from 1 to 3" in text
    metadata["sampling"]["solver"] = "policy"
    text = model_card("me/quick", metadata, {"inference": 1})
    assert "of policy (the solver of distilled models), guidance 1.5" in text


def refused(match: str, *arguments: Any, kind: type[XmdptError] = XmdptError, **more: Any) -> str:
    with pytest.raises(kind, match=match) as caught:
        distill(*arguments, **more)
    return caught.value.hint


def test_other_teachers_and_settings_are_refused_by_name(
    finished: Path, data: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_, longer = tmp_path / "run", dataclasses.replace(VALIDATED, steps=6)
    shutil.copytree(finished, run_)
    config = dataclasses.replace(longer, stage="steps")
    assert "another --out" in refused("stage: guidance -> steps", config, teacher, data, run_)
    wider = dataclasses.replace(longer, max_guidance=4.0)
    refused("max_guidance: 3.0 -> 4.0", wider, teacher, data, run_, force=True)
    again = make_teacher(tmp_path / "again", data, seed=1)
    refused("teacher: another model", longer, again, data, run_)
    command = ["distill", "--model", str(again), "--data", str(data), "--out", str(run_)]
    assert run([*command, "--stage", "guidance", "--dry-run"]) == 1
    assert "teacher: another model" in capsys.readouterr().err
    refused("teacher's own folder", SHORT, teacher, data, teacher)
    refused("is in the teacher.s own folder", SHORT, teacher, data, teacher / "student")
    with pytest.raises(XmdptError, match="differs: command: xmdpt distill -> xmdpt train"):
        train(TrainConfig(size="tiny", batch_size=4), data, run_)
    quick = dataclasses.replace(longer, learning_rate=2e-3)
    distill(quick, teacher, data, run_, force=True)
    record = json.loads((run_ / "run.json").read_text())
    assert record["forced"][0]["learning_rate"] == "0.001 -> 0.002"


def test_students_that_cannot_be_teachers(finished: Path, data: Path, tmp_path: Path) -> None:
    hint = refused("already distilled", SHORT, finished, data, tmp_path / "run")
    assert "--stage steps" in hint
    wide = DistillConfig(max_guidance=5.0)
    hint = refused("from 1 to 3, not from 1 to 5", wide, finished, data, tmp_path / "run")
    assert hint == "--min-guidance 1 --max-guidance 3"
    few = tmp_path / "few"
    shutil.copytree(finished / "model", few)
    record = json.loads((few / "xmdpt.json").read_text())
    record["distilled"] |= {"stage": "steps", "steps": 4}
    record["sampling"] |= {"steps": 4, "solver": "policy"}
    (few / "xmdpt.json").write_text(json.dumps(record))
    hint = refused("is itself distilled to 4 steps", DistillConfig(), few, data, tmp_path / "run")
    assert "(wise)" in hint
    (few / "xmdpt.json").unlink()
    refused("has no xmdpt.json", DistillConfig(), few, data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_datasets_with_other_features_are_refused(data: Path, tmp_path: Path) -> None:
    encoders = PairDataset(data).manifest["encoders"]
    vae = {**encoders, "vae": {**encoders["vae"], "sha256": "1", "id": "other"}}
    cases = [
        ({"resolution": 64}, "generates 64 px, the dataset was prepared at 32 px"),
        ({"encoders": vae}, "another vae encoder"),
        ({"model": {"source_width": 5}}, r"source_tokens of shape \(65, 3\)"),
        ({"model": {"latent_size": 16}}, "moments of shape"),
    ]
    for number, (changes, match) in enumerate(cases):
        folder = make_teacher(tmp_path / str(number), data, **changes)
        refused(match, SHORT, folder, data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_wrong_settings() -> None:
    cases = [
        ({"student_steps": 3}, "8, 4, 2 or 1, not 3"),
        ({"min_guidance": 0.5}, "within 1 to 100, not 0.5 to 3"),
        ({"min_guidance": 3.0, "max_guidance": 2.0}, "not 3 to 2"),
        ({"max_guidance": 1e30}, "not 1 to 1e"),
        ({"max_guidance": float("nan")}, "not 1 to nan"),
        ({"max_guidance": float("inf")}, "not 1 to inf"),
        ({"stage": "both"}, "stage must be one of steps, guidance"),
        ({"ema": 1.0}, "ema lies in"),
    ]
    for changes, match in cases:
        with pytest.raises(ConfigError, match=match):
            DistillConfig(**changes)  # type: ignore[arg-type]
    assert "the teacher's weights" in DistillConfig(steps=100).doubts()[0]


def test_options_that_do_not_fit_are_refused(
    data: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["distill", "--model", str(teacher), "--data", str(data), "--out", "run"]
    for words, message in (
        (["--stage", "guidance", "--student-steps", "4"], "--student-steps needs --stage steps"),
        (["--vae", "x"], "--vae needs --online or --validate-every"),
        (["--min-guidance", "2"], "does not contain the teacher's default of 1.5"),
        (["--preset", "demo/tokens-64"], "is not of this command: it sets options of xmdpt train"),
        (["--preset", "distill/3-steps"], "no such preset: 'distill/3-steps'"),
    ):
        assert run([*base, *words]) == 2
        assert message in (error := " ".join(capsys.readouterr().err.split()))
    assert "hint: did you mean distill/4-steps? xmdpt presets lists all" in error
    assert not Path("run").exists()
