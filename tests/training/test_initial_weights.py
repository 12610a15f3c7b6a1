"""``xmdpt train --init-from``: a run that starts from the weights of another model."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_data import CONFIG, same, weights
from small_teacher import make_teacher

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.model import XMDPT
from xmdpt_cli.training.initial_weights import load_initial_weights
from xmdpt_cli.training.loop import train
from xmdpt_cli.training.run_folder import check_run, find_initial_weights
from xmdpt_cli.training.task import TrainTask
from xmdpt_cli.training.trainer import Trainer

PLAIN = dataclasses.replace(CONFIG, predictor="none")


@pytest.fixture(scope="module")
def first(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of ``CONFIG`` that others start from."""
    run = tmp_path_factory.mktemp("first") / "first"
    train(CONFIG, data, run)
    return run


def started(data: Path, source: Path, config: Any = CONFIG) -> XMDPT:
    return TrainTask(config, PairDataset(data), load_initial_weights(source)).build_model()


def test_a_run_starts_with_the_weights_of_the_model(data: Path, first: Path) -> None:
    """The model and its average; from a run's folder or the model in it."""
    assert same(dict(started(data, first / "model").state_dict()), weights(first))
    task = TrainTask(CONFIG, PairDataset(data), load_initial_weights(first))
    trainer = Trainer(task)
    assert same(dict(trainer.model.state_dict()), weights(first))
    assert same(dict(trainer.ema.model.state_dict()), weights(first))


def test_a_resumed_run_equals_an_uninterrupted_one(data: Path, first: Path, tmp_path: Path) -> None:
    """Resumed without the option: the checkpoint has all weights."""
    train(CONFIG, data, tmp_path / "whole", init_from=first)
    train(dataclasses.replace(CONFIG, steps=3), data, tmp_path / "parts", init_from=first)
    train(dataclasses.replace(CONFIG, steps=5), data, tmp_path / "parts")
    train(CONFIG, data, tmp_path / "parts", init_from=first)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert not same(weights(tmp_path / "whole"), weights(first))


def test_what_is_recorded(data: Path, first: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(dataclasses.replace(CONFIG, steps=1), data, run, init_from=first)
    train(dataclasses.replace(CONFIG, steps=2), data, run)
    metadata = json.loads((run / "model/xmdpt.json").read_text())
    assert metadata["initial"]["name"] == "first"
    assert metadata["initial"]["trained_steps"] == 6
    assert metadata["trained_steps"] == 2
    record = json.loads((run / "run.json").read_text())
    assert record["initial"] == metadata["initial"]
    assert record["init_from"] == str(first)
    assert str(first.parent) not in json.dumps(metadata)  # the model is published, the run is not


def test_a_run_that_stopped_before_its_first_checkpoint_keeps_its_start(
    data: Path, first: Path, tmp_path: Path
) -> None:
    run, one = tmp_path / "run", dataclasses.replace(CONFIG, steps=1)
    train(one, data, run, init_from=first)
    shutil.rmtree(run / "checkpoints")
    shutil.rmtree(run / "model")
    train(one, data, run)
    train(one, data, tmp_path / "other", init_from=first)
    assert same(weights(run), weights(tmp_path / "other"))


def test_the_same_call_resumes_where_the_start_is_gone_or_trained_further(
    data: Path, first: Path, tmp_path: Path
) -> None:
    train(dataclasses.replace(CONFIG, steps=2), data, tmp_path / "whole", init_from=first)
    start = tmp_path / "start"
    shutil.copytree(first, start)
    one = dataclasses.replace(CONFIG, steps=1)
    train(one, data, tmp_path / "run", init_from=start)
    shutil.copytree(tmp_path / "run", tmp_path / "other")
    shutil.rmtree(start)
    train(dataclasses.replace(CONFIG, steps=2), data, tmp_path / "run", init_from=start)
    shutil.copytree(tmp_path / "run", start)
    train(dataclasses.replace(CONFIG, steps=2), data, tmp_path / "other", init_from=start)
    for run in ("run", "other"):
        assert same(weights(tmp_path / run), weights(tmp_path / "whole"))


def test_a_run_keeps_its_start(data: Path, first: Path, tmp_path: Path) -> None:
    """Neither random weights nor those of another model continue a run that has another start."""
    one = dataclasses.replace(CONFIG, steps=1)
    train(one, data, tmp_path / "random")
    with pytest.raises(XmdptError, match=r"init_from: random weights -> first \([0-9a-f]{12}\)"):
        train(CONFIG, data, tmp_path / "random", init_from=first, force=True)
    train(one, data, tmp_path / "run", init_from=first)
    task = TrainTask(CONFIG, PairDataset(data), load_initial_weights(tmp_path / "random"))
    with pytest.raises(XmdptError, match=r"init_from: first \(.*\) -> random \("):
        check_run(tmp_path / "run", task)


def test_a_predictor_that_the_model_lacks_starts_from_random_weights(
    data: Path, first: Path, tmp_path: Path
) -> None:
    train(dataclasses.replace(PLAIN, steps=1), data, tmp_path / "plain")
    has, known = dict(started(data, tmp_path / "plain").state_dict()), weights(tmp_path / "plain")
    assert {name.split(".")[0] for name in has.keys() - known.keys()} == {"mipnet"}
    assert same({name: has[name] for name in known}, known)
    notes = TrainTask(CONFIG, PairDataset(data), load_initial_weights(tmp_path / "plain")).notes()
    assert any("predictor of masked tokens starts from random weights" in note for note in notes)
    # and one that the run does without is left out, without a word about it
    without = TrainTask(PLAIN, PairDataset(data), load_initial_weights(first))
    assert not any("starts from random weights" in note for note in without.notes())
    assert same(dict(started(data, tmp_path / "plain", PLAIN).state_dict()), known)


def test_another_prediction_is_a_note(data: Path, first: Path) -> None:
    config = dataclasses.replace(CONFIG, prediction="v", schedule="cosine")
    notes = TrainTask(config, PairDataset(data), load_initial_weights(first)).notes()
    assert any(
        "(to keep the model's: --prediction epsilon --schedule linear)" in note for note in notes
    )
    same_settings = TrainTask(CONFIG, PairDataset(data), load_initial_weights(first)).notes()
    assert not any("has to learn" in note for note in same_settings)


@pytest.mark.parametrize(
    ("changed", "message", "hint"),
    [
        ({"size": "mini"}, "size tiny, not mini", "--size tiny"),
        ({"positions": "rope"}, "positions bias, not rope", "--positions bias"),
        ({"qk_norm": True}, "qk_norm False, not True", "--no-qk-norm"),
        ({"conditioning": "tokens"}, "conditioning vector, not tokens", "--conditioning vector"),
        ({"patch": 1}, "patch 2, not 1", "--patch 2"),
    ],
)
def test_another_model_is_refused(
    data: Path, first: Path, changed: dict[str, Any], message: str, hint: str
) -> None:
    config = dataclasses.replace(CONFIG, **changed)
    with pytest.raises(XmdptError, match=message) as caught:
        TrainTask(config, PairDataset(data), load_initial_weights(first)).notes()
    assert hint in (caught.value.hint or "")


def test_other_features_are_refused(data: Path, first: Path, tmp_path: Path) -> None:
    shutil.copytree(first / "model", tmp_path / "model")
    metadata = json.loads((first / "model/xmdpt.json").read_text())
    metadata["encoders"]["source"]["sha256"] = "0" * 64
    (tmp_path / "model/xmdpt.json").write_text(json.dumps(metadata))
    with pytest.raises(XmdptError, match="features of another source encoder"):
        train(CONFIG, data, tmp_path / "run", init_from=tmp_path / "model")
    assert not (tmp_path / "run").exists()


def test_what_is_no_model_to_start_from(data: Path, tmp_path: Path) -> None:
    student = make_teacher(
        tmp_path / "student",
        data,
        prediction="v",
        model={"guidance_embed": True, "predictor": "none"},
        sampling={"steps": 3, "solver": "ddim", "guidance": 1.5, "power": 0.5},
        distilled={
            "stage": "guidance", "steps": None, "guidance": [1.0, 3.0], "power": 0.5, "loss": "mse",
            "teacher": {
                "sha256": "0", "name": "big", "trained_steps": 1, "conditioning": "vector",
                "prediction": "v",
            },
        },
    )  # fmt: skip
    with pytest.raises(XmdptError, match="it is a distilled model") as caught:
        load_initial_weights(student)
    assert "big" in (caught.value.hint or "")
    with pytest.raises(XmdptError, match="no such model folder"):
        load_initial_weights(tmp_path / "nothing")
    with pytest.raises(XmdptError, match="--init-from takes a folder or a hub id"):
        load_initial_weights("https://example.org/model")
    assert find_initial_weights(None, tmp_path / "new") is None


def test_weights_in_half_precision(data: Path, first: Path, tmp_path: Path) -> None:
    """They are trained in float32, as all weights are."""
    shutil.copytree(first / "model", tmp_path / "half")
    path = tmp_path / "half/model.safetensors"
    save_file({k: v.half() for k, v in load_file(path).items()}, path, metadata={"format": "pt"})
    state = started(data, tmp_path / "half").state_dict()
    assert {value.dtype for value in state.values()} == {torch.float32}
    expected = {name: value.half().float() for name, value in weights(first).items()}
    assert same(dict(state), expected)
