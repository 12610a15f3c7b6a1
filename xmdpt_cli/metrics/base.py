"""The base classes of all metrics.

Every metric is a ``torchmetrics.Metric``::

    metric = SSIM256()
    metric.update(generated, ground_truth)  # uint8 (N, 3, H, W), as often as wanted
    metric.compute()                        # over all images, of all ranks
    metric.reset()

Under ``torch.distributed`` ``compute`` gathers the states of all ranks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.images import ImageArray
from xmdpt_cli.metrics.evaluation import finite_mean
from xmdpt_cli.metrics.intervals import Interval, mean_interval
from xmdpt_cli.metrics.pixels import Once, Pixels, in_threads, size_of, to_arrays

#: resizes an image to the compared size
Path = Callable[[ImageArray], Pixels]


def unchanged(image: ImageArray) -> Pixels:
    """Return the image unchanged."""
    return image


@dataclass(frozen=True)
class Resize:
    """Resizes generated images and ground truths to the size that a metric compares."""

    generated: Path = unchanged
    ground_truth: Path = unchanged
    once: Once = field(default_factory=Once)

    def batch(self, path: Path, images: Tensor) -> list[Pixels]:
        """uint8 (N, 3, H, W) -> N arrays (H', W', 3) by one of the two paths."""
        arrays = self.once(to_arrays, images)
        if path is unchanged:
            return arrays  # type: ignore[return-value]
        return self.once(_Each(path), arrays)


@dataclass(frozen=True)
class _Each:
    """Applies a path to a list of images. Equal instances share their results in ``Once``."""

    path: Path

    def __call__(self, images: Sequence[ImageArray]) -> list[Pixels]:
        return in_threads(self.path, images)


class ImageMetric(Metric):
    """Base of all metrics here: ``update(generated, ground_truth)`` with uint8 (N, 3, H, W).

    The two may differ in size only where ``resize`` brings them to one.
    """

    name: str  # in tables and files
    decimals: ClassVar[int] = 4  # shown in tables
    is_differentiable = False
    full_state_update = False
    weights: str = ""  # description of the network weights; empty without a network
    toy: bool = False  # random weights, or made for synthetic people: not comparable with papers

    def __init__(self, *, state: str, resize: Resize | None = None, **kwargs: Any) -> None:
        """``state``: the name of the state. ``kwargs``: of ``torchmetrics.Metric``."""
        super().__init__(**kwargs)
        self.resize = resize or Resize()
        self._state = re.sub(r"\W", "_", state)
        self.add_state(self._state, default=[], dist_reduce_fx="cat")

    @property
    def key(self) -> str:
        """``name`` as torch allows it for the key of a module: ``_`` for dots."""
        return re.sub(r"\W", "_", self.name)

    @property
    def kind(self) -> str:
        """``ssim`` of ``ssim_w51``: what the options of ``xmdpt evaluate`` choose."""
        return self.name.partition("_")[0]

    def interval(self) -> Interval | None:
        """95 % confidence interval of ``compute()`` over images; None where it has none."""
        return None

    def rows(self) -> Tensor:
        """The state of each image, (N, ...), in the order of ``update``."""
        kept = getattr(self, self._state)
        return dim_zero_cat(kept) if len(kept) else self._empty()

    def select(self, indices: Sequence[int] | NDArray[np.int64]) -> None:
        """Keep only the images with these indices in ``rows``, in this order."""
        chosen = torch.as_tensor(np.asarray(indices, dtype=np.int64), device=self.device)
        setattr(self, self._state, [self.rows()[chosen]])
        self._computed = None

    def gather(self) -> None:
        """Replace the state by that of all ranks, on every rank."""
        self.sync()
        states = dict(self.metric_state)
        self.unsync()
        for name, state in states.items():
            setattr(self, name, [dim_zero_cat(state)])

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the states of all ranks, also if a rank has no images."""
        kept = getattr(self, self._state)
        if isinstance(kept, list) and not kept:
            kept.append(self._empty())  # torchmetrics would send a default type and shape
        super().sync(*args, **kwargs)

    def train(self, mode: bool = True) -> ImageMetric:
        """Stays in eval mode: the networks of metrics are frozen."""
        super().train(False)
        return self

    @property
    def _floats(self) -> torch.dtype:
        """float64, which MPS does not have."""
        return torch.float32 if self.device.type == "mps" else torch.float64

    def _scalar(self, value: float) -> Tensor:
        return torch.tensor(value, dtype=self._floats, device=self.device)

    def _empty(self) -> Tensor:
        raise NotImplementedError

    def _keep(self, rows: Tensor) -> None:
        getattr(self, self._state).append(rows)


class PairMetric(ImageMetric):
    """A value for each pair of images; ``compute`` is their mean.

    A subclass implements ``measure``::

        class Brightness(PairMetric):
            name = "brightness"
            higher_is_better = False

            def measure(self, generated, ground_truth):
                return abs(float(generated.mean()) - float(ground_truth.mean()))
    """

    smallest: int = 1  # px a side; smaller images have no value

    def __init__(self, *, state: str = "", **kwargs: Any) -> None:
        # a distinct name per metric: a collection may merge two metrics whose equally named
        # states are equal after the first batch
        super().__init__(state=state or f"{self.name}_values", **kwargs)

    def measure(self, generated: Pixels, ground_truth: Pixels) -> float:
        """The value of a pair (H, W, 3) of one size; NaN if it is undefined."""
        raise NotImplementedError

    def update(self, generated: Tensor, ground_truth: Tensor) -> None:
        """Measure a batch of pairs, uint8 (N, 3, H, W). XmdptError if their sizes differ."""
        self._keep_values(in_threads(self._value, *self.pairs(generated, ground_truth)))

    def compute(self) -> Tensor:
        """float64 (): the mean over the pairs with a finite value. Without one: infinity if a
        value is infinite (the PSNR of equal images), else NaN."""
        return self._scalar(finite_mean(self.per_image()))

    def per_image(self) -> NDArray[np.float64]:
        """(N,) values in the order of ``update``; NaN: undefined; may be infinite."""
        return self.rows().cpu().numpy().astype(np.float64)

    def interval(self) -> Interval | None:
        return mean_interval(self.per_image())

    def pairs(self, generated: Tensor, ground_truth: Tensor) -> tuple[list[Pixels], list[Pixels]]:
        """Both batches as arrays (H, W, 3), resized. XmdptError if their sizes differ."""
        a = self.resize.batch(self.resize.generated, generated)
        b = self.resize.batch(self.resize.ground_truth, ground_truth)
        for x, y in zip(a, b, strict=True):
            check_sizes(x, y)
        return a, b

    def _value(self, generated: Pixels, ground_truth: Pixels) -> float:
        fits = min(ground_truth.shape[:2]) >= self.smallest
        return self.measure(generated, ground_truth) if fits else math.nan

    def _keep_values(self, values: Iterable[float]) -> None:
        self._keep(torch.tensor(list(values), dtype=self._floats, device=self.device))

    def _empty(self) -> Tensor:
        return torch.zeros(0, dtype=self._floats, device=self.device)


def check_sizes(a: Pixels, b: Pixels, smallest: int = 1) -> None:
    """XmdptError for images of different sizes, or under ``smallest`` px on a side."""
    if a.shape != b.shape:
        raise XmdptError(
            f"images of different sizes cannot be compared: {size_of(a)} and {size_of(b)}",
            "choose a protocol that brings both to one size, for example cfld",
        )
    if min(a.shape[:2]) < smallest:
        raise XmdptError(
            f"an image of {size_of(a)} px is smaller than the {smallest} px window of this SSIM",
            f"evaluate images of at least {smallest} x {smallest} px",
        )
