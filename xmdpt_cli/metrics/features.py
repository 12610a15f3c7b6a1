"""Networks whose features stand for pictures in a distance between two sets of them.

The papers of this field use torchvision's ImageNet inception_v3 (GFLA, PIDM, PoCoLD, CFLD), not the
TensorFlow network of the original FID: values of the two do not compare, so they bear two names.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torchvision.models import inception_v3

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.metrics.download import Published
from xmdpt_cli.metrics.frechet import FrechetAccumulator
from xmdpt_cli.metrics.pictures import Pixels, unit_tensor
from xmdpt_cli.metrics.weights import TOY_SEED, fill_random, identity, read_weights, weights_file
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
_BATCH = 16  # pictures a forward pass
_TOYCONV_WIDTHS = (32, 64, 128)


@dataclass(frozen=True)
class FeatureExtractor:
    """A frozen network in front of the distance.

    ``name`` is its honest name, which its columns bear: ``fid_<name>``, ``kid_<name>``. ``weights``
    says which weights these are.
    """

    name: str
    weights: str
    network: nn.Module
    prepare: Callable[[Pixels], Tensor]  # -> (1, 3, h, w) of the type the network takes

    @property
    def toy(self) -> bool:
        """Random weights: the distances compare with nothing published."""
        return "toy" in self.name

    @property
    def fid(self) -> str:
        return f"fid_{self.name}"

    @property
    def kid(self) -> str:
        return f"kid_{self.name}"

    def __call__(self, pictures: Sequence[Pixels]) -> NDArray[np.float32]:
        """Features (N, D) of N >= 1 pictures, of any sizes."""
        device = next(self.network.parameters()).device
        with torch.inference_mode():
            batch = torch.cat([self.prepare(picture) for picture in pictures])
            return self.network(batch.to(device)).float().cpu().numpy()


class FeatureSet:
    """The features of one set of pictures, taken in one by one, and their statistics.

    ``keep``: the features themselves as well, in a file without a name, not in memory.
    """

    def __init__(self, extractor: FeatureExtractor, keep: bool = False) -> None:
        self._extractor = extractor
        self._waiting: list[Pixels] = []
        self._statistics = FrechetAccumulator()
        self._file: IO[bytes] | None = tempfile.TemporaryFile() if keep else None  # noqa: SIM115 - its own

    def add(self, picture: Pixels) -> None:
        self._waiting.append(picture)
        if len(self._waiting) == _BATCH:
            self._flush()

    def take(self, features: NDArray[np.float32]) -> None:
        """Features (N, D) that were made elsewhere."""
        for start in range(0, len(features), _BATCH):
            self._keep(features[start : start + _BATCH])

    def statistics(self) -> FrechetAccumulator:
        """Everything added so far."""
        self._flush()
        return self._statistics

    def features(self) -> NDArray[np.float32]:
        """(N, D) of everything added so far, mapped from the file."""
        self._flush()
        assert self._file is not None
        count = self._statistics.count
        if not count:
            return np.zeros((0, 0), np.float32)
        self._file.flush()
        return np.memmap(self._file, np.float32, "r").reshape(count, -1)

    def _flush(self) -> None:
        if not self._waiting:
            return
        self._keep(self._extractor(self._waiting))
        self._waiting = []

    def _keep(self, features: NDArray[np.float32]) -> None:
        self._statistics.update(features)
        if self._file is not None:
            self._file.write(np.ascontiguousarray(features, dtype=np.float32).data)


def inception_features(
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
    progress: Progress = silent,
) -> FeatureExtractor:
    """torchvision's ImageNet inception_v3 up to its 2048-d pool: ``tvinception``.

    ``weights``: torchvision's file, None for the published one (torch hub's copy, else
    downloaded), or ``"toy"`` for seeded random weights (``tvinception_toy``). XmdptError if the
    file cannot be had says which one to fetch and where to put it.
    """
    with torch.device("meta"):  # no 100 MB of random numbers to be overwritten
        network = inception_v3(
            weights=None, init_weights=False, aux_logits=False, transform_input=True
        )
        network.fc = nn.Identity()
    if weights == "toy":
        network = network.to_empty(device="cpu")
        fill_random(network, TOY_SEED)
        name = f"inception_v3, random weights, seed {TOY_SEED}"
        return _extractor("tvinception_toy", name, network, _to_299, device)
    path = weights_file(weights, INCEPTION, progress)
    unused = ("fc.", "AuxLogits.")
    state = {k: v for k, v in read_weights(path).items() if not k.startswith(unused)}
    try:
        network.load_state_dict(state, assign=True)
    except RuntimeError:
        raise XmdptError(
            f"not the weights of torchvision's inception_v3: {path}", f"fetch {INCEPTION.url}"
        ) from None
    return _extractor("tvinception", identity(path, INCEPTION), network, _to_299, device)


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
        """Its own loader would fetch a file, and run code that hides in one."""

        def load_state_dict(self, *_: Any, **__: Any) -> None:
            pass

        def forward(self, x: Tensor) -> Tensor:
            (features,) = super().forward(x)
            return features

    with tempfile.NamedTemporaryFile(suffix=".pth") as nothing:
        torch.save({}, nothing.name)
        network = Built("tfinception", ["2048"], feature_extractor_weights_path=nothing.name)
    if weights == "toy":
        fill_random(network, TOY_SEED)
        name = f"TensorFlow Inception, random weights, seed {TOY_SEED}"
        return _extractor("tfinception_toy", name, network, _to_299_antialiased, device)
    path = weights_file(weights, TF_INCEPTION, progress)
    try:
        torch.nn.Module.load_state_dict(network, read_weights(path))
    except RuntimeError:
        raise XmdptError(
            f"not the weights of torch-fidelity's Inception: {path}", f"fetch {TF_INCEPTION.url}"
        ) from None
    name = identity(path, TF_INCEPTION)
    return _extractor("tfinception", name, network, _to_299_antialiased, device)


def require_torch_fidelity() -> None:
    """XmdptError if torch-fidelity is not installed."""
    if find_spec("torch_fidelity") is None:
        raise XmdptError(
            "the TensorFlow Inception needs torch-fidelity", "pip install 'xmdpt-cli[fidelity]'"
        )


def toy_features(device: str | torch.device = "cpu") -> FeatureExtractor:
    """A small seeded random convolutional network: ``toyconv``.

    For demonstrations on CPU, where the inception network takes minutes. It sees whether the
    colours and textures of two sets agree; its values compare with nothing published.
    """
    network = _ToyConv()
    fill_random(network, TOY_SEED)
    name = f"3 random convolutions, seed {TOY_SEED}"
    return _extractor("toyconv", name, network, _to_64, device)


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


def _extractor(
    name: str,
    weights: str,
    network: nn.Module,
    prepare: Callable[[Pixels], Tensor],
    device: str | torch.device,
) -> FeatureExtractor:
    frozen = network.float().eval().requires_grad_(False).to(device)
    return FeatureExtractor(name, weights, frozen, prepare)


def _to_299(picture: Pixels) -> Tensor:
    """[0, 1], bilinear without antialias; the network's transform_input does the rest."""
    return F.interpolate(unit_tensor(picture), size=(299, 299), mode="bilinear")


def _to_299_antialiased(picture: Pixels) -> Tensor:
    """PIL's bicubic as a picture, uint8: of this size the network resizes nothing itself."""
    levels = np.rint(np.clip(picture, 0, 255)).astype(np.uint8)
    resized = Image.fromarray(levels).resize((299, 299), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None]


def _to_64(picture: Pixels) -> Tensor:
    small = F.interpolate(unit_tensor(picture), size=(64, 64), mode="bilinear", antialias=True)
    return small * 2 - 1
