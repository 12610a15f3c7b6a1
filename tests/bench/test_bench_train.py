"""What a training step is measured against: it must be the published computation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from xmdpt_cli.bench.published import PublishedXMDPT
from xmdpt_cli.bench.train import (
    main,
    make_inputs,
    online_step,
    our_step,
    published_step,
    randomise,
)
from xmdpt_cli.model import XMDPT
from xmdpt_cli.model.convert import from_published
from xmdpt_cli.training.step import Inputs
from xmdpt_cli.training.train_config import TrainConfig


@torch.no_grad()
def test_the_published_way_gives_the_published_outputs(shared: Callable[[str], Path]) -> None:
    golden = load_file(shared("golden/dev_a.safetensors"))
    state = {k[6:]: v for k, v in golden.items() if k.startswith("state.")}
    net = PublishedXMDPT(from_published(state)).eval()
    own = net.state_dict()
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


def test_the_command_in_short(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--size", "tiny", "--batch-size", "1", "--rounds", "1", "--no-compile"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[1:]] == ["published", "ours"]
    assert "processor s" in lines[1]
