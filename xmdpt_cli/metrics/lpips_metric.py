"""LPIPS (Zhang et al., CVPR 2018), AlexNet, v0.1: the perceptual distance of this field.

The ``lpips`` package holds the linear weights; the AlexNet trunk comes from torchvision's file.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lpips
import torch
from torch import Tensor, nn

from xmdpt_cli.metrics.base import PairMetric
from xmdpt_cli.metrics.download import Published
from xmdpt_cli.metrics.pixels import Pixels, unit_tensor
from xmdpt_cli.metrics.weights import (
    TOY_SEED,
    check_weights,
    fill_random,
    identity,
    read_weights,
    weights_file,
)
from xmdpt_cli.progress import Progress, silent

ALEXNET = Published(
    "alexnet",
    "LPIPS",
    "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    "--alexnet-weights",
)
SMALLEST = 31  # px a side: below it AlexNet's poolings leave nothing
_CONVOLUTIONS = (0, 3, 6, 8, 10)  # of torchvision's alexnet.features, one a slice in lpips


class LpipsNetwork(nn.Module):
    """LPIPS itself: AlexNet, v0.1; lower is more alike, 0 for equal images.

    ``weights``: torchvision's AlexNet (.pth or .safetensors), None for the published file (torch
    hub's copy, else downloaded), or ``"toy"`` for a seeded random trunk. The trunk decides the
    values: ``metric`` is ``lpips_alex_v0.1`` or ``lpips_alex_v0.1_toy``, ``weights`` describes
    the trunk.
    """

    def __init__(
        self,
        weights: str | Path | None = None,
        device: str | torch.device = "cpu",
        progress: Progress = silent,
    ) -> None:
        super().__init__()
        self.toy = weights == "toy"
        self.metric = "lpips_alex_v0.1_toy" if self.toy else "lpips_alex_v0.1"
        network = _untrained_trunk()
        if weights == "toy":
            fill_random(network.net, TOY_SEED)
            self.weights = f"alexnet, random weights, seed {TOY_SEED}"
        else:
            path = weights_file(weights, ALEXNET, progress)
            _load_trunk(network, path)
            self.weights = identity(path, ALEXNET)
        self.network = network.eval().requires_grad_(False).to(device)

    def named(self, signed: bool) -> str:
        """The metric's name; images on [0, 1] give other values than those on [-1, 1]."""
        return self.metric if signed else f"{self.metric}_unsigned"

    def train(self, mode: bool = True) -> LpipsNetwork:
        """Stays in eval mode: its linear layers would drop out at random."""
        super().train(False)
        return self

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Two batches (N, 3, H, W) on [-1, 1], at least 31 px a side -> (N,), with gradients."""
        distances: Tensor = self.network(a, b)
        return distances.flatten()

    @torch.inference_mode()
    def distance(self, a: Pixels, b: Pixels, signed: bool = True) -> float:
        """The distance of two images (H, W, 3), at least 31 px a side.

        ``signed``: on [-1, 1], as LPIPS was trained; PCDMs' code leaves them on [0, 1].

        One pair a pass: in larger batches the values would depend, in the last digits, on what
        else is measured, and equal images would not give exactly 0.
        """
        device = next(self.network.parameters()).device
        x, y = (unit_tensor(image).to(device) for image in (a, b))
        if signed:
            x, y = x * 2 - 1, y * 2 - 1
        return float(self(x, y))


class LPIPS(PairMetric):
    """Learned perceptual distance (``lpips_alex_v0.1``), 0 or more; NaN under 31 px a side.

    torchmetrics' LearnedPerceptualImagePatchSimilarity needs its own copy of the network, takes
    floats and keeps a sum instead of the values of the images.
    """

    higher_is_better = False
    smallest = SMALLEST

    def __init__(
        self, network: LpipsNetwork | None = None, signed: bool = True, **kwargs: Any
    ) -> None:
        """``network``: the published one by default. ``signed``: as in ``distance``."""
        network = network or LpipsNetwork()
        self.name = network.named(signed)
        super().__init__(**kwargs)
        self.network, self.signed = network, signed
        self.weights, self.toy = network.weights, network.toy

    def measure(self, generated: Pixels, ground_truth: Pixels) -> float:
        return self.network.distance(generated, ground_truth, self.signed)


def _untrained_trunk() -> lpips.LPIPS:
    """The package's network with its own linear weights; the trunk is still to be filled."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # lpips calls torchvision in a deprecated way
        # pnet_rand keeps lpips from downloading a trunk
        return lpips.LPIPS(net="alex", version="0.1", pnet_rand=True, verbose=False)


def _load_trunk(network: lpips.LPIPS, path: Path) -> None:
    state = read_weights(path)
    names = {  # in torchvision's file -> in lpips
        f"features.{index}.{kind}": f"slice{position}.{index}.{kind}"
        for position, index in enumerate(_CONVOLUTIONS, start=1)
        for kind in ("weight", "bias")
    }
    own = network.net.state_dict()
    used = {name: state[name] for name in names if name in state}
    expected = {name: own[names[name]] for name in names}
    check_weights(used, expected, "torchvision's alexnet", path, ALEXNET.url)
    network.net.load_state_dict({names[name]: value for name, value in used.items()})
