"""Training from a prepared dataset: both losses, EMA, checkpoints, exact resume.

Everything random in a step follows from the seed and the step's number, so a run that was cut off
and goes on makes the same weights as one that was not.
"""

from __future__ import annotations

import math
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from xmdpt_cli.config import TrainConfig
from xmdpt_cli.data.loader import Batch, PairDataset, prefetch
from xmdpt_cli.data.stream import train_loader
from xmdpt_cli.diffusion import Losses, Schedule, training_loss
from xmdpt_cli.encoders.vae import sample_posterior
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import only_process
from xmdpt_cli.model import XMDPT
from xmdpt_cli.progress import Progress, silent
from xmdpt_cli.training import checkpoint
from xmdpt_cli.training.ema import Ema
from xmdpt_cli.training.optimizer import make_optimizers
from xmdpt_cli.training.run import Log, begin_run, export


@dataclass
class Trained:
    """What ``train`` leaves behind."""

    model: Path  # a folder for `xmdpt sample --model` and XMDPT.from_pretrained (EMA weights)
    steps: int
    loss: float  # mean of the last logged steps
    seconds: float  # of this call
    steps_per_second: float


def build_model(config: TrainConfig, dataset: PairDataset) -> XMDPT:
    """An untrained XMDPT of the configured size that fits the dataset's features."""
    features = dataset.features(0)
    channels, side = features["target_moments"].shape[0] // 2, features["target_moments"].shape[1]
    pose_length, pose_width = features["pose_tokens"].shape
    source_length, source_width = features["source_tokens"].shape
    return XMDPT.from_size(
        config.size,
        latent_size=side,
        latent_channels=channels,
        mask_ratio=config.mask_ratio,
        pose_length=pose_length,
        pose_width=pose_width,
        source_length=source_length,
        source_width=source_width,
        conditioning=config.conditioning,
        vae_factor=dataset.resolution // side,
        mipnet=config.masked_pass,
    )


class Trainer:
    """The state of a run: model, EMA, optimizer, and the number of steps done."""

    def __init__(
        self, config: TrainConfig, dataset: PairDataset, device: str | torch.device = "cpu"
    ) -> None:
        self.config, self.dataset, self.device = config, dataset, torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = build_model(config, dataset).to(self.device)
        self.ema = Ema(self.model, config.ema, config.ema_warmup)
        self.optimizers = make_optimizers(self.model, config)
        self.schedule = Schedule(config.schedule, config.prediction)
        self.scale = float(dataset.manifest["encoders"]["vae"]["scale"])
        self.autocast = config.precision == "bf16" or (
            config.precision == "auto"
            and self.device.type == "cuda"
            and torch.cuda.is_bf16_supported()
        )
        self.done = 0

    def step(self, batch: Batch) -> Losses:
        """One optimizer step on one batch; returns the losses (detached rows, no host sync)."""
        config = self.config
        learning_rate = config.learning_rate * learning_rate_factor(config, self.done)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            losses = self.losses(batch)
        self.model.zero_grad(set_to_none=True)
        losses.total.backward()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.step()
        self.done += 1
        self.ema.update(self.model, self.done)
        return losses

    def losses(self, batch: Batch) -> Losses:
        """Both losses of the coming step; its random numbers follow from (seed, step)."""
        config, model, n = self.config, self.model, len(batch.pairs)
        rng = torch.Generator().manual_seed(_mix(config.seed, self.done))

        def normal(like: Tensor) -> Tensor:
            half = (n, like.shape[1] // 2, *like.shape[2:])
            return torch.randn(half, generator=rng).to(self.device)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=rng).to(self.device)

        target_moments = batch.target_moments.to(self.device, non_blocking=True)
        source_moments = batch.source_moments.to(self.device, non_blocking=True)
        target = sample_posterior(target_moments, normal(target_moments), self.scale)
        source = sample_posterior(source_moments, normal(source_moments), self.scale)
        noise = normal(target_moments)
        if config.timestep_power == 1:
            times = torch.randint(0, self.schedule.steps, (n,), generator=rng).to(self.device)
        else:
            times = (self.schedule.steps * uniform(n) ** config.timestep_power).long()
            times = times.clamp(max=self.schedule.steps - 1)
        keep, keep_masked = (uniform(n) >= config.guidance_drop for _ in range(2))
        tokens = model.tdnet.grid**2
        condition = model.condition(
            batch.pose_tokens.to(self.device, non_blocking=True),
            batch.source_tokens.to(self.device, non_blocking=True),
            source,
        )
        context = None
        maps = batch.pose_maps(self.device)
        if maps is not None:
            context = model.context(source, *maps)
        return training_loss(
            model,
            target,
            times,
            noise,
            condition,
            keep=keep,
            masked=config.masked_pass,
            source_latents=source,
            token_noise=uniform(n, tokens) if config.masked_pass else None,
            keep_masked=keep_masked,
            context=context,
            schedule=self.schedule,
        )


def learning_rate_factor(config: TrainConfig, done: int) -> float:
    """Share of the learning rate for the step after ``done``: warm-up, then constant or cosine."""
    if done < config.warmup_steps:
        return (done + 1) / config.warmup_steps
    if config.decay == "none":
        return 1.0
    span = max(1, config.steps - config.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - config.warmup_steps) / span)))


def train(
    config: TrainConfig,
    data: str | Path,
    out: Path,
    *,
    device: str | torch.device = "cpu",
    progress: Progress = silent,
) -> Trained:
    """Train, or go on training, into the run folder ``out`` (DESIGN: "What a run is").

    ``data`` is a folder, or a URL whose shards are streamed. Raises XmdptError if ``out`` holds
    another run, if the loss is no number, or if ``data`` is no prepared dataset. On an interrupt
    the state is saved first.
    """
    dataset = PairDataset(data, "train")
    with only_process(out):
        begin_run(out, config, dataset)
        trainer = Trainer(config, dataset, device)
        found = checkpoint.latest(out / "checkpoints")
        if found is not None:
            state = checkpoint.load(found, trainer.model, trainer.ema.model, trainer.optimizers)
            trainer.done = int(state["step"])
        first, began = trainer.done, time.perf_counter()
        log = Log(out, trainer.done, config.log_every)
        try:
            _run(trainer, out, log, progress)
        except KeyboardInterrupt:
            if trainer.done > first:
                _save(out, trainer)
            raise
        finally:
            log.close()
        seconds = time.perf_counter() - began
        export(out / "model", trainer.ema.model, config, dataset.manifest, trainer.done)
    rate = (trainer.done - first) / seconds
    return Trained(out / "model", trainer.done, log.last, seconds, rate)


def _run(trainer: Trainer, out: Path, log: Log, progress: Progress) -> None:
    """Step until ``config.steps`` are done, saving as often as configured."""
    config = trainer.config
    loader = train_loader(
        trainer.dataset,
        config.batch_size,
        config.seed,
        swap=config.swap,
        flip=config.flip,
        pose_maps=config.conditioning == "tokens",
    )
    progress("train", trainer.done, config.steps)
    if trainer.done >= config.steps:
        return
    with closing(prefetch(loader, trainer.done)) as batches:
        for batch in batches:
            losses = trainer.step(batch)
            log.add(losses, trainer.done)
            saving = trainer.done % config.checkpoint_every == 0 or trainer.done == config.steps
            # reading a loss waits for the device: only where it was read anyhow, or before a save
            if not math.isfinite(log.last) or (saving and not bool(losses.total.isfinite())):
                raise XmdptError(
                    f"the loss is no number any more at step {trainer.done}",
                    "the last good checkpoint is kept; try a lower --learning-rate in a new --out",
                )
            if saving:
                _save(out, trainer)
            progress("train", trainer.done, config.steps, loss=log.last)
            if trainer.done >= config.steps:
                return


def _save(out: Path, trainer: Trainer) -> None:
    checkpoint.save(
        out / "checkpoints",
        trainer.done,
        trainer.model,
        trainer.ema.model,
        trainer.optimizers,
        {"seed": trainer.config.seed},
        trainer.config.keep_checkpoints,
    )


def _mix(seed: int, step: int) -> int:
    """One 63-bit seed for (seed, step): neighbours share nothing (splitmix64's finaliser)."""
    z = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) % 2**64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return (z ^ (z >> 31)) >> 1
