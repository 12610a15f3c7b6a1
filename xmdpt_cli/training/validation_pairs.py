"""The held-out pairs of validation: chosen and read once, the same for the whole run.

Legend: N pairs, C latent channels, h latent side, L DINOv2 tokens, W their width, H image side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.data.loader import load_pairs
from xmdpt_cli.data.sampler import PairIndices
from xmdpt_cli.encoders.vae import posterior_mean
from xmdpt_cli.images import ImageArray

CHUNK = 8  # pairs per forward pass, whatever the training's batch size


@dataclass(frozen=True)
class ValidationPairs:
    """Pairs as tensors on the CPU; latents are the posterior's mean, scaled."""

    positions: list[int]  # in the dataset
    target: Tensor  # (N, C, h, h)
    source: Tensor  # (N, C, h, h)
    pose_tokens: Tensor  # (N, L, W), of the target's pose
    source_tokens: Tensor  # (N, L, W)
    pose_maps: tuple[Tensor, Tensor] | None  # target's, source's (N, 3, H, H) in [0, 1]

    def chunks(self, device: torch.device) -> Iterator[ValidationPairs]:
        """``CHUNK`` pairs at a time, on ``device``."""
        for start in range(0, len(self.positions), CHUNK):
            part = slice(start, start + CHUNK)
            maps = self.pose_maps
            yield ValidationPairs(
                self.positions[part],
                self.target[part].to(device),
                self.source[part].to(device),
                self.pose_tokens[part].to(device),
                self.source_tokens[part].to(device),
                None if maps is None else (maps[0][part].to(device), maps[1][part].to(device)),
            )


@dataclass(frozen=True)
class ItemViews:
    """Three sources for a pose of each item: two views, another person (see ``similarity``)."""

    pose_tokens: Tensor  # (N, L, W)
    source_tokens: Tensor  # (3, N, L, W): one view, another view of the item, someone else
    source: Tensor  # (3, N, C, h, h)
    strangers: bool  # False: the dataset has one person only, ignore the third source


def held_out(dataset: PairDataset, warn: Callable[[str], None]) -> PairDataset:
    """The test split of a dataset; its training pairs, with a warning, if it has none."""
    if dataset.manifest["counts"]["test"]["pairs"]:
        return PairDataset(dataset.store, "test")
    warn("the dataset has no test pairs: validation is on pairs that are also trained on")
    return dataset


def evenly(total: int, count: int) -> list[int]:
    """At most ``count`` positions of 0 .. total - 1, evenly spaced, the first among them."""
    count = min(count, total)
    return [i * total // count for i in range(count)]


def read_pairs(
    dataset: PairDataset, positions: list[int], scale: float, pose_maps: bool
) -> ValidationPairs:
    """Read these pairs as published: neither swapped nor mirrored."""
    batch = load_pairs(dataset, PairIndices.listed(positions), pose_maps=pose_maps)
    return ValidationPairs(
        positions,
        posterior_mean(batch.target_moments, scale),
        posterior_mean(batch.source_moments, scale),
        batch.pose_tokens,
        batch.source_tokens,
        batch.pose_maps(torch.device("cpu")),
    )


def read_images(dataset: PairDataset, positions: list[int]) -> list[list[ImageArray]]:
    """Source, target's pose and target of each pair."""
    refs = [dataset.pairs[i] for i in positions]
    return [
        [
            dataset.image(pair.key, pair.source),
            np.ascontiguousarray(dataset.pose_map(pair.key, pair.target)),
            dataset.image(pair.key, pair.target),
        ]
        for pair in refs
    ]


def read_views(
    dataset: PairDataset, positions: list[int], scale: float, most: int
) -> ItemViews | None:
    """At most ``most`` items of these pairs; None if none of them has two views.

    The pose is the pair's target pose, the sources are the pair's source, another view of the
    item (not the target where there is a third) and the source of the next item that another
    person wears.
    """
    views: dict[str, list[str]] = {}
    for key, view in dataset.views():
        views.setdefault(key, []).append(view)
    chosen: dict[str, tuple[str, str, str]] = {}  # item: pose of, source, other source
    for pair in (dataset.pairs[i] for i in positions):
        others = [v for v in views[pair.key] if v != pair.source]
        others.sort(key=lambda view: (view == pair.target, view))
        if others and pair.key not in chosen and len(chosen) < most:
            chosen[pair.key] = (pair.target, pair.source, others[0])
    if not chosen:
        return None
    keys = list(chosen)
    strangers = [_stranger(keys, i) for i in range(len(keys))]
    sources = [
        [(key, chosen[key][1]) for key in keys],
        [(key, chosen[key][2]) for key in keys],
        [(key, chosen[key][1]) for key in strangers],
    ]

    def read(places: list[tuple[str, str]], name: str) -> Tensor:
        return torch.stack([dataset.tensor(key, view, name) for key, view in places])

    return ItemViews(
        read([(key, chosen[key][0]) for key in keys], "pose_tokens"),
        torch.stack([read(places, "source_tokens") for places in sources]),
        torch.stack([posterior_mean(read(places, "moments"), scale) for places in sources]),
        all(_product(a) != _product(b) for a, b in zip(keys, strangers, strict=True)),
    )


def _product(key: str) -> str:
    """``WOMEN-Dresses-id_00000002-02`` without its colour: colours are worn by one person."""
    return key.rsplit("-", 1)[0]


def _stranger(keys: list[str], i: int) -> str:
    """The next item on another person, or the same item where there is none."""
    for step in range(1, len(keys)):
        other = keys[(i + step) % len(keys)]
        if _product(other) != _product(keys[i]):
            return other
    return keys[i]


def stratified(count: int, steps: int, quartile: int) -> NDArray[np.int64]:
    """``count`` timesteps that cover one quarter (0..3) of 0 .. steps - 1 evenly, in mixed order.

    A permutation of its own for each quartile: no pair gets the low end of all four.
    """
    low, high = quartile * steps // 4, (quartile + 1) * steps // 4
    times = low + np.floor((np.arange(count) + 0.5) * (high - low) / count).astype(np.int64)
    return np.random.default_rng([4, quartile]).permutation(times)
