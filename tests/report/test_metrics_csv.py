"""The CSV of an evaluation, read back."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

from xmdpt_cli.metrics.evaluation import Evaluation
from xmdpt_cli.report.metrics_csv import write_csv

NASTY = 'a "quoted", name\nü'


def report(protocol: str, images: list[dict[str, Any]]) -> Evaluation:
    return Evaluation(protocol, {}, {}, images=images)


def read(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def test_values_are_read_back_exactly(tmp_path: Path) -> None:
    third = 1 / 3
    first = {"psnr": math.inf, "l1": 0.0, "ssim_256": None}
    second = {"psnr": 21.5, "l1": third, "ssim_256": math.nan}
    images = [
        {"name": NASTY, "joints": 18, "rows": {"generated": first, "copy-source": second}},
        {"name": "=1+1", "joints": None, "rows": {"generated": second}},
        {"name": "-x", "rows": {"generated": second}},
    ]
    path = tmp_path / "new" / "images.csv"
    write_csv(path, [report("cfld", images), report("clean", images[:1])])
    lines = read(path)
    assert [(x["protocol"], x["row"], x["name"], x["joints"]) for x in lines] == [
        ("cfld", "generated", NASTY, "18"),
        ("cfld", "generated", "=1+1", ""),
        ("cfld", "generated", "-x", ""),
        ("cfld", "copy-source", NASTY, "18"),
        ("clean", "generated", NASTY, "18"),
        ("clean", "copy-source", NASTY, "18"),
    ]
    assert (lines[0]["psnr"], lines[0]["ssim_256"], lines[1]["ssim_256"]) == ("inf", "", "")
    assert float(lines[0]["psnr"]) == math.inf
    assert float(lines[0]["l1"]) == 0
    assert float(lines[1]["l1"]) == third
    assert [p.name for p in path.parent.iterdir()] == ["images.csv"]
    assert path.read_bytes().count(b"\r\n") == 1 + len(
        lines
    )  # the newline in a name is no line's end


def test_protocols_with_different_metrics_share_columns(tmp_path: Path) -> None:
    """In the table's order; a metric that a protocol has not is empty there."""
    cfld = [{"name": "a", "rows": {"generated": {"strange": 5.0, "l1": 0.25, "ssim_256": 0.5}}}]
    clean = [{"name": "a", "rows": {"generated": {"lpips_alex": 0.125, "l1": 0.5}}}]
    write_csv(tmp_path / "x.csv", [report("cfld", cfld), report("clean", clean)])
    header, *lines = (tmp_path / "x.csv").read_text("utf-8").splitlines()
    assert header == "protocol,row,name,joints,lpips_alex,ssim_256,l1,strange"
    assert lines == ["cfld,generated,a,,,0.5,0.25,5.0", "clean,generated,a,,0.125,,0.5,"]


def test_names_that_are_not_utf8_are_escaped(tmp_path: Path) -> None:
    images = [{"name": "lone \udc80", "rows": {"generated": {"l1": 0.5}}}]
    write_csv(tmp_path / "x.csv", [report("cfld", images)])
    assert read(tmp_path / "x.csv")[0]["name"] == "lone \\udc80"


def test_no_pairs_give_only_the_header(tmp_path: Path) -> None:
    write_csv(tmp_path / "x.csv", [report("cfld", [])])
    assert (tmp_path / "x.csv").read_bytes() == b"protocol,row,name,joints\r\n"
