"""The log of a run: means, speeds, share of waiting, truncation on resuming; trackers."""

from __future__ import annotations

import json
import math
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from xmdpt_cli.diffusion import Losses
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.training.logger import WARN_SECONDS, MetricsLogger, read
from xmdpt_cli.training.step import logged_terms
from xmdpt_cli.training.tracker import open_tracker


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def losses(value: float, masked: bool = True) -> Losses:
    rows = torch.tensor([value, value + 2.0])
    half = rows / 2
    total = (rows + half).mean() * (2 if masked else 1)
    return Losses(total, rows, half, rows if masked else None, half if masked else None)


def run(
    log: MetricsLogger,
    clock: Clock,
    steps: range,
    *,
    seconds: float = 2.0,
    waited: float = 0.0,
    images: int = 8,
) -> None:
    for step in steps:
        clock.now += seconds
        log.log_step(logged_terms(losses(step)), step, images, waited, 1e-4)


def test_a_log_line_is_the_mean_since_the_last_line(tmp_path: Path) -> None:
    clock = Clock()
    log = MetricsLogger(tmp_path, 0, 4, flops_per_image=5e9, peak=1e12, clock=clock)
    run(log, clock, range(1, 9), waited=0.5)
    log.close()
    lines = read(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 4, 8]
    assert lines[2] == {
        "step": 8,
        "averaged_steps": 4,
        "mse": pytest.approx((5 + 6 + 7 + 8) / 4 + 1),
        "vb": pytest.approx(7.5 / 2),
        "masked_mse": pytest.approx(7.5),
        "masked_vb": pytest.approx(7.5 / 2),
        "loss": pytest.approx(2 * 1.5 * 7.5),
        "learning_rate": 1e-4,
        "images_per_second": pytest.approx(4.0),
        "steps_per_second": pytest.approx(0.5),
        "data_wait": pytest.approx(0.25),
        "mfu": pytest.approx(4 * 5e9 / 1e12),
    }
    assert log.last_loss == lines[2]["loss"]
    assert log.progress_values["masked"] == pytest.approx(1.5 * 7.5)
    assert list(log.progress_values) == ["loss", "images_per_second", "data_wait", "mfu", "masked"]


def test_the_newest_validation_loss_is_shown_after_the_loss(tmp_path: Path) -> None:
    log = MetricsLogger(tmp_path, 0, 1)
    for step, value in ((1, 0.5), (2, None), (3, 0.25)):
        log.log_step(logged_terms(losses(1.0)), step, 8, 0.0, 1e-4)
        if value is not None:
            log.log(step, {"val_loss": value, "val_mse": 9.0})
        shown = 0.25 if step == 3 else 0.5
        assert log.progress_values["val_loss"] == shown
    assert list(log.progress_values)[:2] == ["loss", "val_loss"]
    log.close()


def test_no_masked_loss_and_mfu_without_masked_pass_and_peak(tmp_path: Path) -> None:
    log = MetricsLogger(tmp_path, 0, 1)
    log.log_step(logged_terms(losses(1.0, masked=False)), 1, 8, 0.0, 1e-4)
    log.close()
    (line,) = read(tmp_path / "metrics.jsonl")
    assert not {"masked_mse", "masked_vb", "mfu", "gpu_memory"} & line.keys()
    assert "masked" not in log.progress_values


def test_pauses_do_not_count_as_training_time(tmp_path: Path) -> None:
    clock = Clock()
    log = MetricsLogger(tmp_path, 0, 2, clock=clock)
    run(log, clock, range(1, 2))
    with log.paused():
        clock.now += 1000.0
    run(log, clock, range(2, 3), waited=1.0)
    log.close()
    line = read(tmp_path / "metrics.jsonl")[-1]
    assert line["steps_per_second"] == pytest.approx(0.5)
    assert line["data_wait"] == pytest.approx(0.5)


def test_a_nan_loss_is_shown_and_written_as_null(tmp_path: Path) -> None:
    log = MetricsLogger(tmp_path, 0, 1)
    log.log_step(logged_terms(losses(math.inf)), 1, 8, 0.0, 1e-4)
    log.close()
    assert not math.isfinite(log.last_loss)
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["loss"] is None


def test_resuming_truncates_the_log_at_the_checkpoint(tmp_path: Path) -> None:
    clock = Clock()
    log = MetricsLogger(tmp_path, 0, 1, clock=clock)
    run(log, clock, range(1, 6))
    log.log(5, {"val_loss": 1.0})
    log.close()
    whole = (tmp_path / "metrics.jsonl").read_text()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "lo')  # what a full disk leaves
    # TensorBoard reads files in the order of their names: the second, then a counter as text (10
    # comes before 9), and no run resumes within the second in which it stopped
    time.sleep(1.1)
    log = MetricsLogger(tmp_path, 3, 1, clock=clock)
    assert (tmp_path / "metrics.jsonl").read_text() == "".join(whole.splitlines(True)[:3])
    run(log, clock, range(4, 6))
    assert not log.has(5, "val_loss")
    log.log(5, {"val_loss": 2.0})
    assert log.has(5, "val_loss")
    log.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [e.step for e in events.Scalars("loss")] == [1, 2, 3, 4, 5]
    assert [e.value for e in events.Scalars("val_loss")] == [2.0]


@pytest.mark.parametrize(("waited", "warned"), [(0.15, False), (0.25, True)])
def test_slow_data_loading_is_warned_about_once(
    tmp_path: Path, waited: float, warned: bool
) -> None:
    clock, messages = Clock(), []
    log = MetricsLogger(tmp_path, 0, 5, warn=messages.append, clock=clock)
    run(log, clock, range(1, 2), seconds=100.0, waited=99.0)  # the first batch
    run(log, clock, range(2, 15), waited=waited)
    assert messages == []
    assert WARN_SECONDS > 13 * 2.0
    run(log, clock, range(15, 101), waited=waited)
    log.close()
    assert len(messages) == warned
    if warned:
        assert "12% of the time" in messages[0]
        assert "local disk" in messages[0]


def test_a_few_short_steps_give_no_warning(tmp_path: Path) -> None:
    clock, messages = Clock(), []
    log = MetricsLogger(tmp_path, 0, 1, warn=messages.append, clock=clock)
    run(log, clock, range(1, 11), seconds=60.0, waited=59.0)
    assert messages == []
    run(log, clock, range(11, 31), seconds=60.0, waited=59.0)
    assert len(messages) == 1
    log.close()


class Module(types.ModuleType):
    """Replaces wandb or trackio; records the calls."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.started: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.finished = 0

    def init(self, **options: Any) -> Module:
        self.started.append(options)
        return self

    def log(self, values: dict[str, Any], step: int) -> None:
        self.logged.append((step, values))

    def Image(self, image: Any) -> Any:  # noqa: N802
        return ("image", image.shape)

    def finish(self) -> None:
        self.finished += 1


@pytest.mark.parametrize("kind", ["wandb", "trackio"])
def test_a_resumed_run_continues_the_tracked_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    module = Module(kind)
    monkeypatch.setitem(sys.modules, kind, module)
    monkeypatch.delenv(f"{kind.upper()}_PROJECT", raising=False)
    out = tmp_path / "my-run"
    out.mkdir()
    for done in (0, 2):
        tracker = open_tracker(kind, out, {"size": "S"})
        log = MetricsLogger(out, done, 1, tracker=tracker)
        log.log_step(logged_terms(losses(1.0)), done + 1, 8, 0.0, 1e-4)
        log.log_image(done + 1, "samples", np.zeros((4, 6, 3), np.uint8))
        log.close()
    first, second = module.started
    assert first == second
    assert first["name"].startswith("my-run-")
    assert first["project"] == "xmdpt"
    assert first["resume"] == "allow"
    assert first["config"] == {"size": "S"}
    assert [step for step, _ in module.logged] == [1, 1, 3, 3]
    assert module.logged[0][1]["loss"] == pytest.approx(6.0)
    assert module.logged[1][1] == {"samples": ("image", (4, 6, 3))}
    assert module.finished == 2


def test_a_tracker_that_is_missing_or_fails_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert open_tracker("none", tmp_path, {}) is None
    with pytest.raises(ConfigError, match="none, wandb, trackio"):
        open_tracker("mlflow", tmp_path, {})
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import of it fails
    with pytest.raises(ConfigError, match="wandb is not installed") as error:
        open_tracker("wandb", tmp_path, {})
    assert error.value.hint == "pip install wandb"

    class Refusing(Module):
        def init(self, **options: Any) -> Module:
            raise RuntimeError("api_key not configured (no-tty). call wandb.login()")

    monkeypatch.setitem(sys.modules, "wandb", Refusing("wandb"))
    with pytest.raises(XmdptError, match="wandb did not start: api_key"):
        open_tracker("wandb", tmp_path, {})
