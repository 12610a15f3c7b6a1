"""FLOPs of a training step, against formulas; peaks, against published data sheets."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from xmdpt_cli.diffusion import Losses, Schedule
from xmdpt_cli.model import XMDPT, Mask
from xmdpt_cli.training.config import TrainConfig
from xmdpt_cli.training.flops import peak_flops, peak_of, step_flops
from xmdpt_cli.training.step import Inputs, TrainStep


class Small(nn.Module):
    """Two linear maps with a gradient, one without."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(30, 50), nn.Linear(50, 7)
        self.frozen = nn.Linear(30, 1000)

    def forward(self, x: Tensor) -> Losses:
        with torch.no_grad():
            other = self.frozen(x).mean()
        out = self.second(self.first(x)) * other
        return Losses(out.mean(), out, out)


def test_forward_and_backward_flops_are_counted_without_side_effects() -> None:
    step, n = Small(), 11
    counted = step_flops(step, torch.zeros(n, 30))
    first, second, frozen = 2 * n * 30 * 50, 2 * n * 50 * 7, 2 * n * 30 * 1000
    # the input of the first needs no gradient, that of the second does; the frozen runs once
    assert counted == 2 * first + 3 * second + frozen
    assert step.first.weight.device.type == "cpu"
    assert step.first.weight.grad is None


def inputs(model: XMDPT, n: int) -> Inputs:
    """A step's of ``n`` pairs at 256 px."""
    latents, tokens = torch.empty(n, 4, 32, 32), torch.rand(n, 256)
    flags = torch.ones(n, dtype=torch.bool)
    return Inputs(
        target=latents,
        source=latents,
        noise=latents,
        masked_noise=latents,
        timesteps=torch.zeros(n, dtype=torch.long),
        keep=flags,
        keep_masked=flags,
        pose_tokens=torch.empty(n, 257, 768),
        source_tokens=torch.empty(n, 257, 1536),
        mask=Mask.random(tokens, model.mask_ratio),
        pose_maps=None,
        target_tokens=None,
    )


def by_hand(depth: int, d: int, tokens: int = 256, kept: int = 179) -> float:
    """FLOPs a pair: matrix products of the blocks, of CANet and of the output.

    A block: queries (2), keys and values (4), projection (2), MLP (16); scores and the sum of
    values (4). MIPNet needs the masked tokens' rows alone, and its keys from the source view have
    no gradient to hand on. Both passes share adaLN's weights but not their inputs.
    """

    def block(rows: int, keys: int) -> int:
        return 20 * rows * d * d + 4 * keys * d * d + 4 * rows * keys * d

    masked = tokens - kept
    trained = depth * block(tokens, tokens)  # unmasked
    trained += (depth - 2) * block(kept, kept) + 2 * block(tokens, tokens)  # masked
    trained += 2 * block(masked, tokens)  # MIPNet's two blocks
    trained += 2 * 2 * tokens * d * 32  # both outputs
    trained += (2 * depth + 2) * 12 * d * d  # adaLN
    source_stream = (depth - 2) * block(tokens, tokens)
    canet = 2 * 257 * (768 + 1536) * d  # its inputs need no gradient
    return 3 * trained - 4 * tokens * d * d + source_stream + 2 * canet


def test_flops_of_a_training_step_of_size_s() -> None:
    model = XMDPT.from_size("S")
    counted = step_flops(TrainStep(model, TrainConfig(), Schedule()), inputs(model, 2)) / 2
    # not by hand: timesteps, patches, the token-axis convolutions
    assert counted == pytest.approx(by_hand(12, 384), rel=0.005)
    # what a plain prototype needed, MIPNet's blocks on all tokens
    assert 0.93 * 80.8e9 < counted < 80.8e9


@pytest.mark.parametrize(
    ("name", "bf16", "tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", True, 312.0),
        ("NVIDIA A100 80GB PCIe", False, 19.5),
        ("NVIDIA H100 80GB HBM3", True, 989.4),
        ("NVIDIA H100 PCIe", True, 756.0),
        ("NVIDIA H200", True, 989.4),
        ("NVIDIA L4", True, 121.0),
        ("NVIDIA L40S", True, 362.0),
        ("NVIDIA GeForce RTX 4090", True, 165.2),
    ],
)
def test_peak_flops_by_device_name(name: str, bf16: bool, tflops: float) -> None:
    assert peak_of(name, bf16) == tflops * 1e12


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "GRID A100-10C",
        "NVIDIA H20",
        "Tesla T4",
    ],
)
def test_no_peak_is_guessed(name: str) -> None:
    assert peak_of(name, True) is None
    assert peak_flops("cpu", True) is None
