"""The comparison of token forms: every form is a recipe, costs are counted, a run goes through."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from xmdpt_cli.bench.conditioning import FORMS, cost, main, recipe_of, table


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


def test_the_table_shows_mean_and_spread() -> None:
    records = [
        {"form": "a", "seed": seed, "steps": 9, "scores": {"ssim_256": 0.5 + seed / 10}}
        for seed in (0, 1, 2)
    ]
    assert table(records).splitlines()[-1] == "| a | 3 | 9 | 0.6 ± 0.1 |"
