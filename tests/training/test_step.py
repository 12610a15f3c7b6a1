"""One step: its random numbers, its parts, its losses, and how it compiles."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.training_utils import compute_snr
from small_data import CONFIG
from torch._dynamo.testing import CompileCounter

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.diffusion import Schedule
from xmdpt_cli.training.config import TrainConfig
from xmdpt_cli.training.optimizer import make_optimizers
from xmdpt_cli.training.step import mask_ratio, step_inputs
from xmdpt_cli.training.step_noise import StepNoise
from xmdpt_cli.training.task import TrainTask
from xmdpt_cli.training.trainer import Trainer, compile_step


def trainer(data: Path, **changes: Any) -> Trainer:
    return Trainer(TrainTask(dataclasses.replace(CONFIG, **changes), PairDataset(data)))


def test_step_noise_depends_only_on_the_pair() -> None:
    whole = StepNoise.sample(3, range(8, 16), (4, 8, 8), 16)
    for part in (range(8, 12), range(12, 16), range(15, 16)):
        alone = StepNoise.sample(3, part, (4, 8, 8), 16)
        for some, all_ in zip(alone, whole, strict=True):
            assert torch.equal(some, all_[part.start - 8 : part.stop - 8])
    assert not torch.equal(StepNoise.sample(4, range(8, 16), (4, 8, 8), 16).noise, whole.noise)


def test_step_noise_is_normal_and_timesteps_uniform() -> None:
    step_noise = StepNoise.sample(0, range(200), (4, 8, 8), 16)
    flat = torch.cat([step_noise.target, step_noise.source, step_noise.noise]).flatten()
    assert abs(float(flat.mean())) < 0.01
    assert float(flat.std()) == pytest.approx(1.0, abs=0.01)
    correlation = torch.corrcoef(torch.stack([d.flatten() for d in step_noise[:3]]))
    assert float((correlation - torch.eye(3)).abs().max()) < 0.02
    for values in (*step_noise.uniform.unbind(1), step_noise.tokens.flatten()):
        assert float(values.min()) >= 0
        assert float(values.max()) < 1
        assert float(values.mean()) == pytest.approx(0.5, abs=0.08)


def test_accumulated_parts_equal_the_full_batch(data: Path) -> None:
    """Accumulated gradients equal those of the large batch, and so do the weights."""
    whole = trainer(data, batch_size=8, optimizer="adamw")
    loader = whole.loader()
    losses = [whole.step(iter([loader.batch(i)])) for i in range(3)]
    for accumulate in (2, 4):
        parts = trainer(data, batch_size=8, accumulate=accumulate)
        small = parts.loader()
        for i in range(3):
            batches = iter([small.batch(i * accumulate + k) for k in range(accumulate)])
            found = parts.step(batches)
            torch.testing.assert_close(found.total, losses[i].total, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(found.mse, losses[i].mse, rtol=1e-4, atol=1e-5)
        for a, b in zip(parts.model.parameters(), whole.model.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=2e-5)


def test_sampled_mask_ratios_fill_their_range() -> None:
    config = dataclasses.replace(CONFIG, mask_ratio=0.3, mask_span=0.2)
    ratios = torch.tensor([mask_ratio(config, step) for step in range(1000)])
    assert float(ratios.min()) == pytest.approx(0.3, abs=0.005)
    assert float(ratios.max()) == pytest.approx(0.5, abs=0.005)
    assert float(ratios.mean()) == pytest.approx(0.4, abs=0.01)
    assert mask_ratio(CONFIG, 7) == CONFIG.mask_ratio


def test_the_noises_of_the_two_passes_are_independent(data: Path) -> None:
    """As published; the noise of the unmasked pass is the same either way."""
    run, shared = trainer(data), trainer(data, masked_noise="shared")
    batch = run.loader().batch(0)
    step_noise = batch.step_noise
    assert step_noise is not None
    inputs = step_inputs(batch, run.config, 0, run.task.scale, run.device)
    assert torch.equal(inputs.noise, step_noise.noise)
    assert inputs.masked_noise is not None
    many = StepNoise.sample(7, range(200), (4, 8, 8), 64)
    pair = torch.stack([many.noise.flatten(), many.masked_noise.flatten()])
    assert abs(float(pair.corrcoef()[0, 1])) < 5 / many.noise.numel() ** 0.5
    assert float(many.masked_noise.std()) == pytest.approx(1, abs=0.02)
    together = step_inputs(batch, shared.config, 0, run.task.scale, run.device)
    assert together.masked_noise is None

    a, b = run.run(inputs), shared.run(together)
    torch.testing.assert_close(a.mse, b.mse)
    assert a.masked_mse is not None
    # the masked pass equals that of inputs in which both passes have its noise
    alone = shared.run(together._replace(noise=inputs.masked_noise))
    torch.testing.assert_close(a.masked_mse, alone.masked_mse, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(a.masked_vb, alone.masked_vb, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(a.masked_mse, b.masked_mse, rtol=1e-2)  # type: ignore[arg-type]


def test_a_step_swaps_by_pair_or_all_together(data: Path) -> None:
    """All parts of an accumulated step are one batch."""

    def swaps(**more: Any) -> list[list[bool]]:
        loader = trainer(data, accumulate=2, **more).loader()
        read = loader.config
        parts = [read.swaps(read.pair_numbers(k), np.arange(2) < 1) for k in range(80)]
        return [[*parts[k], *parts[k + 1]] for k in range(0, 80, 2)]

    assert all(len(set(step)) == 2 for step in swaps())
    together = swaps(swap_by="batch")
    assert all(len(set(step)) == 1 for step in together)
    assert 5 < sum(step[0] for step in together) < 35


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_min_snr_weights_equal_the_paper(prediction: str) -> None:
    """Against diffusers' signal-to-noise ratios and the rule of its training scripts."""
    schedule = Schedule("linear", prediction)
    t = torch.arange(0, 1000, 7)

    class Scheduler:
        alphas_cumprod = schedule.alpha_bar.float()

    snr = compute_snr(Scheduler(), t)
    capped = torch.minimum(snr, torch.full_like(snr, 5.0))
    expected = capped / snr if prediction == "epsilon" else capped / (snr + 1)
    torch.testing.assert_close(schedule.weight("min-snr", t), expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(schedule.weight("none", t), torch.ones(len(t)))


def test_min_snr_only_weights_the_squared_error(data: Path) -> None:
    plain, weighted = trainer(data), trainer(data, loss_weighting="min-snr")
    batch = plain.loader().batch(0)
    inputs = step_inputs(batch, CONFIG, 0, plain.task.scale, plain.device)
    a, b = plain.run(inputs), weighted.run(inputs)
    assert torch.equal(a.mse, b.mse)
    weight = Schedule().weight("min-snr", inputs.timesteps)
    assert a.masked_mse is not None
    assert a.masked_vb is not None
    expected = (weight * (a.mse + a.masked_mse) + a.vb + a.masked_vb).mean()
    torch.testing.assert_close(b.total.detach(), expected)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adan_equals_its_formula(decay: float) -> None:
    """Algorithm 1 of the paper with the bias corrections of its published code, in float64."""
    rng = torch.Generator().manual_seed(0)
    model = torch.nn.Linear(5, 3, bias=False, dtype=torch.float64)
    weight = model.weight
    config = dataclasses.replace(CONFIG, optimizer="adan", learning_rate=0.1, weight_decay=decay)
    (optimizer,) = make_optimizers(model, config)
    x = weight.detach().clone()
    m, v, n = (torch.zeros_like(x) for _ in range(3))
    b1, b2, b3 = 0.02, 0.08, 0.01  # as the paper writes them
    before = None
    for k in range(1, 6):
        g = torch.randn(5, 3, generator=rng, dtype=torch.float64).T
        weight.grad = g.clone()
        optimizer.step()
        change = torch.zeros_like(g) if before is None else g - before
        m = (1 - b1) * m + b1 * g
        v = (1 - b2) * v + b2 * change
        n = (1 - b3) * n + b3 * (g + (1 - b2) * change) ** 2
        c1, c2, c3 = (1 - (1 - b) ** k for b in (b1, b2, b3))
        eta = 0.1 / ((n / c3).sqrt() + 1e-8)
        x = (x - eta * (m / c1 + (1 - b2) * v / c2)) / (1 + 0.1 * decay)
        before = g
        torch.testing.assert_close(weight.detach(), x, rtol=1e-5, atol=1e-6)


def test_repa_loss_decreases(data: Path) -> None:
    """The term is 1 - cosine; the cosine rises in training; the tokens are those of the target."""
    run = trainer(data, repa_weight=0.5, repa_layer=2)
    loader = run.loader()
    batch = loader.batch(0)
    inputs = step_inputs(batch, run.config, 0, run.task.scale, run.device)
    dataset = run.dataset
    assert inputs.target_tokens is not None
    key, views = batch.pairs[0].split("/")
    target = dataset.tensor(key, views.split(">")[1], "source_tokens" + "_flip" * batch.flipped[0])
    assert torch.equal(inputs.target_tokens[0], target)
    losses = run.run(inputs)
    plain = losses.mse + losses.vb
    assert losses.masked_mse is not None
    assert losses.masked_vb is not None
    assert losses.repa is not None
    total = plain + losses.masked_mse + losses.masked_vb + 0.5 * (1 - losses.repa)
    torch.testing.assert_close(losses.total.detach(), total.mean())
    first = float(losses.repa.mean())
    for _ in range(10):
        run.step(iter([batch]))
    again = run.run(inputs).repa
    assert again is not None
    assert float(again.mean()) > first + 0.1


#: options of the model and the loss that a step computes with further tensors
EXTENSIONS: dict[str, Any] = {
    "conditioning": "tokens",
    "positions": "rope",
    "qk_norm": True,
    "attention_flow_weight": 1e-3,
    "attention_flow_joints": 1.0,
    "schedule": "flow",
    "prediction": "flow",
    "model_guidance": 0.5,
    "contrastive_weight": 0.05,
    "repa_weight": 0.5,
    "repa_layer": 2,
    "repa_projector": "conv",
    "repa_norm": "spatial",
    "repa_until": 0.5,
}


@pytest.mark.parametrize("options", [{}, EXTENSIONS], ids=["published", "extensions"])
def test_a_step_is_one_graph_and_compiles_once(data: Path, options: dict[str, Any]) -> None:
    run = trainer(data, **options)
    counter = CompileCounter()
    plain = run.run
    compiled = torch.compile(plain, backend=counter, fullgraph=True, dynamic=False)
    loader = run.loader()
    batch = loader.batch(0)
    inputs = step_inputs(batch, run.config, 0, run.task.scale, run.device)
    torch.testing.assert_close(compiled(inputs).total, plain(inputs).total)
    run.run = compiled
    for step in range(1, 5):
        run.step(iter([loader.batch(step)]))
    assert counter.frame_count == 1


def test_a_gpu_runs_cuda_graphs_if_shapes_are_static_and_gradients_are_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "compile", lambda step, mode: mode)

    def mode(device: str, world_size: int = 1, **options: Any) -> object:
        config = TrainConfig(**options)
        return compile_step(torch.nn.Identity(), config, torch.device(device), world_size)

    assert mode("cuda") == "reduce-overhead"
    assert mode("cpu") is None
    assert mode("cuda", accumulate=2) is None
    assert mode("cuda", mask_span=0.2) is None
    assert mode("cuda", world_size=2) is None
