"""A metric from outside appears in what ``xmdpt evaluate`` prints and writes."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xmdpt_cli.cli.app import run
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.metrics import PairMetric, registry
from xmdpt_cli.metrics.pixels import Pixels

BRIGHTNESS = '''
from xmdpt_cli.metrics import PairMetric

class Brightness(PairMetric):
    """Difference of the mean grey levels, 0 to 255."""

    name = "brightness_error"
    higher_is_better = False
    decimals = 1

    def measure(self, generated, ground_truth):
        return abs(float(generated.mean()) - float(ground_truth.mean()))
'''


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers is gone after it."""
    monkeypatch.setattr(registry, "_registered", {})
    before = dict(registry.METRICS)
    yield
    registry.METRICS.clear()
    registry.METRICS.update(before)


@pytest.fixture
def line(tmp_path: Path) -> list[str]:
    """The command for two folders of grey images: 100 and 140 where 90 and 150 were right."""
    for folder, levels in (("made", (100, 140)), ("true", (90, 150))):
        (tmp_path / folder).mkdir()
        for number, level in enumerate(levels):
            grey = np.full((64, 64, 3), level, np.uint8)
            Image.fromarray(grey).save(tmp_path / folder / f"{number}.png")
    return [
        *("evaluate", "--generated", str(tmp_path / "made"), "--target", str(tmp_path / "true")),
        *("--alexnet-weights", "off", "--inception-weights", "off"),
    ]


def check(line: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(line) == 0
    assert "brightness_error ↓" in capsys.readouterr().out
    written = json.loads((folder / "metrics.json").read_text())
    assert written["rows"]["generated"]["brightness_error"] == 10.0
    assert "brightness_error" in written["intervals"]["generated"]
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    assert {float(row["brightness_error"]) for row in rows if row["row"] == "generated"} == {10.0}
    assert "brightness_error" in (folder / "metrics.html").read_text().replace("<wbr>", "")


def test_a_registered_metric(
    line: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    @registry.register
    class Brightness(PairMetric):
        name = "brightness_error"
        higher_is_better = False
        decimals = 1

        def measure(self, generated: Pixels, ground_truth: Pixels) -> float:
            return abs(float(generated.mean()) - float(ground_truth.mean()))

    check(line, tmp_path / "made", capsys)


def test_a_metric_of_an_installed_package(
    line: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "brightness_for_xmdpt.py").write_text(BRIGHTNESS)
    info = tmp_path / "brightness_for_xmdpt-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: brightness-for-xmdpt\nVersion: 1.0\n"
    )
    (info / "entry_points.txt").write_text(
        "[xmdpt_cli.metrics]\nbrightness = brightness_for_xmdpt:Brightness\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        check(line, tmp_path / "made", capsys)
    finally:
        sys.modules.pop("brightness_for_xmdpt", None)


def test_a_name_that_is_taken_is_refused() -> None:
    class Mine(PairMetric):
        name = "psnr"
        higher_is_better = True

    with pytest.raises(XmdptError, match="a metric named psnr already"):
        registry.register(Mine)
