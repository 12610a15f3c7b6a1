"""100 steps of the training loop against a loop written from the equations.

In these steps the loss falls to a third and the average covers three times its own span
(1 / (1 - 0.97) steps), so that a wrong term of either would show.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from plain import train_plainly
from safetensors.torch import load_file
from small_data import CONFIG

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.model.xmdpt import SIZES
from xmdpt_cli.training.loop import train
from xmdpt_cli.training.task import TrainTask
from xmdpt_cli.training.trainer import Trainer


def test_100_steps_equal_the_equations(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SIZES, "tiny", (4, 64, 2))  # the same operations in less time
    steps = 100
    config = dataclasses.replace(
        CONFIG, steps=steps, batch_size=2, ema=0.97, ema_warmup=False, learning_rate=3e-4,
        checkpoint_every=steps,
    )  # fmt: skip
    trainer = Trainer(TrainTask(config, PairDataset(data)))
    start = {k: v.detach().clone() for k, v in trainer.model.state_dict().items()}
    loader = trainer.loader()
    losses, average = train_plainly(
        start,
        loader.batch,
        steps,
        config.learning_rate,
        config.ema,
        scale=trainer.task.scale,
        drop=config.cond_drop_prob,
        ratio=config.mask_ratio,
        depth=len(trainer.model.tdnet.blocks),
        heads=trainer.model.tdnet.heads,
    )
    done = train(config, data, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, steps + 1))
    found = np.array([row["loss"] for row in rows])
    assert np.abs(found - np.array(losses)).max() < 1e-3
    # they are not equal for standing still
    assert np.mean(losses[-20:]) < 0.5 * np.mean(losses[:20])
    ema = load_file(done.model / "model.safetensors")
    moved = max(float((ema[k] - start[k]).abs().max()) for k in start)
    apart = max(float((ema[k] - average[k]).abs().max()) for k in start)
    assert moved > 1e-3
    assert apart < 1e-2 * moved
    assert torch.isfinite(torch.stack([v.float().sum() for v in ema.values()])).all()
    assert pytest.approx(losses[0], abs=1e-5) == found[0]
