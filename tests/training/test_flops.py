"""FLOPs of a training step, against formulas; peaks, against published data sheets."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from xmdpt_cli.diffusion import Losses, training_loss
from xmdpt_cli.model import XMDPT
from xmdpt_cli.training.flops import peak_flops, peak_of, step_flops


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


def test_forward_and_backward_are_counted_and_nothing_is_touched() -> None:
    step, n = Small(), 11
    counted = step_flops(step, torch.zeros(n, 30))
    first, second, frozen = 2 * n * 30 * 50, 2 * n * 50 * 7, 2 * n * 30 * 1000
    # the input of the first needs no gradient, that of the second does; the frozen runs once
    assert counted == 2 * first + 3 * second + frozen
    assert step.first.weight.device.type == "cpu"
    assert step.first.weight.grad is None


class Published(nn.Module):
    """One step of the plain model: condition, unmasked pass, masked pass with its source stream."""

    def __init__(self, model: XMDPT) -> None:
        super().__init__()
        self.model = model

    def forward(self, latents: Tensor, pose: Tensor, source: Tensor, mask: Tensor) -> Losses:
        times = torch.zeros(len(latents), dtype=torch.long, device=latents.device)
        condition = self.model.condition(pose, source, latents)
        return training_loss(
            self.model, latents, times, latents, condition, source_latents=latents, token_noise=mask
        )


def by_hand(depth: int, d: int, tokens: int = 256, kept: int = 179) -> float:
    """FLOPs a pair: matrix products of the blocks, of CANet and of the output."""

    def block(n: int) -> int:  # qkv, projection, MLP; scores and their sum of values; adaLN
        return 24 * n * d * d + 4 * n * n * d + 12 * d * d

    trained = depth * block(tokens)  # unmasked
    trained += (depth - 2) * block(kept) + (2 + 2) * block(tokens)  # masked, with MIPNet's blocks
    trained += 2 * 2 * tokens * d * 32  # both outputs
    source_stream = (depth - 2) * block(tokens)
    canet = 2 * 257 * (768 + 1536) * d  # its inputs need no gradient
    return 3 * trained + source_stream + 2 * canet


def test_a_training_step_of_size_s() -> None:
    with torch.device("meta"):
        step = Published(XMDPT.from_size("S"))
    counted = step_flops(
        step,
        torch.empty(1, 4, 32, 32),
        torch.empty(1, 257, 768),
        torch.empty(1, 257, 1536),
        torch.empty(1, 256),
    )
    # what is left out by hand: timesteps, patches, the token-axis convolutions; what may be saved:
    # MIPNet's blocks on the masked tokens alone
    assert counted == pytest.approx(by_hand(12, 384), rel=0.06)
    assert counted == pytest.approx(80.8e9, rel=0.06)  # measured with a plain prototype


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
def test_peaks_by_name(name: str, bf16: bool, tflops: float) -> None:
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
