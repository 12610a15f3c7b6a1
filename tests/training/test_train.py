"""Training on a small prepared dataset: the loss falls, runs resume to the bit, errors."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import Forked
from safetensors import SafetensorError
from safetensors.torch import load_file
from small_data import CONFIG, logged, same, weights

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.model import SIZES, XMDPT
from xmdpt_cli.storage.stores import open_store
from xmdpt_cli.training.loop import train
from xmdpt_cli.training.model_config import SIZE_NAMES
from xmdpt_cli.training.optimizer import learning_rate_factor
from xmdpt_cli.training.task import TrainTask
from xmdpt_cli.training.trainer import Trainer
from xmdpt_cli.utils import interrupts


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of ``CONFIG``."""
    run = tmp_path_factory.mktemp("finished") / "run"
    train(CONFIG, data, run)
    return run


@pytest.mark.parametrize("conditioning", ["vector", "tokens"])
def test_the_loss_falls(data: Path, tmp_path: Path, conditioning: str) -> None:
    config = dataclasses.replace(CONFIG, conditioning=conditioning, steps=40, log_every=10)
    train(config, data, tmp_path / "run")
    rows = logged(tmp_path / "run")
    assert [row["step"] for row in rows] == [1, 10, 20, 30, 40]
    assert rows[-1]["mse"] < 0.8 * rows[0]["mse"]
    assert rows[-1]["masked_mse"] < 0.8 * rows[0]["masked_mse"]
    assert list((tmp_path / "run").glob("events.out.tfevents.*"))


def test_the_exported_model_is_the_ema(finished: Path) -> None:
    model = XMDPT.from_pretrained(str(finished / "model"))
    ema = load_file(finished / "checkpoints/step_0000006/ema.safetensors")
    raw = load_file(finished / "checkpoints/step_0000006/model.safetensors")
    assert same(dict(model.state_dict()), ema)
    assert not same(ema, raw)
    metadata = json.loads((finished / "model/xmdpt.json").read_text())
    assert metadata["toy"] is True
    assert metadata["resolution"] == 32
    kept = sorted(p.name for p in (finished / "checkpoints").glob("step_*"))
    assert kept == ["step_0000004", "step_0000006"]
    assert (finished / "checkpoints/latest").read_text() == "step_0000006"


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_run_equals_an_uninterrupted_run(
    data: Path, tmp_path: Path, optimizer: str
) -> None:
    config = dataclasses.replace(CONFIG, optimizer=optimizer)
    train(config, data, tmp_path / "whole")
    train(dataclasses.replace(config, steps=2), data, tmp_path / "parts")
    train(dataclasses.replace(config, steps=5), data, tmp_path / "parts")
    train(config, data, tmp_path / "parts")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    last = "checkpoints/step_0000006/optimizer.safetensors"
    assert same(load_file(tmp_path / "whole" / last), load_file(tmp_path / "parts" / last))
    assert [row["step"] for row in logged(tmp_path / "parts")] == [1, 2, 3, 4, 5, 6]


def test_training_from_a_url_resumes_exactly(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    url = f"memory://{tmp_path.name}/data"
    for path in data.iterdir():
        if path.is_file():
            open_store(url).write(path.name, path.read_bytes())
    train(CONFIG, url, tmp_path / "whole")
    train(dataclasses.replace(CONFIG, steps=3), url, tmp_path / "parts")
    train(CONFIG, url, tmp_path / "parts")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_a_killed_run_resumes(data: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle; the same run again ends with the same weights."""
    config = dataclasses.replace(CONFIG, steps=16, checkpoint_every=3)
    run = tmp_path / "killed"
    process = Forked(train, config, data, run)
    deadline = time.monotonic() + 60
    while not (run / "checkpoints/latest").is_file() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (run / "model").exists()
    train(config, data, run)
    train(config, data, tmp_path / "whole")
    assert same(weights(run), weights(tmp_path / "whole"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_an_update_saves_the_complete_step(
    data: Path,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    """Weights that are half updated would be saved as the step before."""
    update, config = torch.optim.AdamW.step, dataclasses.replace(CONFIG, checkpoint_every=100)

    def interrupted(self: torch.optim.AdamW, *args: Any) -> Any:
        if any(float(state["step"]) == 2 for state in self.state.values()):
            os.kill(os.getpid(), number)  # before the third update
        return update(self, *args)

    with monkeypatch.context() as patch, interrupts.listening():
        patch.setattr(torch.optim.AdamW, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(config, data, tmp_path / "run")
    assert (tmp_path / "run/checkpoints/latest").read_text() == "step_0000003"
    train(config, data, tmp_path / "run")
    assert same(weights(tmp_path / "run"), weights(finished))


def test_other_settings_are_refused_by_name(data: Path, tmp_path: Path) -> None:
    short = dataclasses.replace(CONFIG, steps=1)
    train(short, data, tmp_path / "run")
    with pytest.raises(XmdptError, match=r"learning_rate: 0.001 -> 0.5"):
        train(dataclasses.replace(short, learning_rate=0.5), data, tmp_path / "run")
    assert tuple(SIZES) == SIZE_NAMES
    with pytest.raises(ConfigError, match=f"size must be one of {', '.join(SIZES)}, not 'huge'"):
        train(dataclasses.replace(short, size="huge"), data, tmp_path / "huge")
    assert not (tmp_path / "huge").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/mine.txt").write_text("precious")
    with pytest.raises(XmdptError, match="not empty"):
        train(short, data, tmp_path / "other")
    assert (tmp_path / "other/mine.txt").read_text() == "precious"


@pytest.mark.parametrize("left", [["config.toml"], ["config.toml", "run.json.part", ".lock"]])
def test_a_folder_of_an_unfinished_start_is_started_again(
    data: Path, tmp_path: Path, left: list[str]
) -> None:
    """A full disk or a kill between the first two files of a run."""
    (tmp_path / "run").mkdir()
    for name in left:
        (tmp_path / "run" / name).write_text("half")
    train(dataclasses.replace(CONFIG, steps=1), data, tmp_path / "run")
    assert (tmp_path / "run/model/model.safetensors").is_file()


def test_log_lines_contain_the_number_of_averaged_steps(data: Path, tmp_path: Path) -> None:
    """An interruption splits an averaging window of the log."""
    config = dataclasses.replace(CONFIG, log_every=4, steps=3)
    train(config, data, tmp_path / "run")
    train(dataclasses.replace(config, steps=8), data, tmp_path / "run")
    rows = [(row["step"], row["averaged_steps"]) for row in logged(tmp_path / "run")]
    assert rows == [(1, 1), (3, 2), (4, 1), (8, 4)]


def test_a_run_without_checkpoints_can_be_replaced(
    data: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(self: Trainer, batch: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(dataclasses.replace(CONFIG, learning_rate=0.5), data, tmp_path / "run")
    train(CONFIG, data, tmp_path / "run")
    assert same(weights(tmp_path / "run"), weights(finished))
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["config"]["learning_rate"] == CONFIG.learning_rate
    assert "forced" not in record


def test_force_allows_some_settings_to_change(data: Path, tmp_path: Path) -> None:
    short = dataclasses.replace(CONFIG, steps=2)
    train(short, data, tmp_path / "run")
    other = dataclasses.replace(short, steps=4, learning_rate=0.002, batch_size=2)
    with pytest.raises(XmdptError, match="batch_size: 4 -> 2") as caught:
        train(other, data, tmp_path / "run", force=True)
    assert "cannot change batch_size" in caught.value.hint
    may = dataclasses.replace(other, batch_size=4)
    with pytest.raises(XmdptError, match=r"learning_rate: 0.001 -> 0.002") as caught:
        train(may, data, tmp_path / "run")
    assert "--force" in caught.value.hint
    before = (tmp_path / "run/run.json").read_bytes()
    with pytest.raises(XmdptError, match=r"no step is left .* step 2 of 2"):
        train(dataclasses.replace(may, steps=2), data, tmp_path / "run", force=True)
    assert (tmp_path / "run/run.json").read_bytes() == before
    train(may, data, tmp_path / "run", force=True)
    record = json.loads((tmp_path / "run/run.json").read_text())
    change = {"from": "step_0000002", "learning_rate": "0.001 -> 0.002"}
    assert record["forced"] == [change]
    assert record["config"]["learning_rate"] == 0.002
    assert logged(tmp_path / "run")[-1]["learning_rate"] == 0.002
    train(dataclasses.replace(may, steps=5), data, tmp_path / "run")  # now these are its settings


def test_micro_batches_change_only_where_the_loss_does_not(data: Path, tmp_path: Path) -> None:
    plain = dataclasses.replace(CONFIG, steps=1, batch_size=4)
    compares = dataclasses.replace(plain, contrastive_weight=0.05)
    for name, config in (("plain", plain), ("compares", compares)):
        train(config, data, tmp_path / name)
    parts = {"steps": 2, "accumulate": 2}
    train(dataclasses.replace(plain, **parts), data, tmp_path / "plain")
    with pytest.raises(XmdptError, match="accumulate: 1 -> 2") as caught:
        train(dataclasses.replace(compares, **parts), data, tmp_path / "compares")
    assert "--force" in caught.value.hint


def test_force_adds_and_removes_no_repa(data: Path, tmp_path: Path) -> None:
    """Its projector is part of the model; nothing is written before that is said."""
    for before, after in ((0.0, 0.5), (0.5, 0.0)):
        run = tmp_path / str(before)
        config = dataclasses.replace(CONFIG, steps=2, repa_weight=before, repa_layer=2)
        train(config, data, run)
        record = (run / "run.json").read_bytes()
        other = dataclasses.replace(config, steps=4, repa_weight=after)
        with pytest.raises(XmdptError, match=f"repa_weight: {before} -> {after}") as caught:
            train(other, data, run, force=True)
        assert "cannot change repa_weight" in caught.value.hint
        assert (run / "run.json").read_bytes() == record
    train(dataclasses.replace(config, steps=4, repa_weight=0.25), data, run, force=True)


def test_weights_of_another_model_are_refused(data: Path, tmp_path: Path) -> None:
    train(CONFIG, data, tmp_path / "run")
    train(dataclasses.replace(CONFIG, conditioning="tokens"), data, tmp_path / "other")
    place = "checkpoints/step_0000006"
    shutil.rmtree(tmp_path / "run" / place)
    shutil.copytree(tmp_path / "other" / place, tmp_path / "run" / place)
    with pytest.raises(XmdptError, match="conditioning"):
        train(dataclasses.replace(CONFIG, steps=8), data, tmp_path / "run")


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Trainer.step

    def poisoned(self: Trainer, batch: Any) -> Any:
        if self.done == 3:
            with torch.no_grad():
                self.model.tdnet.pos_embed.fill_(float("nan"))
        return before(self, batch)

    monkeypatch.setattr(Trainer, "step", poisoned)
    with pytest.raises(XmdptError, match="not finite at step 4"):
        train(CONFIG, data, tmp_path / "run")
    assert (tmp_path / "run/checkpoints/latest").read_text() == "step_0000002"
    ema = load_file(tmp_path / "run/checkpoints/step_0000002/ema.safetensors")
    assert all(bool(value.isfinite().all()) for value in ema.values())


def test_weights_that_are_not_finite_are_not_saved(data: Path, tmp_path: Path) -> None:
    """An update that overflows after a finite loss."""
    config = dataclasses.replace(CONFIG, steps=1, learning_rate=1e38, warmup_steps=0, ema=0.5)
    with pytest.raises(XmdptError, match="the weights are not finite at step 1") as caught:
        train(config, data, tmp_path / "run")
    assert "nothing was saved before" in caught.value.hint
    assert not (tmp_path / "run/checkpoints/latest").exists()


def test_an_interrupt_saves_a_checkpoint(
    data: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Trainer.step

    def interrupted(self: Trainer, batch: Any) -> Any:
        if self.done == 3:
            raise KeyboardInterrupt
        return before(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(CONFIG, data, tmp_path / "run")
    assert (tmp_path / "run/checkpoints/latest").read_text() == "step_0000003"
    train(CONFIG, data, tmp_path / "run")
    assert same(weights(tmp_path / "run"), weights(finished))
    assert [row["step"] for row in logged(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("name", ["model.safetensors", "ema.safetensors"])
def test_a_broken_checkpoint_is_refused(
    data: Path, finished: Path, tmp_path: Path, name: str
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    bad = tmp_path / "run/checkpoints/step_0000006" / name
    bad.write_bytes(bad.read_bytes()[:100])
    with pytest.raises(XmdptError, match=f"step_0000006: {name} has 100 bytes instead") as caught:
        train(dataclasses.replace(CONFIG, steps=8), data, tmp_path / "run")
    assert "rm -r" in caught.value.hint
    assert "resumes from step_0000004" in caught.value.hint


def test_learning_rate_schedule() -> None:
    factors = [learning_rate_factor(step, 110, 10, "cosine") for step in (0, 10, 60, 110)]
    assert factors == pytest.approx([0.1, 1.0, 0.5, 0.0])
    assert learning_rate_factor(109, 110, 10, "none") == 1.0


def test_the_ema_follows_its_formula(data: Path) -> None:
    trainer = Trainer(
        TrainTask(dataclasses.replace(CONFIG, ema=0.9, ema_warmup=False), PairDataset(data))
    )
    start = trainer.model.tdnet.pos_embed.detach().clone()
    trainer.step(iter([trainer.loader().batch(0)]))
    expected = 0.9 * start + 0.1 * trainer.model.tdnet.pos_embed.detach()
    torch.testing.assert_close(trainer.ema.model.tdnet.pos_embed, expected)


def test_a_full_disk_is_an_error_and_the_run_resumes(
    data: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(dataclasses.replace(CONFIG, steps=2), data, tmp_path / "run")

    def full(*_: object) -> None:
        raise SafetensorError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("xmdpt_cli.training.checkpoint.save_file", full)
        with pytest.raises(XmdptError, match="No space left") as error:
            train(CONFIG, data, tmp_path / "run")
    assert "make room" in (error.value.hint or "")
    with open(tmp_path / "run/metrics.jsonl", "a") as log:
        log.write('{"step": 3, "lo')  # what a full disk leaves of a line
    kept = sorted(p.name for p in (tmp_path / "run/checkpoints").iterdir())
    assert kept == ["latest", "step_0000002"]
    train(CONFIG, data, tmp_path / "run")
    assert same(weights(tmp_path / "run"), weights(finished))
    assert [row["step"] for row in logged(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]


def test_a_run_of_an_earlier_version_is_refused_by_name(data: Path, tmp_path: Path) -> None:
    """Its run.json lacks a setting."""
    train(dataclasses.replace(CONFIG, steps=2), data, tmp_path / "run")
    known = tmp_path / "run/run.json"
    record = json.loads(known.read_text())
    del record["config"]["masked_noise"]
    known.write_text(json.dumps(record))
    with pytest.raises(XmdptError, match=r"another run.*masked_noise: None -> independent"):
        train(CONFIG, data, tmp_path / "run")


def test_gradients_are_clipped_at_their_norm(data: Path) -> None:
    def first_step(limit: float) -> Trainer:
        config = dataclasses.replace(CONFIG, max_grad_norm=limit)
        made = Trainer(TrainTask(config, PairDataset(data)))
        made.step(iter([made.loader().batch(0)]))
        return made

    def gradients(of: Trainer) -> torch.Tensor:
        return torch.cat([p.grad.flatten() for p in of.model.parameters() if p.grad is not None])

    free = gradients(first_step(0.0))
    norm = float(free.norm())
    clipped = gradients(first_step(norm / 4))
    torch.testing.assert_close(clipped, free / 4, rtol=1e-4, atol=1e-8)
    assert torch.equal(gradients(first_step(norm * 4)), free)
