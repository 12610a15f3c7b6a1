"""Feature extractors of FID and KID.

The papers of this field use torchvision's ImageNet inception_v3 (GFLA, PIDM, PoCoLD, CFLD), not the
TensorFlow network of the original FID: values of the two are not comparable.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torchvision.models import inception_v3

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.metrics.download import Published
from xmdpt_cli.metrics.pixels import Pixels, unit_tensor
from xmdpt_cli.metrics.weights import TOY_SEED, fill, fill_random
from xmdpt_cli.progress import Progress, silent

INCEPTION = Published(
    "inception_v3",
    "FID",
    "https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth",
    "--inception-weights",
    ("toy", "toyconv"),
)
TF_INCEPTION = Published(
    "TensorFlow Inception",
    "FID of --protocol clean",
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth",
    "--tf-inception-weights",
    ("toy", "toyconv"),
)
_TOYCONV_WIDTHS = (32, 64, 128)


class FeatureExtractor(nn.Module):
    """A frozen network that computes the features of images.

    ``name`` is part of the names of the metrics: ``fid_<name>``, ``kid_<name>``. ``weights``
    describes the weights.
    """

    def __init__(
        self,
        name: str,
        weights: str,
        network: nn.Module,
        prepare: Callable[[Pixels], Tensor],
        num_features: int,
    ) -> None:
        """``prepare``: an image -> (1, 3, h, w) of the type that ``network`` takes."""
        super().__init__()
        self.name, self.weights = name, weights
        self.prepare, self.num_features = prepare, num_features
        self.network = network.float().eval().requires_grad_(False)

    @property
    def toy(self) -> bool:
        """Whether the weights are random: such distances are not comparable with published ones."""
        return "toy" in self.name

    def train(self, mode: bool = True) -> FeatureExtractor:
        """Stays in eval mode."""
        super().train(False)
        return self

    @torch.inference_mode()
    def forward(self, images: Sequence[Pixels]) -> NDArray[np.float32]:
        """Features (N, D) of N >= 1 images, of any sizes."""
        device = next(self.network.parameters()).device
        batch = torch.cat([self.prepare(image) for image in images])
        return self.network(batch.to(device)).float().cpu().numpy()


def inception_features(
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
    progress: Progress = silent,
) -> FeatureExtractor:
    """torchvision's ImageNet inception_v3 up to its 2048-d pool: ``tvinception``.

    ``weights``: torchvision's file, None for the published one (torch hub's copy, else
    downloaded), or ``"toy"`` for seeded random weights (``tvinception_toy``). The
    XmdptError for a missing file names the file to download and its location.
    """
    with torch.device("meta"):  # skips 100 MB of random initialization
        network = inception_v3(
            weights=None, init_weights=False, aux_logits=False, transform_input=True
        )
        network.fc = nn.Identity()
    if weights == "toy":
        network.to_empty(device="cpu")
    unused = ("fc.", "AuxLogits.")
    filled = fill(network, weights, INCEPTION, "torchvision's inception_v3", progress, unused)
    name = "tvinception_toy" if weights == "toy" else "tvinception"
    return FeatureExtractor(name, filled, network, _to_299, 2048).to(device)


def tensorflow_features(
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
    progress: Progress = silent,
) -> FeatureExtractor:
    """The TensorFlow Inception of the first FID, as torch-fidelity has it: ``tfinception``.

    ``weights`` as in ``inception_features``. XmdptError also where torch-fidelity is not installed.
    """
    require_torch_fidelity()
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Built(FeatureExtractorInceptionV3):
        """torch-fidelity's own loader would download a file, and unpickle arbitrary code."""

        def load_state_dict(self, *_: Any, **__: Any) -> None:
            pass

        def forward(self, x: Tensor) -> Tensor:
            (features,) = super().forward(x)
            return features

    with tempfile.NamedTemporaryFile(suffix=".pth") as empty:
        torch.save({}, empty.name)
        network = Built("tfinception", ["2048"], feature_extractor_weights_path=empty.name)
    filled = fill(network, weights, TF_INCEPTION, "torch-fidelity's Inception", progress)
    name = "tfinception_toy" if weights == "toy" else "tfinception"
    return FeatureExtractor(name, filled, network, _to_299_antialiased, 2048).to(device)


def require_torch_fidelity() -> None:
    """XmdptError if torch-fidelity is not installed."""
    if find_spec("torch_fidelity") is None:
        raise XmdptError(
            "the TensorFlow Inception needs torch-fidelity", "pip install 'xmdpt-cli[fidelity]'"
        )


def toy_features(device: str | torch.device = "cpu") -> FeatureExtractor:
    """A small seeded random convolutional network: ``toyconv``.

    For demonstrations on CPU, where the inception network takes minutes. It measures whether the
    colours and textures of two sets agree; its values compare with nothing published.
    """
    network = _ToyConv()
    fill_random(network, TOY_SEED)
    name = f"3 random convolutions, seed {TOY_SEED}"
    width = sum(_TOYCONV_WIDTHS)
    return FeatureExtractor("toyconv", name, network, _to_64, width).to(device)


class _ToyConv(nn.Module):
    """Three stride-2 convolutions; the features are every stage's channel means (N, 224)."""

    def __init__(self) -> None:
        super().__init__()
        inputs = (3, *_TOYCONV_WIDTHS[:-1])
        with torch.device("meta"):
            self.stages = nn.ModuleList(
                nn.Conv2d(i, o, 4, stride=2, padding=1)
                for i, o in zip(inputs, _TOYCONV_WIDTHS, strict=True)
            )
        self.to_empty(device="cpu")

    def forward(self, x: Tensor) -> Tensor:  # (N, 3, 64, 64)
        pooled = []
        for stage in self.stages:
            x = F.relu(stage(x))
            pooled.append(x.mean(dim=(2, 3)))
        return torch.cat(pooled, dim=1)


def _to_299(image: Pixels) -> Tensor:
    """[0, 1], bilinear without antialias; the network's transform_input does the rest."""
    return F.interpolate(unit_tensor(image), size=(299, 299), mode="bilinear")


def _to_299_antialiased(image: Pixels) -> Tensor:
    """PIL's bicubic, uint8: the network itself resizes no image of this size."""
    levels = np.rint(np.clip(image, 0, 255)).astype(np.uint8)
    resized = Image.fromarray(levels).resize((299, 299), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None]


def _to_64(image: Pixels) -> Tensor:
    small = F.interpolate(unit_tensor(image), size=(64, 64), mode="bilinear", antialias=True)
    return small * 2 - 1
