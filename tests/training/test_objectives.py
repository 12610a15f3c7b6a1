"""The options of the training loss in the step: model guidance, contrastive flow matching,
the end of REPA."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from small_data import CONFIG, logged
from small_data import weights as weights_of
from torch import Tensor

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.training.config import TrainConfig
from xmdpt_cli.training.flops import step_flops
from xmdpt_cli.training.loop import train
from xmdpt_cli.training.step import Inputs, step_inputs
from xmdpt_cli.training.task import TrainTask
from xmdpt_cli.training.trainer import Trainer


def trainer(data: Path, **changes: Any) -> Trainer:
    return Trainer(TrainTask(dataclasses.replace(CONFIG, **changes), PairDataset(data)))


def inputs_of(run: Trainer) -> Inputs:
    inputs = step_inputs(run.loader().batch(0), run.config, 0, run.task.scale, run.device)
    keep = torch.tensor([True, True, False, True])
    return inputs._replace(keep=keep, keep_masked=keep.flip(0))


def outputs(run: Trainer, inputs: Inputs, kept: bool) -> tuple[Tensor, Tensor]:
    """Both passes of the reference model, the rows with or without conditions."""
    model, t, schedule = run.model, inputs.timesteps, run.module.schedule
    condition = model.condition(inputs.pose_tokens, inputs.source_tokens, inputs.source)
    keep = inputs.keep & kept
    out = model(schedule.add_noise(inputs.target, inputs.noise, t), t, condition, None, keep)
    noisy = schedule.add_noise(inputs.target, inputs.masked_noise, t)
    keep = inputs.keep_masked & kept
    masked = model.forward_masked(noisy, t, condition, inputs.source, inputs.mask, None, keep)
    return out[:, :4], masked[:, :4]


@pytest.mark.parametrize("prediction", ["epsilon", "flow"])
def test_model_guidance_of_both_passes(data: Path, prediction: str) -> None:
    kind = "flow" if prediction == "flow" else "linear"
    run = trainer(data, model_guidance=0.5, prediction=prediction, schedule=kind)
    for parameter in run.model.parameters():  # adaLN-Zero would leave the conditions unused
        parameter.data += 0.02 * torch.randn_like(parameter)
    inputs = inputs_of(run)
    losses = run.run(inputs)
    assert losses.masked_mse is not None
    with torch.no_grad():
        found, bare = outputs(run, inputs, True), outputs(run, inputs, False)
    noises = (inputs.noise, inputs.masked_noise)
    keeps = (inputs.keep, inputs.keep_masked)
    for mse, out, other, noise, keep in zip(
        (losses.mse, losses.masked_mse), found, bare, noises, keeps, strict=True
    ):
        target = noise if prediction == "epsilon" else noise - inputs.target
        target = target + 0.5 * (out - other) * keep[:, None, None, None]
        torch.testing.assert_close(
            mse, (out - target).square().mean(dim=(1, 2, 3)), rtol=1e-3, atol=1e-5
        )
    losses.total.backward()
    assert run.task.metadata()["sampling"]["guidance"] == 1.0


def test_model_guidance_costs_one_forward_pass(data: Path) -> None:
    plain, guided = (trainer(data, model_guidance=w, predictor="none") for w in (0.0, 0.5))
    cost, more = (step_flops(run.module, inputs_of(run)) for run in (plain, guided))
    assert 1.2 < more / cost < 1.45  # a third, as the backward pass costs two


def test_contrastive_weight_changes_both_passes(data: Path) -> None:
    plain, contrastive = (trainer(data, contrastive_weight=w) for w in (0.0, 0.1))
    inputs = inputs_of(plain)
    a, b = plain.run(inputs), contrastive.run(inputs)
    assert inputs.masked_noise is not None
    with torch.no_grad():
        found = outputs(plain, inputs, True)
    order = [1, 2, 3, 0]
    away = sum(
        (keep * (out - noise[order]).square().mean(dim=(1, 2, 3))).mean()
        for out, noise, keep in (
            (found[0], inputs.noise, inputs.keep),
            (found[1], inputs.masked_noise, inputs.keep_masked),
        )
    )
    torch.testing.assert_close(a.total - b.total, 0.1 * away, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(a.mse, b.mse)


def test_repa_ends_after_its_share_of_the_steps(data: Path, tmp_path: Path) -> None:
    """Its projector is trained until then, and a resumed run ends at the same step."""
    config = dataclasses.replace(
        CONFIG, steps=4, repa_weight=0.5, repa_layer=2, repa_until=0.5, repa_projector="conv",
        repa_norm="spatial", checkpoint_every=1,
    )  # fmt: skip
    run = Trainer(TrainTask(config, PairDataset(data)))
    loader, gradients, weights = run.loader(), [], []
    for step in range(4):
        batch = loader.batch(step)
        inputs = step_inputs(batch, config, step, run.task.scale, run.device)
        weights.append(float(inputs.repa_weight))  # type: ignore[arg-type]
        run.step(iter([batch]))
        gradients.append(float(run.model.repa_projector.conv.weight.grad.abs().max()))  # type: ignore
    assert weights == [0.5, 0.5, 0.0, 0.0]
    assert [gradient > 0 for gradient in gradients] == [True, True, False, False]
    train(config, data, tmp_path / "whole")
    first = logged(tmp_path / "whole")[0]  # the loss and its terms
    parts = sum(first[name] for name in ("mse", "vb", "masked_mse", "masked_vb"))
    assert first["loss"] == pytest.approx(parts + 0.5 * (1 - first["repa"]), rel=1e-5)
    for part in (1, 3, 4):
        again = Trainer(TrainTask(config, PairDataset(data)))
        again.resume(tmp_path / "parts")
        batches = again.loader()
        while again.done < part:
            again.step(iter([batches.batch(again.done)]))
        again.save(tmp_path / "parts")
    expected = weights_of(tmp_path / "whole")
    found = again.ema.model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_the_length_of_a_run_that_ends_repa_is_part_of_it(data: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, steps=2, repa_weight=0.5, repa_layer=2, repa_until=0.5)
    train(config, data, tmp_path / "run")
    with pytest.raises(XmdptError, match="steps: 2 -> 4"):
        train(dataclasses.replace(config, steps=4), data, tmp_path / "run")


def test_values_that_do_not_work_are_refused(data: Path) -> None:
    with pytest.raises(ConfigError, match="compares the pairs of a micro batch"):
        trainer(data, contrastive_weight=0.05, accumulate=4)
    for share in (0.0, 1.5):
        with pytest.raises(ConfigError, match="repa_until"):
            TrainConfig(repa_until=share)
    for name in ("model_guidance", "contrastive_weight"):
        with pytest.raises(ConfigError, match=rf"{name} lies in \[0, 1\)"):
            TrainConfig(**{name: 1.0})
    with pytest.raises(ConfigError, match="without conditions") as caught:
        TrainConfig(model_guidance=0.5, cond_drop_prob=0.0)
    assert caught.value.hint == "--cond-drop-prob 0.1"
    for name in ("learning_rate", "timestep_power", "logit_std", "power"):
        with pytest.raises(ConfigError, match=f"{name} must be positive and finite, not inf"):
            TrainConfig(**{name: math.inf})
    for value in (math.nan, math.inf):
        with pytest.raises(ConfigError, match=f"guidance is a number, not {value}"):
            TrainConfig(guidance=value)
    with pytest.raises(ConfigError, match="seed is at most 9223372036854775807"):
        TrainConfig(seed=2**63)
    with pytest.raises(ConfigError, match=r"resolution must be a multiple of 16, .* not 100"):
        TrainConfig(resolution=100)
    with pytest.raises(ConfigError, match="--patch 99 does not divide the latents' side"):
        trainer(data, patch=99)
    with pytest.raises(ConfigError, match="hides all 16 tokens"):
        trainer(data, predictor="self", mask_ratio=0.9, mask_span=0.05)


def test_settings_without_effect_are_named() -> None:
    settings = {"steps": 10, "ema_warmup": True}
    assert TrainConfig(**settings, warmup_steps=10).doubts() == []
    (doubt,) = TrainConfig(**settings, warmup_steps=40).doubts()
    assert "the learning rate ends at 25% of 0.0001" in doubt
    for guidance in (1.0, 2.0):  # 2 is the default
        assert TrainConfig(**settings, model_guidance=0.5, guidance=guidance).doubts() == []
    (doubt,) = TrainConfig(**settings, model_guidance=0.5, guidance=3.0).doubts()
    assert doubt == "guidance has no effect: model_guidance is 0.5"
