"""Each script of examples/experiments runs, with an untrained model if it needs one."""

from __future__ import annotations

import importlib.util
import json
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import torch
from toy_models import SIZE, make_model

from xmdpt_cli.datasets.find import find_dataset
from xmdpt_cli.prepare.pipeline import prepare_dataset
from xmdpt_cli.toy.encoders import toy_encoders
from xmdpt_cli.toy.synthetic import make_synthetic

EXPERIMENTS = Path(__file__).resolve().parents[1] / "examples/experiments"
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def script(name: str) -> ModuleType:
    """The script as a module; its ``main(arguments)`` is what the command line runs."""
    spec = importlib.util.spec_from_file_location(f"experiment_{name}", EXPERIMENTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass
class Prepared:
    data: Path
    model: Path  # conditions by tokens


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    root = tmp_path_factory.mktemp("experiments")
    make_synthetic(root / "raw", people_train=1, people_test=1, views=4, height=64, workers=1)
    encoders = toy_encoders(SIZE)
    prepare_dataset(find_dataset(root / "raw"), root / "data", size=SIZE, encoder=encoders)
    encoders.save(root / "data/encoders")
    return Prepared(root / "data", make_model(root / "model", root / "data/encoders"))


def test_solvers(
    prepared: Prepared,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    solvers = script("solvers")
    monkeypatch.setattr(solvers, "CONVERGED", 20)
    given = ["--data", str(prepared.data), "--model", str(prepared.model), "--out", str(tmp_path)]
    given += ["--steps", "1", "3", "--solver", "ddim", "unipc", "--spacing", "trailing"]
    solvers.main([*given, "--interval", "0:1", "--interval", "0.2:0.7", "--limit", "2"])
    rows = json.loads((tmp_path / "solvers.json").read_text())
    by = {
        (r["sampling"]["solver"], r["sampling"]["steps"], r["forwards"]): r["scores"] for r in rows
    }
    # trailing timesteps of 3 steps are 999, 666, 332: one of them is outside of 0.2 to 0.7
    forwards = ((1, 2), (1, 1), (3, 6), (3, 5))
    assert set(by) == {(solver, *both) for solver in ("ddim", "unipc") for both in forwards}
    assert by["ddim", 1, 2] == by["unipc", 1, 2]  # one step is the same for all solvers
    assert by["unipc", 3, 6]["to_converged"] > by["unipc", 1, 2]["to_converged"]
    for measure in solvers.PLOTS:
        assert ET.parse(tmp_path / f"solvers-{measure}.svg").getroot().tag.endswith("svg")
    assert "| unipc | trailing | 3 | 0.2 to 0.7 | 1 | 5 |" in capsys.readouterr().out
    solvers.main([*given[:-1], "logsnr", "--solver", "ddim", "--steps", "6", "--cache", "1", "2",
                  "--limit", "2"])  # fmt: skip
    rows = json.loads((tmp_path / "solvers.json").read_text())
    assert [row["forwards"] for row in rows] == [12, 9]
    assert 20 < rows[1]["scores"]["to_uncached"] < 60


def test_views(prepared: Prepared, capsys: pytest.CaptureFixture[str]) -> None:
    views = script("views")
    given = ["--data", str(prepared.data), "--model", str(prepared.model), "--split", "train"]
    views.main([*given, "--limit", "3", "--steps", "1"])
    shown = capsys.readouterr().out
    assert "3 targets, 3 sources of each" in shown
    for row in ("one view", "2 views: tokens joined", "3 views: predictions averaged"):
        assert f"\n| {row}" in shown


def test_averaged_predictions(prepared: Prepared) -> None:
    views = script("views")
    experiment = views.Experiment(str(prepared.data), prepared.model, "train", 3, 2)
    conditions = experiment.conditions(experiment.cases)
    sampler, config = experiment.sampler, experiment.sampler.sampling_config(steps=2)
    noise = torch.randn(2, *sampler.model.latent_shape)
    alone = sampler.latents(noise, conditions.views([[1, 2]]), config)
    twice = conditions.views([[1, 2], [1, 2]])  # a view given twice is that view, either way
    torch.testing.assert_close(experiment.averaged(noise, twice, config), alone)
    torch.testing.assert_close(sampler.latents(noise, twice, config), alone, **CLOSE)
    # one step is linear in the network's prediction
    one = sampler.sampling_config(steps=1)
    each = [sampler.latents(noise, conditions.views([own]), one) for own in ([1, 2], [0, 0])]
    mean = experiment.averaged(noise, conditions.views([[1, 2], [0, 0]]), one)
    torch.testing.assert_close(mean, (each[0] + each[1]) / 2)
    assert not torch.equal(each[0], each[1])


def test_distillation(
    prepared: Prepared,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(EXPERIMENTS)  # as for a script that is run
    compared = script("distillation")
    given = [str(prepared.model), "--data", str(prepared.data), "--out", str(tmp_path)]
    given += ["--student-steps", "2", "--seed", "0", "1", "--steps", "1"]
    compared.main(given)
    records = json.loads((tmp_path / "records.json").read_text())
    assert [(r["row"], r["steps"], r["seed"]) for r in records] == [
        ("teacher", 50, None),
        *(("not distilled", steps, None) for steps in (4, 2, 1)),
        *(("student", 2, seed) for seed in (0, 1)),
    ]
    assert records[0]["within"] == 0
    assert records[0]["to_teacher"] == 60
    assert all(0 < r["to_teacher"] < 60 for r in records[1:])
    assert (tmp_path / f"{prepared.model.name}.png").is_file()
    assert "| student | 2 | 2 |" in capsys.readouterr().out


def test_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    script("metrics").main(["--pairs", "2", "--rounds", "2"])
    shown = capsys.readouterr().out
    assert "2 pairs of 176x256 a round, values differ by" in shown
    assert "scikit-image: " in shown
    assert "\nxmdpt: " in shown


def test_every_experiment_is_tested() -> None:
    here = Path(__file__).read_text(encoding="utf-8")
    scripts = sorted(EXPERIMENTS.glob("*.py"))
    assert len(scripts) > 2
    for path in scripts:
        assert f'script("{path.stem}")' in here, f"{path.name} has no test"
