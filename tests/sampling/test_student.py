"""The settings that a distilled model takes and refuses."""

from __future__ import annotations

from typing import Any

import pytest

from xmdpt_cli.diffusion import Schedule
from xmdpt_cli.errors import ConfigError
from xmdpt_cli.model import XMDPT
from xmdpt_cli.sampling.sampler import PAPER, Sampler
from xmdpt_cli.sampling.student import solvers_of, student_summary

TEACHER = {"name": "B-run", "sha256": "0" * 64, "trained_steps": 10}
STUDENT: dict[str, Any] = {"guidance": [1.0, 3.0], "power": 0.01, "teacher": TEACHER}
FEW = {**STUDENT, "stage": "steps", "steps": 4}
GUIDED = {**STUDENT, "stage": "guidance", "steps": None}


def sampler(distilled: dict[str, Any] | None) -> Sampler:
    model = XMDPT(
        depth=2, width=16, heads=2, latent_size=4, decode_layers=1, predictor="none",
        guidance_embed=distilled is not None,
    )  # fmt: skip
    own = {"steps": 20, "solver": "unipc", "guidance": 2.0, "power": 0.01}
    if distilled is FEW:
        own |= {"steps": 4, "solver": "policy"}
    metadata: dict[str, Any] = {"sampling": own}
    if distilled is not None:
        metadata["distilled"] = distilled
    return Sampler(model, Schedule("linear", "v"), metadata)


def test_a_student_of_few_steps_knows_its_settings() -> None:
    config = sampler(FEW).sampling_config()
    assert (config.steps, config.solver, config.spacing) == (4, "policy", "angle")
    assert sampler(FEW).sampling_config(guidance=3.0, seed=5, steps=4).guidance == 3.0
    assert solvers_of(FEW) == ("policy",)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"steps": 8}, "steps 8 cannot be used: this model was distilled to 4 steps"),
        ({"steps": 2}, "steps 2"),
        ({"solver": "unipc"}, "solver unipc"),
        ({"power": 1.0}, "power 1.0"),
        ({"interval": (0.0, 0.6)}, "interval"),
        ({"guidance": 3.1}, "guidance 3.1 is outside the range 1 to 3"),
        ({"guidance": 0.9}, "outside the range"),
        ({"steps": PAPER.steps, "solver": PAPER.solver}, "distilled to 4 steps"),
    ],
)
def test_what_a_student_of_few_steps_refuses(given: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named) as error:
        sampler(FEW).sampling_config(**given)
    assert "B-run" in str(error.value.hint)


def test_a_summary_of_what_a_student_can_sample() -> None:
    assert student_summary(FEW) == "4 steps, guidance 1 to 3"
    assert student_summary({**FEW, "steps": 1}) == "1 step, guidance 1 to 3"
    assert student_summary(GUIDED) == "any number of steps, guidance 1 to 3"


def test_a_student_of_guidance_takes_any_number_of_steps() -> None:
    config = sampler(GUIDED).sampling_config(steps=7, solver="ddim", power=1.0, interval=(0.1, 0.8))
    assert (config.steps, config.solver, config.power) == (7, "ddim", 1.0)
    with pytest.raises(ConfigError, match="guidance 5 is outside the range 1 to 3"):
        sampler(GUIDED).sampling_config(guidance=5.0)
    with pytest.raises(ConfigError, match="a cache saves nothing with a distilled model"):
        sampler(GUIDED).sampling_config(cache=2)
    with pytest.raises(ConfigError, match="solver policy cannot"):
        sampler(GUIDED).sampling_config(solver="policy")
    above = sampler({**GUIDED, "guidance": [1.5, 3.0]})
    assert above.sampling_config(steps=7).guidance == 2.0
    for other in ({"power": 1.0}, {"interval": (0.1, 0.8)}):
        with pytest.raises(ConfigError, match=r"guidance scales below 1\.5"):
            above.sampling_config(**other)


def test_the_solver_of_students_is_refused_by_other_models() -> None:
    with pytest.raises(ConfigError, match="which this is not"):
        sampler(None).sampling_config(solver="policy")
