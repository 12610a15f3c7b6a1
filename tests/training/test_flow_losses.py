"""The losses on the flow of attention: which rows and blocks count, and a run with them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from small_data import CONFIG, logged
from torch import Tensor

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.diffusion import Losses
from xmdpt_cli.errors import ConfigError
from xmdpt_cli.model.attention_flow import keypoint_error, warp_error
from xmdpt_cli.training.config import TrainConfig
from xmdpt_cli.training.flow_losses import flow_blocks, with_flow_losses
from xmdpt_cli.training.loop import train
from xmdpt_cli.training.step import Inputs, step_inputs
from xmdpt_cli.training.task import TrainTask
from xmdpt_cli.training.trainer import Trainer

WEIGHTS = {"attention_flow_weight": 0.5, "attention_flow_joints": 2.0}
TOKENS = dataclasses.replace(CONFIG, conditioning="tokens", **WEIGHTS)


def made(timesteps: list[int], keep: list[bool]) -> tuple[Inputs, Tensor]:
    """Inputs that the losses read, and flows (2, N, T, 2)."""
    n = len(timesteps)
    nothing = torch.empty(0)
    inputs = Inputs(
        target=torch.randn(n, 4, 8, 8), source=torch.randn(n, 4, 8, 8), noise=nothing,
        masked_noise=None, timesteps=torch.tensor(timesteps), keep=torch.tensor(keep),
        keep_masked=nothing, pose_tokens=nothing, source_tokens=nothing, mask=None,
        pose_maps=None, target_tokens=None, joints=torch.rand(n, 2, 18, 2),
    )  # fmt: skip
    return inputs, torch.rand(2, n, 16, 2, requires_grad=True)


def test_rows_without_a_match_add_nothing_to_the_mean() -> None:
    inputs, flows = made([499, 500, 0, 999], [True, True, False, True])
    base = Losses(torch.tensor(1.0), torch.ones(4))
    losses = with_flow_losses(base, flows, inputs, TOKENS)
    assert inputs.joints is not None
    warped = (warp_error(flow[:1], inputs.source[:1], inputs.target[:1]) for flow in flows)
    led = (keypoint_error(flow[:1], inputs.joints[:1]) for flow in flows)
    each = 0.5 * torch.stack(list(warped)).mean() + 2.0 * torch.stack(list(led)).mean()
    torch.testing.assert_close(losses.total, 1 + each / 4)
    (grad,) = torch.autograd.grad(losses.total, flows)
    assert bool(grad[:, 0].any())
    assert not bool(grad[:, 1:].any())
    assert losses.flow is not None
    assert losses.flow_joints is not None
    assert (losses.flow != 0).tolist() == [True, False, False, False]
    inputs, flows = made([500, 700], [True, True])
    assert with_flow_losses(base, flows, inputs, TOKENS).total.item() == 1


def test_which_blocks_are_supervised() -> None:
    assert list(flow_blocks(TrainConfig(), 10)) == []
    assert list(flow_blocks(TOKENS, 10)) == [5, 6, 7, 8, 9]
    assert list(flow_blocks(dataclasses.replace(TOKENS, attention_flow_layers=2), 10)) == [8, 9]
    with pytest.raises(ConfigError, match="at most 2"):
        flow_blocks(dataclasses.replace(TOKENS, attention_flow_layers=3), 2)
    with pytest.raises(ConfigError, match="which conditioning 'vector' does not have"):
        dataclasses.replace(CONFIG, **WEIGHTS)


def test_a_run_lowers_the_distance_at_the_keypoints(data: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(
        TOKENS, steps=24, log_every=8, attention_flow_joints=50.0, predictor="none",
        timestep_power=4.0,
    )  # fmt: skip
    train(config, data, tmp_path / "run")
    rows = logged(tmp_path / "run")
    assert all(row["attention_flow"] > 0 for row in rows)
    assert rows[-1]["attention_flow_joints"] < 0.8 * rows[0]["attention_flow_joints"]


def test_the_losses_have_gradients_to_the_attention_to_the_source(data: Path) -> None:
    trainer = Trainer(TrainTask(TOKENS, PairDataset(data)))
    assert trainer.model.tokens is not None
    torch.nn.init.normal_(trainer.model.tokens.source_kv.bias)
    batch = trainer.loader().batch(0)
    inputs = step_inputs(batch, TOKENS, 0, trainer.task.scale, trainer.device)
    inputs = inputs._replace(timesteps=torch.zeros_like(inputs.timesteps))
    both = trainer.run(inputs)
    assert both.flow is not None
    plain = Trainer(
        TrainTask(dataclasses.replace(TOKENS, attention_flow_weight=0.0), trainer.task.dataset)
    )
    plain.model.load_state_dict(trainer.model.state_dict())
    one = plain.run(inputs)
    assert one.flow is None
    torch.testing.assert_close(both.total - one.total, 0.5 * both.flow.mean(), rtol=1e-3, atol=1e-5)
