"""Each script of examples/experiments runs, with an untrained model if it needs one."""

from __future__ import annotations

import importlib.util
import json
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy import stats
from toy_models import SIZE, make_model

from xmdpt_cli import XMDPTPipeline
from xmdpt_cli.datasets.find import find_dataset
from xmdpt_cli.errors import ConfigError
from xmdpt_cli.files import only_process
from xmdpt_cli.prepare.pipeline import prepare_dataset
from xmdpt_cli.toy.encoders import toy_encoders
from xmdpt_cli.toy.synthetic import make_synthetic
from xmdpt_cli.training.config import TrainConfig

EXPERIMENTS = Path(__file__).resolve().parents[1] / "examples/experiments"
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(autouse=True)
def as_for_a_script_that_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXPERIMENTS)


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
) -> None:
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


def ablation(folder: Path, name: str, title: str, setting: str) -> None:
    text = f'# {title}\nbase = "demo/tokens-64"\n\n[train]\n{setting}\n'
    (folder / f"{name}.toml").write_text(text, encoding="utf-8")


def test_ablations(
    prepared: Prepared,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ablations = script("ablations")
    # counting takes seconds and has tests of its own
    monkeypatch.setattr(ablations, "pair_flops", lambda task: 1.5 if task.config.mask_span else 1)
    folder, out = tmp_path / "rows", tmp_path / "out"
    folder.mkdir()
    ablation(folder, "costly", "a costlier row", "mask_span = 0.1")
    ablation(folder, "diverges", "diverges", 'optimizer = "adamw"\nlearning_rate = 1e30')
    ablation(folder, "no-warmup", "no warm-up", "warmup_steps = 0")
    given = [str(folder), "--data", str(prepared.data), "--out", str(out), "--limit", "2"]
    given += ["--steps", "4", "--seed", "0", "--curve", "2"]
    # a run that another process has is left to it; one that fails does not stop the others
    failed = pytest.raises(SystemExit, match="diverges-seed0: the loss is not finite")
    with only_process(out, ".costly-seed0.lock"), failed:
        ablations.main(given)
    found = {r["row"]: r for r in json.loads((out / "records.json").read_text())}
    assert set(found) == {"base", "no-warmup"}
    base = found["base"]
    assert [point["steps"] for point in base["curve"]] == [2, 4]
    assert base["curve"][0]["scores"] != base["curve"][1]["scores"] == base["scores"]
    assert found["no-warmup"]["scores"] != base["scores"]

    weights = out / "base-seed0/model/model.safetensors"
    written = weights.stat().st_mtime_ns
    (out / "no-warmup-seed0/ablation.json").unlink()  # trained, not measured
    ablations.main([*given, "--rows", "costly", "no-warmup"])
    assert weights.stat().st_mtime_ns == written
    base, costly, again = json.loads((out / "records.json").read_text())
    assert (again["row"], again["steps_per_second"]) == ("no-warmup", 0)
    assert again["scores"] == found["no-warmup"]["scores"]
    assert (costly["row"], costly["steps"]) == ("costly", 2)  # int(4 / 1.5)
    table = capsys.readouterr().out
    assert "| demo/tokens-64 | 4 | " in table
    assert "| a costlier row | 2 | " in table
    for name in ("differences", "curve"):
        assert ET.parse(out / f"{name}.svg").getroot().tag.endswith("svg")
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")

    # another number of pairs: measured again, not trained again; another title: neither
    ablation(folder, "no-warmup", "a new title", "warmup_steps = 0")
    ablations.main([*given, "--rows", "no-warmup", "--limit", "1"])
    other, retitled = json.loads((out / "records.json").read_text())
    assert other["scores"]["psnr"] != base["scores"]["psnr"]
    assert other["steps_per_second"] == 0
    assert retitled["title"] == "a new title"
    # a run that was trained on another dataset is not taken for one on this
    run = out / "base-seed0/run.json"
    run.write_text(json.dumps({**json.loads(run.read_text()), "data": ["0" * 64]}))
    with pytest.raises(SystemExit, match=r"base-seed0: .*holds another run; .*data: another"):
        ablations.main([*given, "--rows", "no-warmup"])


def test_a_folder_of_ablations_keeps_its_settings_and_its_runs(
    prepared: Prepared,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ablations = script("ablations")
    monkeypatch.setattr(ablations, "pair_flops", lambda task: 1)
    folder, out = tmp_path / "rows", tmp_path / "out"
    folder.mkdir()
    ablation(folder, "no-flip", "no flip", "flip = false")
    ablation(folder, "no-warmup", "no warm-up", "warmup_steps = 0")
    given = [str(folder), "--data", str(prepared.data), "--out", str(out), "--limit", "1"]
    given += ["--equal", "steps", "--steps", "1", "--seed"]
    ablations.main([*given, "0", "1", "--rows", "no-flip"])
    assert "one seed" not in capsys.readouterr().out
    ablations.main([*given, "0", "--rows", "no-warmup"])
    found = json.loads((out / "records.json").read_text())
    assert [(r["row"], r["seed"]) for r in found] == [
        ("base", 0), ("base", 1), ("no-flip", 0), ("no-flip", 1), ("no-warmup", 0)
    ]  # fmt: skip

    def files() -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in out.rglob("*") if p.is_file()}

    before = files()
    for more, differs in (
        (["--steps", "2"], "steps: 1 -> 2"),
        (["--equal", "both"], "equal: steps -> both"),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            ablations.main([*given, "0", *more])
        assert ended.value.code == 1
        error = f"error: {out} holds another comparison; what differs: {differs}\n"
        hint = "hint: choose another --out, or give the same settings to continue\n"
        assert capsys.readouterr().err == error + hint
        assert files() == before
    with pytest.raises(SystemExit):
        ablations.main([*given, "-1"])
    assert "seed must be at least 0, not -1" in capsys.readouterr().err
    assert files() == before
    # a damaged record: the run, which is trained, is measured again
    for damaged in ("{", '{"row": "base"}'):
        (out / "base-seed0/ablation.json").write_text(damaged)
        ablations.main([*given, "0", "--rows", "no-flip"])
        assert (out / "table.md").read_bytes() == before[str(out / "table.md")]
    # where every row fails, the report remains
    for run in out.glob("*-seed*/run.json"):
        run.write_text(json.dumps({**json.loads(run.read_text()), "data": ["0" * 64]}))
    with pytest.raises(SystemExit, match="base-seed0: "):
        ablations.main([*given, "0"])
    assert (out / "table.md").read_bytes() == before[str(out / "table.md")]


def test_ablations_at_equal_steps_and_equal_compute(
    prepared: Prepared,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One run gives both: a costlier row is also measured earlier, a cheaper one trains longer."""
    ablations = script("ablations")
    costs = {0.1: 2.0, 0.2: 0.5}
    monkeypatch.setattr(ablations, "pair_flops", lambda task: costs.get(task.config.mask_span, 1))
    folder, out = tmp_path / "rows", tmp_path / "out"
    folder.mkdir()
    ablation(folder, "costly", "a costlier row", "mask_span = 0.1")
    ablation(folder, "cheap", "a cheaper row", "mask_span = 0.2")
    given = [str(folder), "--data", str(prepared.data), "--out", str(out), "--limit", "2"]
    given += ["--steps", "2", "--seed", "0"]
    ablations.main([*given, "--equal", "both"])
    shown = capsys.readouterr().out
    assert "2 steps of the base, equal counted compute" in shown
    assert f"written: {out}/equal-steps/table.md, {out}/equal-compute/table.md" in shown

    def steps_and_scores(kind: str) -> dict[str, tuple[int, float]]:
        records = json.loads((out / f"equal-{kind}/records.json").read_text())
        return {r["row"]: (r["steps"], r["scores"]["psnr"]) for r in records}

    same, compute = steps_and_scores("steps"), steps_and_scores("compute")
    lengths = [{row: steps for row, (steps, _) in kind.items()} for kind in (same, compute)]
    assert lengths[0] == {"base": 2, "cheap": 2, "costly": 2}
    assert lengths[1] == {"base": 2, "cheap": 4, "costly": 1}
    assert same["base"] == compute["base"]
    # a run of that many steps, trained alone, has the same score
    alone = tmp_path / "alone"
    ablation(folder, "costly", "a costlier row", 'mask_span = 0.1\ndecay = "none"')
    ablations.main([*given, "--out", str(alone), "--rows", "costly"])
    _, record = json.loads((alone / "records.json").read_text())
    assert (record["steps"], record["scores"]["psnr"]) == compute["costly"]

    ablation(folder, "ends", "HASTE", "repa_weight = 0.5\nrepa_layer = 2\nrepa_until = 0.5")
    capsys.readouterr()
    both = "error: what a step of ends does depends on the number of steps"
    for code, more, error in (
        (2, ["--equal", "both"], f"{both}\nhint: --equal steps or --equal compute"),
        (2, ["--rows", "costlier"], "rows: costlier\nhint: its rows are base, cheap, costly, ends"),
        (1, ["--data", str(tmp_path)], f"error: {tmp_path} holds no prepared dataset"),
    ):
        with pytest.raises(SystemExit) as ended:
            ablations.main([*given, *more])
        assert error in capsys.readouterr().err
        assert ended.value.code == code


def test_a_folder_of_ablations_has_one_base(tmp_path: Path) -> None:
    ablations = script("ablations")
    with pytest.raises(ConfigError, match=r"has no \.toml files"):
        ablations.read_rows(tmp_path)
    ablation(tmp_path, "a", "a", "flip = false")
    assert [row.title for row in ablations.read_rows(tmp_path)] == ["demo/tokens-64", "a"]
    (tmp_path / "b.toml").write_text('# b\nbase = "demo/paper-64"\n[train]\n')
    with pytest.raises(ConfigError, match=r"one base, not demo/tokens-64 .*, demo/paper-64"):
        ablations.read_rows(tmp_path)
    (tmp_path / "b.toml").write_text("")
    with pytest.raises(ConfigError, match=r"b\.toml needs a comment in its first line"):
        ablations.read_rows(tmp_path)
    (tmp_path / "b.toml").write_text("# b\n[train]\n")
    with pytest.raises(ConfigError, match=r"b\.toml needs .* a base"):
        ablations.read_rows(tmp_path)
    (tmp_path / "b.toml").write_text('# b\nbase = "demo/tokens-64"\n[train]\n', "utf-8-sig")
    assert [row.title for row in ablations.read_rows(tmp_path)] == ["demo/tokens-64", "a", "b"]
    (tmp_path / "b.toml").rename(tmp_path / "base.toml")
    with pytest.raises(ConfigError, match=r"base\.toml: 'base' is the name of the base's row"):
        ablations.read_rows(tmp_path)


def test_intervals_of_ablations(tmp_path: Path) -> None:
    """Against scipy's paired t-test."""
    script("ablations")
    report = sys.modules["ablation_report"]
    a, b = np.random.default_rng(0).normal(size=(2, 5))
    groups = [{k: {"scores": {"psnr": x}} for k, x in enumerate(values)} for values in (a, b)]
    mean, half = report.t_interval(report.differences(*groups, "psnr"))
    found = stats.ttest_rel(a, b).confidence_interval(0.95)
    np.testing.assert_allclose([mean - half, mean + half], found)
    assert report.t_interval([3.0]) == (3.0, None)
    assert report.reached([(0.5, 1.0), (1.0, 3.0)], 2.5) == pytest.approx(0.875)
    assert report.reached([(0.5, 1.0), (1.0, 3.0)], 4.0) is None


def test_the_table_of_ablations_pairs_the_seeds(tmp_path: Path) -> None:
    """Seeds differ by more than the rows do, but a row is lower with every seed."""
    script("ablations")
    report = sys.modules["ablation_report"]
    errors = {"base": (10.0, 20.0, 30.0), "a": (9.0, 18.9, 29.1), "b": (9.0, 21.0, 30.0)}
    records = [
        {"row": row, "title": row, "seed": seed, "steps": 4, "flops": 2e9, "curve": [],
         "scores": {"torso_colour_error": value, "ssim_256": 0.5}}
        for row, values in errors.items()
        for seed, value in enumerate(values)
    ]  # fmt: skip
    report.write_report(tmp_path, records, "about")
    table = (tmp_path / "table.md").read_text()
    assert "| row | steps | GFLOP a step | seeds | ssim_256 | torso colour error |" in table
    assert "same seed; bold: the 95 % interval excludes 0." in table
    assert "mean and 95 % interval over the seeds" in (tmp_path / "differences.svg").read_text()
    assert "| base | 4 | 2 | 3 | 0.5 ± 0 | 20 ± 25 |" in table  # 4.303 * 10 / sqrt(3)
    assert "| a | +0 ± 0 | **-1 ± 0.25 better** |" in table
    assert "| b | +0 ± 0 | +0 ± 2.5 |" in table
    report.write_report(tmp_path, [one for one in records if one["seed"] == 0], "about")
    table = (tmp_path / "table.md").read_text()
    assert "Difference to the base with the same seed; one seed: no interval." in table
    assert "95 %" not in table
    chart = (tmp_path / "differences.svg").read_text()
    assert "one seed: no interval" in chart
    assert "95 %" not in chart


@pytest.mark.parametrize(
    "folder", sorted((EXPERIMENTS / "ablations").iterdir()), ids=lambda p: p.name
)
def test_the_folders_of_ablations_are_valid(folder: Path) -> None:
    """Every row has a title of its own and differs from the base."""
    base, *rows = script("ablations").read_rows(folder)
    assert len({row.title for row in rows}) == len(rows) > 2
    assert all(row.config != base.config for row in rows)


def test_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    script("metrics").main(["--pairs", "2", "--rounds", "2"])
    shown = capsys.readouterr().out
    assert "2 pairs of 176x256 a round, values differ by" in shown
    assert "scikit-image: " in shown
    assert "\nxmdpt: " in shown


def test_every_experiment_is_tested() -> None:
    here = Path(__file__).read_text(encoding="utf-8")
    files = sorted(EXPERIMENTS.glob("*.py"))
    scripts = [path for path in files if "\ndef main(" in path.read_text(encoding="utf-8")]
    assert len(scripts) > 2
    for path in scripts:
        assert f'script("{path.stem}")' in here, f"{path.name} has no test"


def test_toy_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder that it writes is complete, in half precision, and generates the images of the
    run's own weights with the fine-tuned decoder."""
    toy_model = script("toy_model")
    small = replace(toy_model.SCALE, size=32, height=64, test_people=1, views=2)
    monkeypatch.setattr(toy_model, "SCALE", small)
    monkeypatch.setattr(toy_model, "resolve", partial(small_recipe, toy_model.resolve))
    given = ["--people", "2", "--vae-steps", "2", "--steps", "2", "--decoder-steps", "2"]
    given += ["--out", str(tmp_path)]
    toy_model.main(given)
    folder = tmp_path / "model"
    stored = load_file(folder / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    card = (folder / "README.md").read_text()
    assert "synthetic people" in card
    assert "silhouette_iou" in card
    person = next((tmp_path / "people").glob("img_highres/*/*/*/*.jpg"))
    pose = np.random.default_rng(0).uniform(0.2, 0.8, (18, 2))
    run = tmp_path / "run-tokens"
    pipes = [
        XMDPTPipeline.from_pretrained(folder),
        XMDPTPipeline.from_pretrained(run, vae=tmp_path / "vae"),
        XMDPTPipeline.from_pretrained(run),
    ]
    written, tuned, before = (
        np.asarray(pipe(person, pose, source_keypoints=pose)[0]).astype(int) for pipe in pipes
    )
    assert np.abs(written - tuned).max() <= 2 < np.abs(written - before).max()


def small_recipe(resolve: Callable[..., TrainConfig], *args: Any, **kwargs: Any) -> TrainConfig:
    """The preset's recipe for a model that trains in a second."""
    return replace(resolve(*args, **kwargs), size="tiny", batch_size=2, precision="fp32")
