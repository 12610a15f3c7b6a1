"""The training batches of a rank, from cached features or ``--online``, with random numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch

from xmdpt_cli.data.broken_shards import BrokenShards
from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.data.pair_images import PairImages
from xmdpt_cli.data.sampler import LoaderConfig
from xmdpt_cli.data.stream_loader import train_loader
from xmdpt_cli.model import XMDPT
from xmdpt_cli.training.online import OnlineLoader, find_encoders
from xmdpt_cli.training.run_config import RunConfig
from xmdpt_cli.training.step_noise import StepBatch, StepLoader, StepNoise, with_step_noise


@dataclass(frozen=True)
class EncoderPaths:
    """Where the encoders of ``--online`` lie (hub id or folder), if not where the dataset says."""

    vae: str | None = None
    source: str | None = None
    pose: str | None = None


@dataclass
class StepImages(PairImages):
    """The images of a batch with its random numbers."""

    step_noise: StepNoise | None = None


class OnlineStepLoader(StepLoader):
    """``StepLoader`` in the two halves of ``data.prefetch``: ``encode`` is for the device's thread.

    ``batch`` does both.
    """

    loader: OnlineLoader

    def read(self, step: int, out: PairImages | None = None) -> StepImages:
        """The images of micro step ``step``, and its random numbers."""
        images = self.loader.read(step, out)
        values = {f.name: getattr(images, f.name) for f in fields(PairImages)}
        return StepImages(**values, step_noise=self.step_noise(step))

    def encode(self, read: StepImages) -> StepBatch:
        """Their features."""
        return with_step_noise(self.loader.encode(read), read.step_noise)


def build_dataloader(
    config: RunConfig,
    dataset: PairDataset,
    model: XMDPT,
    size: int,
    rank: int = 0,
    world: int = 1,
    *,
    device: str | torch.device = "cpu",
    encoders: EncoderPaths | None = None,
    warn: Callable[[str], None] = print,
) -> StepLoader:
    """Micro batches of ``size`` pairs for rank ``rank`` of ``world``.

    ``warn`` receives a message when a broken shard is skipped (``data.broken_shards``). Raises
    XmdptError if the encoders for ``--online`` are not found, or are not the dataset's.
    """
    loader_config = LoaderConfig(
        size,
        config.seed,
        rank,
        world,
        config.swap,
        config.flip,
        pose_maps=model.conditioning == "tokens",
        target_tokens=model.repa_projector is not None,
        joints=config.needs_joints,
        swap_batch=config.batch_size if config.swap_by == "batch" else 0,
    )
    broken = BrokenShards(dataset, config.seed, warn)
    step_noise = (loader_config, model.latent_shape, model.tdnet.grid**2)
    if not config.online:
        return StepLoader(train_loader(dataset, loader_config, broken), *step_noise)
    places = vars(encoders or EncoderPaths())
    found = find_encoders(dataset.manifest, dataset.path, **places, device=device)
    return OnlineStepLoader(OnlineLoader(dataset, found, loader_config, broken), *step_noise)
