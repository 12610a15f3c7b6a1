"""Evaluations as strict JSON and as table cells."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from xmdpt_cli.metrics.evaluation import Evaluation
from xmdpt_cli.report.evaluation_json import over_seeds, to_json, write_json
from xmdpt_cli.report.evaluation_text import seeds_table, table


def report() -> Evaluation:
    generated = {"psnr": math.inf, "l1": 0.01234, "ssim_w51": None, "fid_toyconv": 1.5}
    return Evaluation(
        protocol="native",
        rows={"generated": generated, "mean-image": {"psnr": 9.876, "l1": 0.2, "ssim_w51": 0.5}},
        counts={"generated": 3, "mean-image": 4},
        undefined={"generated": {"ssim_w51": 3}},
        sizes=["48x48"],
        weights={"fid_toyconv": "random"},
        toy=["fid_toyconv"],
        images=[{"name": "ä", "rows": {"generated": {"psnr": math.inf, "l1": math.nan}}}],
    )


def strict(text: str) -> dict:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_json_has_null_and_a_mark_for_infinity(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.json"
    write_json(path, to_json(report()))
    data = strict(path.read_text(encoding="utf-8"))
    generated = data["rows"]["generated"]
    assert generated["psnr"] is None
    assert generated["psnr_is_inf"] is True
    assert generated["ssim_w51"] is None
    assert "ssim_w51_is_inf" not in generated
    assert "psnr_is_inf" not in data["rows"]["mean-image"]
    row = {"psnr": None, "psnr_is_inf": True, "l1": None}
    assert data["images"] == [{"name": "ä", "rows": {"generated": row}}]
    assert [p.name for p in path.parent.iterdir()] == ["report.json"]


def test_a_failed_write_leaves_the_old_report(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_json(path, to_json(report()))
    before = path.read_bytes()
    broken = report()
    broken.notes = [object()]  # type: ignore[list-item]
    try:
        write_json(path, to_json(broken))
    except TypeError:
        assert path.read_bytes() == before
    else:
        raise AssertionError("an object was written as JSON")


def test_table_orders_metrics_and_points_to_better() -> None:
    cells = table(report())
    assert cells.header == ["", "generated", "mean-image"]
    assert cells.rows == [
        ["fid_toyconv ↓", "1.5000", "-"],
        ["ssim_w51 ↑", "-", "0.5000"],
        ["psnr ↑", "inf", "9.88"],
        ["l1 ↓", "0.0123", "0.2000"],
        ["images", "3", "4"],
    ]


def test_values_over_seeds() -> None:
    def of(psnr: float | None) -> list[Evaluation]:
        made = report()
        made.rows["generated"] = {"psnr": psnr, "l1": 0.25}
        return [made]

    found = over_seeds([of(20.0), of(21.0), of(25.0)])["native"]
    assert found["psnr"]["values"] == [20.0, 21.0, 25.0]
    assert found["psnr"]["mean"] == pytest.approx(22.0)
    assert found["psnr"]["std"] == pytest.approx(math.sqrt(7))
    assert found["l1"]["std"] == 0.0
    lacking = over_seeds([of(20.0), of(None), of(math.inf)])
    assert lacking["native"]["psnr"] == {"values": [20.0, None, None], "mean": None, "std": None}
    shown = seeds_table(lacking)
    assert shown.header == ["", "native"]
    assert shown.rows == [["psnr ↑", "-"], ["l1 ↓", "0.2500, 0.0000"]]


def test_means_are_over_the_defined_values() -> None:
    found = report()
    nan, inf = math.nan, math.inf
    for metric, values in (("iou", [1, nan, 4]), ("psnr", [3, inf, 3]), ("none", [nan] * 3)):
        found.add("new", metric, np.array(values, dtype=float))
    found.add("new", "equal", np.array([inf, nan]))
    assert found.rows["new"] == {"iou": 2.5, "psnr": 3.0, "none": None, "equal": inf}
    assert found.undefined["new"] == {"iou": 1, "none": 3, "equal": 1}
    assert found.infinite == {"new": {"psnr": 1, "equal": 1}}
