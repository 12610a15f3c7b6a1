"""The step that ``xmdpt bench train`` compares with must be the published computation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from xmdpt_cli.bench import machine, timing, train
from xmdpt_cli.bench.flops import flops
from xmdpt_cli.bench.published import PublishedXMDPT
from xmdpt_cli.bench.random_networks import randomise
from xmdpt_cli.bench.train import (
    CPU,
    make_inputs,
    measure_training,
    online_step,
    published_step,
    xmdpt_step,
)
from xmdpt_cli.diffusion import Schedule
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.model import XMDPT, Mask
from xmdpt_cli.model.published import from_published, published_tensors
from xmdpt_cli.training.config import TrainConfig
from xmdpt_cli.training.flops import step_flops
from xmdpt_cli.training.step import Inputs, TrainStep


@pytest.fixture(autouse=True)
def _short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """One call of each step per round and a small matrix product: no test reads the speed."""
    monkeypatch.setattr(timing, "_TURN", 1e-9)
    monkeypatch.setitem(machine._SIDE, "cpu", 256)
    monkeypatch.setitem(machine._COPIED, "cpu", 1 << 20)


@torch.no_grad()
def test_published_xmdpt_gives_the_published_outputs(shared: Callable[[str], Path]) -> None:
    golden = load_file(shared("golden/dev_a.safetensors"))
    state = {k[6:]: v for k, v in golden.items() if k.startswith("state.")}
    net = PublishedXMDPT(from_published(state)).eval()
    loaded = published_tensors(net.model.state_dict())
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key].float()) for key in state)
    keep_all = torch.ones(3, dtype=torch.bool)
    mask = Mask.random(golden["in.mask_noise"], 0.3)
    inputs = [golden["in." + key] for key in ("x", "t")]
    inputs += [golden["in.dino_tgt_pose"].float(), golden["in.dino_src_img"].float()]
    inputs.append(golden["in.src_img"])
    for name, keep, given in (
        ("eps_cond", keep_all, None),
        ("eps_uncond", ~keep_all, None),
        ("eps_masked", keep_all, mask),
    ):
        out, expected = net(*inputs, keep, given), golden[f"out.{name}"]
        assert float((out - expected).abs().max() / expected.abs().max()) < 1e-5, name


def small() -> tuple[XMDPT, TrainConfig, Inputs]:
    """A small model without zero weights, its training configuration, and inputs of a step."""
    torch.manual_seed(0)
    model = XMDPT.from_size("tiny", latent_size=8, depth=4)
    randomise(model)
    return model, TrainConfig(size="tiny", learning_rate=1e-3), make_inputs(model, 2)


def test_both_steps_have_the_same_losses_for_three_steps() -> None:
    """The later losses show that gradients and AdamW's updates agree too."""
    model, config, inputs = small()
    published = published_step(model, config, inputs)
    fast = xmdpt_step(model, config, inputs, compiled=False)
    losses = [(published(), fast()) for _ in range(3)]
    for expected, found in losses:
        assert found == pytest.approx(expected, rel=1e-3)
    assert losses[0][1] == pytest.approx(losses[0][0], rel=1e-5)
    assert losses[2][1] < losses[0][1]


def test_the_online_step_runs_the_encoders_before_the_same_step() -> None:
    model, config, inputs = small()
    cached = published_step(model, config, inputs)
    seen: list[tuple[tuple[int, ...], bool]] = []
    encoders = [
        (lambda x: seen.append((tuple(x.shape), torch.is_grad_enabled())), side) for side in (8, 16)
    ]
    online = online_step(published_step(model, config, inputs), encoders, 2)
    assert [online() for _ in range(3)] == [cached() for _ in range(3)]
    assert seen == [((4, 3, 8, 8), False), ((4, 3, 16, 16), False)] * 3


def test_report_of_two_sizes() -> None:
    sizes = ["tiny", "mini"]
    report = measure_training(sizes, CPU, torch.float32, 1, pixels=64, compiled=False, rounds=2)
    published, xmdpt, other, _ = report.rows
    assert other.speedup == {}  # the first row of another size
    assert [published.key, xmdpt.key] == ["X-MDPT-tiny / published", "X-MDPT-tiny / xmdpt"]
    assert published.gflop is not None
    assert xmdpt.gflop is not None
    assert published.gflop > 1.1 * xmdpt.gflop > 0  # the source view runs through all blocks
    assert xmdpt.speedup["first"].rounds == pytest.approx([
        a / b for a, b in
        zip(published.seconds.rounds, xmdpt.seconds.rounds, strict=True)
    ])  # fmt: skip
    assert 0 <= report.data_wait["X-MDPT-tiny"] < 1


def test_report_with_encoders_in_the_published_step(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = torch.nn.Conv2d(3, 4, 3)
    monkeypatch.setattr(train, "published_encoders", lambda *_: [(encoder, 16)])
    report = measure_training(
        ["tiny"], CPU, torch.float32, 2, pixels=64, compiled=False, online=True, rounds=1
    )
    published, online, xmdpt = report.rows
    assert [row.key.split(" / ")[1] for row in report.rows] == [
        "published", "published, online", "xmdpt",
    ]  # fmt: skip
    # the difference is the convolution, on two images of every pair
    assert (online.gflop or 0) - (published.gflop or 0) == pytest.approx(
        2 * 2 * 14**2 * 4 * 27 / 1e9
    )
    assert "first" in xmdpt.speedup


def test_flops_of_a_step_equal_those_that_training_counts() -> None:
    """``bench train`` counts while a step runs; training counts on shapes, for its MFU."""
    model, config, inputs = small()
    ran = flops(xmdpt_step(model, config, inputs, compiled=False), gradients=True)
    assert ran == step_flops(TrainStep(model, config, Schedule()), inputs)


def test_nothing_is_timed_if_losses_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "xmdpt_step", lambda *_: lambda: 1.0)
    with pytest.raises(XmdptError, match="tiny, xmdpt: the loss is 1"):
        measure_training(["tiny"], CPU, torch.float32, 1, pixels=64, compiled=False, rounds=1)
