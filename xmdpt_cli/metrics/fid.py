"""Fréchet distance between two sets of pictures, as the pose-guided synthesis literature takes it.

FID (Heusel et al., NeurIPS 2017, eq. 6) compares mean and covariance of network features. The
papers of this field use torchvision's ImageNet inception_v3 (GFLA, PIDM, PoCoLD, CFLD), not the
TensorFlow network of the original FID: values of the two do not compare.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import inception_v3

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.images import Picture

Floats = NDArray[np.float64]

INCEPTION_URL = "https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth"
TOY_SEED = 0
_BATCH = 16  # pictures a forward pass
_TOYCONV_WIDTHS = (32, 64, 128)


# --- the distance -----------------------------------------------------------------------------


class FrechetAccumulator:
    """Mean and covariance of a stream of features, in float64, in memory O(D^2).

    Sums are taken relative to the mean of the first batch: plain sums of squares would lose
    the covariance of features whose mean is large against their spread.
    """

    def __init__(self) -> None:
        self.count = 0
        self._origin = torch.zeros(0, dtype=torch.float64)
        self._sum = self._outer = self._origin

    def update(self, features: NDArray[Any]) -> None:
        """Take in ``features`` (N, D), any float type, N >= 1."""
        batch = torch.from_numpy(np.asarray(features, dtype=np.float64))
        if self.count == 0:
            width = batch.shape[1]
            self._origin = batch.mean(dim=0)
            self._sum = torch.zeros(width, dtype=torch.float64)
            self._outer = torch.zeros(width, width, dtype=torch.float64)
        batch = batch - self._origin
        self.count += len(batch)
        self._sum += batch.sum(dim=0)
        self._outer.addmm_(batch.T, batch)

    @property
    def mean(self) -> Floats:
        """(D,)"""
        return (self._origin + self._sum / self.count).numpy()

    @property
    def cov(self) -> Floats:
        """(D, D), divided by N - 1 as in np.cov; needs two features."""
        assert self.count > 1, "a covariance needs two features"
        centred = self._outer - torch.outer(self._sum, self._sum) / self.count
        return (centred / (self.count - 1)).numpy()


def frechet_distance(mu1: Floats, cov1: Floats, mu2: Floats, cov2: Floats) -> float:
    """|mu1 - mu2|^2 + tr(cov1 + cov2 - 2 (cov1 cov2)^(1/2)); never below 0.

    With cov = A A^T, tr (cov1 cov2)^(1/2) is the sum of the singular values of A1^T A2. That
    stays real and accurate for covariances of low rank (fewer pictures than features), where
    the matrix square root of the product does not exist or is noise.
    """
    cross = torch.linalg.svdvals(_factor(cov1).T @ _factor(cov2)).sum()
    difference = mu1 - mu2
    distance = difference @ difference + np.trace(cov1) + np.trace(cov2) - 2 * float(cross)
    return max(float(distance), 0.0)


def _factor(cov: Floats) -> Tensor:
    """A (D, rank) with A A^T = cov; eigenvalues that are rounding noise are left out."""
    # torch, not numpy: its threads are the ones that the program sets
    values, vectors = torch.linalg.eigh(torch.from_numpy(cov))
    noise = len(values) * torch.finfo(torch.float64).eps * values[-1].clamp(min=0)
    kept = values > noise
    return vectors[:, kept] * values[kept].sqrt()


# --- the features -----------------------------------------------------------------------------


@dataclass(frozen=True)
class FeatureExtractor:
    """A frozen network in front of the distance.

    ``metric`` is the honest name of the column: ``fid`` only for ImageNet's inception_v3.
    ``weights`` says which weights these are.
    """

    metric: str
    weights: str
    toy: bool
    network: nn.Module
    prepare: Callable[[Picture], Tensor]  # uint8 (H, W, 3) -> float32 (1, 3, h, w)

    def __call__(self, pictures: Sequence[Picture]) -> NDArray[np.float32]:
        """Features (N, D) of N >= 1 pictures, of any sizes."""
        device = next(self.network.parameters()).device
        with torch.inference_mode():
            batch = torch.cat([self.prepare(picture) for picture in pictures])
            return self.network(batch.to(device)).float().cpu().numpy()


class PictureSet:
    """The statistics of one set of pictures, taken in one by one."""

    def __init__(self, extractor: FeatureExtractor) -> None:
        self._extractor = extractor
        self._waiting: list[Picture] = []
        self._statistics = FrechetAccumulator()

    def add(self, picture: Picture) -> None:
        self._waiting.append(picture)
        if len(self._waiting) == _BATCH:
            self._flush()

    def statistics(self) -> FrechetAccumulator:
        """Everything added so far."""
        if self._waiting:
            self._flush()
        return self._statistics

    def _flush(self) -> None:
        self._statistics.update(self._extractor(self._waiting))
        self._waiting = []


def inception_features(
    weights: str | Path | None = None, device: str | torch.device = "cpu"
) -> FeatureExtractor:
    """torchvision's inception_v3 up to its 2048-d pool: the metric ``fid``.

    ``weights``: torchvision's file, None for the one in torch hub's folder, or ``"toy"`` for
    seeded random weights (metric ``fid_toy``). Nothing is ever downloaded; a missing file
    raises XmdptError that says which one to fetch and where to put it.
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
        return _extractor("fid_toy", name, network, _to_299, device)
    path = local_weights(weights, INCEPTION_URL, "--inception-weights")
    unused = ("fc.", "AuxLogits.")
    state = {k: v for k, v in read_weights(path).items() if not k.startswith(unused)}
    try:
        network.load_state_dict(state, assign=True)
    except RuntimeError:
        raise XmdptError(
            f"not the weights of torchvision's inception_v3: {path}", f"fetch {INCEPTION_URL}"
        ) from None
    return _extractor("fid", identity(path, INCEPTION_URL), network, _to_299, device)


def toy_features(device: str | torch.device = "cpu") -> FeatureExtractor:
    """A small seeded random convolutional network: the metric ``fid_toyconv``.

    For demonstrations on CPU, where the inception network takes minutes. It sees whether the
    colours and textures of two sets agree; its values compare with nothing published.
    """
    network = _ToyConv()
    fill_random(network, TOY_SEED)
    name = f"3 random convolutions, seed {TOY_SEED}"
    return _extractor("fid_toyconv", name, network, _to_64, device)


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
    metric: str,
    weights: str,
    network: nn.Module,
    prepare: Callable[[Picture], Tensor],
    device: str | torch.device,
) -> FeatureExtractor:
    frozen = network.float().eval().requires_grad_(False).to(device)
    return FeatureExtractor(metric, weights, "toy" in metric, frozen, prepare)


def _to_299(picture: Picture) -> Tensor:
    """[0, 1], bilinear without antialias; the network's transform_input does the rest."""
    return F.interpolate(unit_tensor(picture), size=(299, 299), mode="bilinear")


def _to_64(picture: Picture) -> Tensor:
    small = F.interpolate(unit_tensor(picture), size=(64, 64), mode="bilinear", antialias=True)
    return small * 2 - 1


# --- pictures and weights as tensors ----------------------------------------------------------


def unit_tensor(picture: Picture) -> Tensor:
    """uint8 (H, W, 3) to float32 (1, 3, H, W) in [0, 1]."""
    chw = np.ascontiguousarray(picture.transpose(2, 0, 1))
    return torch.from_numpy(chw)[None].float() / 255


def fill_random(network: nn.Module, seed: int) -> None:
    """He-normal convolutions, zero biases, batch norms that pass through; same seed, same bytes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                std = (2.0 / module.weight[0].numel()) ** 0.5
                module.weight.normal_(0.0, std, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
    assert all(p.device.type != "meta" for p in network.parameters())


def local_weights(given: str | Path | None, url: str, option: str) -> Path:
    """``given``, or the file that torch hub would have stored for ``url``; XmdptError if neither.

    ``option`` is the command line's name for ``given``, for the hint.
    """
    hub = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    path = Path(given) if given is not None else hub
    if not path.is_file():
        raise XmdptError(
            f"no weights at {path}", f"fetch {url}\nto {hub}\nor name your copy with {option} PATH"
        )
    return path


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of a plain torch.save state dict."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as err:  # the two readers raise a dozen kinds on files that are no weights
        reason = str(err).partition("\n")[0] or type(err).__name__
        raise XmdptError(f"not a file of weights: {path} ({reason})") from None


def identity(path: Path, url: str) -> str:
    """File name and SHA-256, and whether that is the published file of ``url``.

    torch hub's file names end in the first digits of their SHA-256.
    """
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    published = digest.hexdigest().startswith(Path(url).stem.rsplit("-", 1)[1])
    remark = "" if published else " (not torchvision's published file)"
    return f"{path.name} sha256:{digest.hexdigest()}{remark}"
