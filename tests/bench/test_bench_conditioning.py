"""The comparison of token forms: every form is a recipe, costs are counted, a run goes through."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch

from xmdpt_cli.bench import solvers, views
from xmdpt_cli.bench.conditioning import FORMS, cost, main, recipe_of, table

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def test_a_comparison_in_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--out", str(tmp_path), "--people", "2", "--vae-steps", "4", "--steps", "4"]
    arguments += ["--seeds", "0", "--only", "tokens", "source in the sequence"]
    main(arguments)
    first = capsys.readouterr().out
    records = sorted(tmp_path.glob("runs/*/record-4.json"))
    assert len(records) == 2
    found = {record["form"]: record for record in map(json.loads, map(Path.read_text, records))}
    # twice the tokens cost nearly twice as much, so they get about half of the steps
    assert found["tokens"]["steps"] == 4
    assert found["source in the sequence"]["steps"] < 4
    main(arguments)  # nothing is trained again
    assert capsys.readouterr().out == first
    data = tmp_path / "data"
    names = ("tokens", "with MIPNet", "no pose map", "v, linear")
    costs = {name: cost(recipe_of(FORMS[name], 0), data) for name in names}
    assert costs["with MIPNet"] > 1.5 * costs["tokens"]
    assert costs["no pose map"] < costs["tokens"]
    assert costs["v, linear"] == costs["tokens"]

    # and on what was trained, solvers are compared
    run = next(tmp_path.glob("runs/tokens-0/run-4"))
    compare = ["--data", str(data), "--model", str(run), "--out", str(tmp_path / "solvers")]
    compare += ["--steps", "1", "3", "--solver", "ddim", "unipc", "--spacing", "trailing"]
    compare += ["--interval", "0:1", "--interval", "0.2:0.7", "--limit", "2"]
    solvers.main(compare)
    rows = json.loads((tmp_path / "solvers/solvers.json").read_text())
    assert len(rows) == 8
    by = {(r["recipe"]["solver"], r["recipe"]["steps"], r["forwards"]): r["scores"] for r in rows}
    assert set(by) == {
        (solver, steps, forwards)
        for solver in ("ddim", "unipc")
        for steps, forwards in ((1, 2), (1, 1), (3, 6), (3, 5))  # t = 999, 666, 332
    }
    assert by["ddim", 1, 2] == by["unipc", 1, 2]  # one step is the same for all
    assert by["unipc", 3, 6]["to_converged"] > by["unipc", 1, 2]["to_converged"]
    for measure in solvers.PLOTS:
        svg = ET.parse(tmp_path / f"solvers/solvers-{measure}.svg")
        assert svg.getroot().tag.endswith("svg")
    assert "| unipc | trailing | 3 | 0.2 to 0.7 |" in capsys.readouterr().out

    # and several views of a person
    those = ["--data", str(data), "--model", str(run), "--split", "train"]
    views.main([*those, "--limit", "3", "--steps", "1"])
    shown = capsys.readouterr().out
    assert "3 targets, 3 sources of each" in shown
    for row in ("one view", "2 views: tokens joined", "3 views: predictions averaged"):
        assert f"\n| {row}" in shown
    bench = views.Bench(str(data), run, "train", 3, 2)
    given, recipe = bench.conditions(bench.cases), bench.sampler.recipe(steps=2)
    noise = torch.randn(2, *bench.sampler.model.latent_shape)
    alone = bench.sampler.latents(noise, given.views([[1, 2]]), recipe)
    twice = given.views([[1, 2], [1, 2]])  # a view given twice is that view, either way
    torch.testing.assert_close(bench.averaged(noise, twice, recipe), alone)
    torch.testing.assert_close(bench.sampler.latents(noise, twice, recipe), alone, **CLOSE)
    # one step is linear in what the network says
    one = bench.sampler.recipe(steps=1)
    each = [bench.sampler.latents(noise, given.views([own]), one) for own in ([1, 2], [0, 0])]
    mean = bench.averaged(noise, given.views([[1, 2], [0, 0]]), one)
    torch.testing.assert_close(mean, (each[0] + each[1]) / 2)
    assert not torch.equal(each[0], each[1])


def test_the_table_shows_mean_and_spread() -> None:
    records = [
        {"form": "a", "seed": seed, "steps": 9, "scores": {"ssim_256": 0.5 + seed / 10}}
        for seed in (0, 1, 2)
    ]
    assert table(records).splitlines()[-1] == "| a | 3 | 9 | 0.6 ± 0.1 |"
