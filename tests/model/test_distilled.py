"""A student's folder whose files contradict each other is refused by name."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_teacher import small_model

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.model.checkpoint import load_model, published_metadata, save_model

RECORD = {
    "stage": "steps", "steps": 4, "guidance": [1.0, 3.0], "power": 0.01, "loss": "policy",
    "teacher": {
        "sha256": "0" * 64, "name": "B", "trained_steps": 10, "conditioning": "vector",
        "prediction": "epsilon",
    },
}  # fmt: skip


def saved(folder: Path, *, student: bool, **metadata: Any) -> Path:
    model = small_model(latent_size=4, depth=2, decode_layers=1, guidance_embed=student)
    save_model(folder, model, {**published_metadata(model), **metadata})
    return folder


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "student"
    sampling = {"steps": 4, "solver": "policy", "guidance": 2.0, "power": 0.01}
    return saved(folder, student=True, prediction="v", distilled=RECORD, sampling=sampling)


def with_record(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda metadata: metadata["distilled"].update(fields)


def with_defaults(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda metadata: metadata["sampling"].update(fields)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (with_record(guidance=[1.0]), "distilled.guidance"),
        (with_record(guidance=[1.0, 2.0, 3.0]), "distilled.guidance"),
        (with_record(guidance=[3.0, 1.0]), "a range from 1 upwards, not 3 to 1"),
        (with_record(guidance=[math.nan, 3.0]), "a range from 1 upwards"),
        (with_record(guidance=[1.0, math.inf]), "a range from 1 upwards"),
        (with_record(steps=0), "distilled.steps"),
        (with_record(steps=None), "distilled.steps cannot be None with stage 'steps'"),
        (with_record(stage="guidance"), "distilled.steps cannot be 4 with stage 'guidance'"),
        (
            lambda metadata: metadata.update(prediction="epsilon"),
            "'v' or 'flow', not 'epsilon'",
        ),
        (lambda metadata: metadata.pop("distilled"), "lacks the entry distilled"),
        (with_defaults(steps=20), "sampling.steps is 20, the model was distilled for 4"),
        (with_defaults(solver="unipc"), "sampling.solver is unipc, .* distilled for policy"),
        (lambda metadata: metadata["sampling"].pop("solver"), "sampling.solver is ddim"),
        (with_defaults(power=1.0), "sampling.power is 1.0, the model was distilled for 0.01"),
        (with_defaults(guidance=3.5), "sampling.guidance is 3.5, .* distilled for 1 to 3"),
        (with_defaults(guidance=math.nan), "sampling.guidance is nan"),
        (with_record(stage="guidance", steps=None), "sampling.solver is policy, .* for another"),
    ],
)
def test_damaged_records_are_named(
    student: Path, change: Callable[[dict[str, Any]], object], named: str
) -> None:
    assert load_model(student)[1]["distilled"] == RECORD
    record = student / "xmdpt.json"
    before = record.read_text()
    metadata = json.loads(before)
    change(metadata)
    record.write_text(json.dumps(metadata))
    try:
        with pytest.raises(XmdptError, match=named) as error:
            load_model(student)
    finally:
        record.write_text(before)
    assert str(record) in str(error.value)


def test_an_ordinary_model_cannot_claim_to_be_distilled(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", student=False, prediction="v", distilled=RECORD)
    with pytest.raises(XmdptError, match="the model lacks it"):
        load_model(folder)
