"""Training images of a VAE by index, and the batches of its training steps.

A step's images, flips and noise follow from the seed and the step alone. Legend: n images
of this process, C latent channels, h, w latent size.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.data.index import FLIP
from xmdpt_cli.encoders.vae import VAE
from xmdpt_cli.images import ImageArray
from xmdpt_cli.pose.head import head_map


class Images(Protocol):
    """Images of one size by index: an array (M, H, W, 3), or anything that reads lazily."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> ImageArray: ...


class Examples(Protocol):
    """Images with their stored moments and head maps, if available."""

    @property
    def images(self) -> Images: ...

    def moments(self, indices: list[int], mirrored: NDArray[np.bool_]) -> Tensor | None:
        """Stored posterior moments, float32 (n, 2C, h, w), unscaled; None: not stored."""

    def head(self, index: int) -> NDArray[np.float32] | None:
        """Map of the head, (H, W) in [0, 1]."""


class ImageExamples:
    """Examples of images without moments and head maps."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def moments(self, indices: list[int], mirrored: NDArray[np.bool_]) -> Tensor | None:
        return None

    def head(self, index: int) -> NDArray[np.float32] | None:
        return None


class DatasetImages:
    """The images of one split of a prepared dataset, decoded on access."""

    def __init__(self, dataset: PairDataset) -> None:
        self.dataset, self.views = dataset, sorted(dataset.views())

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, index: int, /) -> ImageArray:
        return self.dataset.image(*self.views[index])


class DatasetExamples:
    """One split of a prepared dataset: images, keypoints, stored moments if ``cached``."""

    def __init__(self, dataset: PairDataset, *, cached: bool = True, heads: bool = False) -> None:
        self.dataset, self.heads = dataset, heads
        self.images = DatasetImages(dataset)
        self.cached = cached and {"moments", "moments" + FLIP} <= dataset.table.columns.keys()

    def __len__(self) -> int:
        return len(self.images)

    def moments(self, indices: list[int], mirrored: NDArray[np.bool_]) -> Tensor | None:
        if not self.cached:
            return None
        rows = np.array([self.dataset.table.row(*self.images.views[i]) for i in indices])
        out = torch.empty(len(indices), *self.dataset.column("moments").shape)
        self.dataset.read_tensors("moments", rows, mirrored, out)
        return out

    def head(self, index: int) -> NDArray[np.float32] | None:
        if not self.heads:
            return None
        size = self.dataset.resolution
        return head_map(self.dataset.keypoints(*self.images.views[index]), size, size)


@dataclass(frozen=True)
class VaeBatch:
    """The batch of one process in one step."""

    images: Tensor  # uint8 (n, H, W, 3)
    noise: Tensor  # float32 (n, C, h, w), unit normal
    moments: Tensor | None = None  # float32 (n, 2C, h, w): of these images, flipped in the same way
    head: Tensor | None = None  # float32 (n, 1, H, W) in [0, 1]

    def to(self, device: torch.device) -> VaeBatch:
        moved: dict[str, Any] = {
            name: None if tensor is None else tensor.to(device)
            for name, tensor in vars(self).items()
        }
        return VaeBatch(**moved)


def sample_batch(
    examples: Examples, vae: VAE, seed: int, step: int, batch_size: int, rank: int, ranks: int
) -> VaeBatch:
    """The rows of process ``rank`` in the batch of a step, which does not depend on ``ranks``.

    Half of the images are flipped.
    """
    images, size, part = examples.images, batch_size, batch_size // ranks
    mine = slice(rank * part, (rank + 1) * part)
    chosen = [_index(seed, len(images), step * size + i) for i in range(size)][mine]
    rng = np.random.default_rng([seed, 1, step])
    batch = np.stack([np.asarray(images[index]) for index in chosen])
    mirrored = (rng.random(size) < 0.5)[mine]
    batch[mirrored] = batch[mirrored][:, :, ::-1]
    height, width = batch.shape[1] // vae.factor, batch.shape[2] // vae.factor
    noise = rng.standard_normal((size, vae.channels, height, width), dtype=np.float32)[mine]
    heads = [examples.head(index) for index in chosen]
    head = None
    if heads[0] is not None:
        stacked = np.stack([h for h in heads if h is not None])
        stacked[mirrored] = stacked[mirrored][:, :, ::-1]
        head = torch.from_numpy(stacked)[:, None]
    moments = examples.moments(chosen, mirrored)
    return VaeBatch(torch.from_numpy(batch), torch.from_numpy(noise), moments, head)


def _index(seed: int, count: int, position: int) -> int:
    """Index of the image at ``position`` in the endless sequence of shuffled epochs."""
    epoch, offset = divmod(position, count)
    return int(_epoch_order(seed, count, epoch)[offset])


@lru_cache(maxsize=4)
def _epoch_order(seed: int, count: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, 0, epoch]).permutation(count)


def spaced_indices(count: int, at_most: int) -> list[int]:
    """Up to ``at_most`` of the indices 0 to ``count`` - 1, evenly spaced."""
    return [int(index) for index in np.linspace(0, count - 1, min(count, at_most))]


def evenly_spaced(images: Images, at_most: int) -> NDArray[np.uint8]:
    """Up to ``at_most`` images, evenly spaced."""
    return np.stack([np.asarray(images[i]) for i in spaced_indices(len(images), at_most)])


def digest(images: Images) -> str:
    """Hex digest that identifies a training set by its size and 64 of its images."""
    chosen = evenly_spaced(images, 64)
    text = f"{len(images)} {chosen.shape} ".encode()
    return hashlib.sha256(text + np.ascontiguousarray(chosen).tobytes()).hexdigest()
