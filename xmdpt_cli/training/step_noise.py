"""The random numbers of a training step, and the loader that adds them to its batches.

All random numbers of a pair follow from (seed, its number in the endless sequence of training
pairs). So a global batch is the same for any number of ranks and micro batches, and a resumed run
continues with the same numbers.

Legend: N pairs, C latent channels, h, w latent size, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from xmdpt_cli.data.loader import Batch
from xmdpt_cli.data.prefetch import Loader
from xmdpt_cli.data.sampler import LoaderConfig


class StepNoise(NamedTuple):
    """The random numbers of one step on N pairs."""

    target: Tensor  # (N, C, h, w) normal: samples the target's VAE posterior
    source: Tensor  # (N, C, h, w) normal: samples the source's
    noise: Tensor  # (N, C, h, w) normal: the noise to predict
    masked_noise: Tensor  # (N, C, h, w) normal: the same for the masked pass
    uniform: Tensor  # (N, 3) in [0, 1): timestep; condition drop of the plain and the masked pass
    tokens: Tensor  # (N, T) in [0, 1): tokens are masked in this order

    @classmethod
    def sample(
        cls, seed: int, numbers: Sequence[int], latent_shape: tuple[int, ...], tokens: int
    ) -> StepNoise:
        """The random numbers of the pairs with these numbers."""
        count, size = len(numbers), int(np.prod(latent_shape))
        normal, uniform = torch.empty(count, 3 * size), torch.empty(count, 3 + tokens)
        masked = torch.empty(count, size)
        rng = torch.Generator()
        for row, number in enumerate(numbers):
            rng.manual_seed(mix(seed, number))
            torch.randn(3 * size, generator=rng, out=normal[row])
            torch.rand(3 + tokens, generator=rng, out=uniform[row])
            # last, so that one noise for both passes leaves the numbers above unchanged
            torch.randn(size, generator=rng, out=masked[row])
        target, source, noise = normal.reshape(count, 3, *latent_shape).unbind(1)
        masked = masked.reshape(count, *latent_shape)
        return cls(target, source, noise, masked, uniform[:, :3], uniform[:, 3:])


def mix(seed: int, number: int) -> int:
    """A 63-bit seed from (seed, number), unrelated for neighbours (splitmix64's finaliser)."""
    z = (seed * 0x9E3779B97F4A7C15 + number * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) % 2**64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return (z ^ (z >> 31)) >> 1


@dataclass
class StepBatch(Batch):
    """A batch with its random numbers."""

    step_noise: StepNoise | None = None


class StepLoader:
    """Adds each batch's random numbers to a loader's batches, on the threads that prefetch.

    Micro batch m of rank r starts at pair number (m * world_size + r) * N.
    """

    def __init__(
        self,
        loader: Loader[Batch],
        config: LoaderConfig,
        latent_shape: tuple[int, ...],
        tokens: int,
    ) -> None:
        self.loader, self.config = loader, config
        self.latent_shape, self.tokens = latent_shape, tokens

    def batch(self, step: int, out: Batch | None = None) -> StepBatch:
        """The batch of micro step ``step``."""
        return with_step_noise(self.loader.batch(step, out), self.step_noise(step))

    def step_noise(self, step: int) -> StepNoise:
        """The random numbers of micro step ``step``."""
        numbers = self.config.pair_numbers(step).tolist()
        return StepNoise.sample(self.config.seed, numbers, self.latent_shape, self.tokens)


def with_step_noise(batch: Batch, step_noise: StepNoise | None) -> StepBatch:
    """The batch with its random numbers."""
    values = {f.name: getattr(batch, f.name) for f in fields(Batch)}
    return StepBatch(**values, step_noise=step_noise)
