"""What a training step is measured against: it must be the published computation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from xmdpt_cli.bench import train
from xmdpt_cli.bench.flops import flops
from xmdpt_cli.bench.published import PublishedXMDPT
from xmdpt_cli.bench.random_networks import randomise
from xmdpt_cli.bench.train import (
    CPU,
    make_inputs,
    measure_training,
    online_step,
    our_step,
    published_step,
)
from xmdpt_cli.diffusion import Schedule
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.model import XMDPT
from xmdpt_cli.model.published import from_published, published_tensors
from xmdpt_cli.training.config import TrainConfig
from xmdpt_cli.training.flops import step_flops
from xmdpt_cli.training.step import Inputs, TrainStep


@torch.no_grad()
def test_the_published_way_gives_the_published_outputs(shared: Callable[[str], Path]) -> None:
    golden = load_file(shared("golden/dev_a.safetensors"))
    state = {k[6:]: v for k, v in golden.items() if k.startswith("state.")}
    net = PublishedXMDPT(from_published(state)).eval()
    own = published_tensors(net.model.state_dict())
    assert own.keys() == state.keys()
    assert all(torch.equal(own[key], state[key].float()) for key in state)
    there = torch.ones(3, dtype=torch.bool)
    inputs = [golden["in." + key] for key in ("x", "t")]
    inputs += [golden["in.dino_tgt_pose"].float(), golden["in.dino_src_img"].float()]
    inputs.append(golden["in.src_img"])
    for name, keep, noise in (
        ("eps_cond", there, None),
        ("eps_uncond", ~there, None),
        ("eps_masked", there, golden["in.mask_noise"]),
    ):
        out, expected = net(*inputs, keep, noise), golden[f"out.{name}"]
        assert float((out - expected).abs().max() / expected.abs().max()) < 1e-5, name


def small() -> tuple[XMDPT, TrainConfig, Inputs, Tensor]:
    """A small model with weights that all matter, its recipe and what a step takes."""
    torch.manual_seed(0)
    model = XMDPT.from_size("tiny", latent_size=8, depth=4)
    randomise(model)
    return model, TrainConfig(size="tiny", learning_rate=1e-3), *make_inputs(model, 2)


def test_both_ways_take_the_same_steps() -> None:
    """Not the same loss only: after three steps of AdamW the weights have gone the same way."""
    model, config, inputs, uniform = small()
    published = published_step(model, config, inputs, uniform)
    ours = our_step(model, config, inputs, compiled=False)
    losses = [(published(), ours()) for _ in range(3)]
    for theirs, mine in losses:
        assert mine == pytest.approx(theirs, rel=1e-3)
    assert losses[0][1] == pytest.approx(losses[0][0], rel=1e-5)
    assert losses[2][1] < losses[0][1]


def test_online_the_same_step_follows_the_encoders() -> None:
    model, config, inputs, uniform = small()
    cached = published_step(model, config, inputs, uniform)
    seen: list[tuple[tuple[int, ...], bool]] = []
    encoders = [
        (lambda x: seen.append((tuple(x.shape), torch.is_grad_enabled())), side) for side in (8, 16)
    ]
    online = online_step(published_step(model, config, inputs, uniform), encoders, 2)
    assert [online() for _ in range(3)] == [cached() for _ in range(3)]
    assert seen == [((4, 3, 8, 8), False), ((4, 3, 16, 16), False)] * 3


def test_a_report_in_short() -> None:
    sizes = ["tiny", "S"]
    report = measure_training(sizes, CPU, torch.float32, 2, pixels=64, compiled=False, rounds=2)
    published, ours, other, _ = report.rows
    assert other.speedup == {}  # another model's: nothing to be compared with
    assert [published.key, ours.key] == ["X-MDPT-tiny / published", "X-MDPT-tiny / ours"]
    assert published.gflop is not None
    assert ours.gflop is not None
    assert published.gflop > 1.1 * ours.gflop > 0  # the source view runs through all blocks
    assert ours.speedup["first"].rounds == pytest.approx([
        a / b for a, b in
        zip(published.seconds.rounds, ours.seconds.rounds, strict=True)
    ])  # fmt: skip
    assert 0 <= report.data_wait["X-MDPT-tiny"] < 1


def test_a_report_with_encoders_in_the_published_step(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = torch.nn.Conv2d(3, 4, 3)
    monkeypatch.setattr(train, "published_encoders", lambda *_: [(encoder, 16)])
    report = measure_training(
        ["tiny"], CPU, torch.float32, 2, pixels=64, compiled=False, online=True, rounds=1
    )
    published, online, ours = report.rows
    assert [row.key.split(" / ")[1] for row in report.rows] == [
        "published", "published, online", "ours",
    ]  # fmt: skip
    # two images of every pair; the convolution alone is beside the step's work
    assert (online.gflop or 0) - (published.gflop or 0) == pytest.approx(
        2 * 2 * 14**2 * 4 * 27 / 1e9
    )
    assert "first" in ours.speedup


def test_flops_of_a_step_are_the_trainings_own_count() -> None:
    """What ``bench train`` counts as it runs is what training counts on shapes for its MFU."""
    model, config, inputs, _ = small()
    ran = flops(our_step(model, config, inputs, compiled=False), gradients=True)
    assert ran == step_flops(TrainStep(model, config, Schedule()), inputs)


def test_nothing_is_timed_where_losses_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "our_step", lambda *_: lambda: 1.0)
    with pytest.raises(XmdptError, match="tiny, ours: the loss is 1"):
        measure_training(["tiny"], CPU, torch.float32, 1, pixels=64, compiled=False, rounds=1)
