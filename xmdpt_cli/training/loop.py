"""Training from a prepared dataset: both losses, EMA, checkpoints, exact resume.

Everything random in a step follows from the seed and the step's number, so a run that was cut off
and goes on makes the same weights as one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from xmdpt_cli.config import TrainConfig
from xmdpt_cli.data.loader import PairDataset, prefetch
from xmdpt_cli.diffusion import Losses, Schedule
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import only_process
from xmdpt_cli.progress import Progress, silent
from xmdpt_cli.training import checkpoint
from xmdpt_cli.training.build import build_model
from xmdpt_cli.training.ema import Ema
from xmdpt_cli.training.feed import Networks, feed
from xmdpt_cli.training.fit import check_dataset
from xmdpt_cli.training.optimizer import make_optimizers
from xmdpt_cli.training.run import Log, begin_run, export
from xmdpt_cli.training.step import Inputs, StepBatch, StepLoader, TrainStep, inputs_of


@dataclass
class Trained:
    """What ``train`` leaves behind."""

    model: Path  # a folder for `xmdpt sample --model` and XMDPT.from_pretrained (EMA weights)
    steps: int
    loss: float  # mean of the last logged steps
    seconds: float  # of this call
    steps_per_second: float
    skipped: int = 0  # pairs that could not be read, over the whole run


def silently(text: str) -> None:
    """Warn nobody."""


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
        schedule = Schedule(config.schedule, config.prediction).to(self.device)
        self.scale = float(dataset.manifest["encoders"]["vae"]["scale"])
        module = TrainStep(self.model, config, schedule)
        module.autocast = config.precision == "bf16" or (
            config.precision == "auto"
            and self.device.type == "cuda"
            and torch.cuda.is_bf16_supported()
        )
        self.run: Callable[[Inputs], Losses] = module
        if config.compile == "on" or (config.compile == "auto" and self.device.type == "cuda"):
            self.run = torch.compile(module)
        self.done = 0
        self.skipped = 0  # pairs that could not be read; others took their places

    def loader(
        self, networks: Networks | None = None, warn: Callable[[str], None] = silently
    ) -> StepLoader:
        """Micro batches with their random numbers."""
        config = self.config
        size = config.batch_size // config.accumulate
        return feed(
            config,
            self.dataset,
            self.model,
            size,
            device=self.device,
            networks=networks,
            warn=warn,
        )

    def step(self, batches: Iterator[StepBatch]) -> Losses:
        """One optimizer step on the next ``accumulate`` batches; losses are detached, nothing
        waits for the device."""
        config, parts = self.config, []
        self.model.zero_grad(set_to_none=True)
        for _ in range(config.accumulate):
            batch = next(batches)
            self.skipped += batch.skipped
            inputs = inputs_of(batch, config, self.done, self.scale, self.device)
            losses = self.run(inputs)
            (losses.total / config.accumulate).backward()
            parts.append(losses._replace(total=losses.total.detach()))
        learning_rate = config.learning_rate * learning_rate_factor(config, self.done)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.step()
        self.done += 1
        self.ema.update(self.model, self.done)
        return joined(parts)


def joined(parts: list[Losses]) -> Losses:
    """The losses of a step that was taken in equal parts."""
    if len(parts) == 1:
        return parts[0]
    rows: dict[str, Any] = {}
    for name in Losses._fields[1:]:
        values = [getattr(part, name) for part in parts]
        rows[name] = None if values[0] is None else torch.cat(values)
    return parts[0]._replace(total=torch.stack([part.total for part in parts]).mean(), **rows)


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
    warn: Callable[[str], None] = silently,
    networks: Networks | None = None,
) -> Trained:
    """Train, or go on training, into the run folder ``out`` (DESIGN: "What a run is").

    ``data`` is a folder, or a URL whose shards are streamed. Raises XmdptError if ``out`` holds
    another run, if the loss is no number, or if ``data`` is no prepared dataset. On an interrupt
    the state is saved first.

    ``warn`` is told of what a run goes on in spite of: a toy dataset for another recipe, a shard
    that breaks (it is skipped, see ``data.skipping``; ``Trained.skipped`` counts its pairs).
    ``networks``: where the encoders of ``config.online`` are, if not where the dataset says.
    """
    # a run that goes on may have to do without a shard, as before; a new one has to be whole
    dataset = PairDataset(data, "train", lenient=(out / "checkpoints").is_dir())
    for note in check_dataset(config, dataset.manifest, data):
        warn(note)
    with only_process(out):
        begin_run(out, config, dataset)
        trainer = Trainer(config, dataset, device)
        found = checkpoint.latest(out / "checkpoints")
        if found is not None:
            state = checkpoint.load(found, trainer.model, trainer.ema.model, trainer.optimizers)
            trainer.done, trainer.skipped = int(state["step"]), int(state.get("skipped", 0))
        first, began = trainer.done, time.perf_counter()
        log = Log(out, trainer.done, config.log_every)
        try:
            _run(trainer, trainer.loader(networks, warn), out, log, progress)
        except KeyboardInterrupt:
            if trainer.done > first:
                _save(out, trainer)
            raise
        finally:
            log.close()
        seconds = time.perf_counter() - began
        export(out / "model", trainer.ema.model, config, dataset.manifest, trainer.done)
    rate = (trainer.done - first) / seconds
    return Trained(out / "model", trainer.done, log.last, seconds, rate, trainer.skipped)


def _run(trainer: Trainer, loader: StepLoader, out: Path, log: Log, progress: Progress) -> None:
    """Step until ``config.steps`` are done, saving as often as configured."""
    config = trainer.config
    progress("train", trainer.done, config.steps)
    if trainer.done >= config.steps:
        return
    start, pin = trainer.done * config.accumulate, trainer.device.type == "cuda"
    with closing(prefetch(loader, start, pin=pin)) as batches:
        while trainer.done < config.steps:
            losses = trainer.step(batches)
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


def _save(out: Path, trainer: Trainer) -> None:
    checkpoint.save(
        out / "checkpoints",
        trainer.done,
        trainer.model,
        trainer.ema.model,
        trainer.optimizers,
        {"seed": trainer.config.seed, "skipped": trainer.skipped},
        trainer.config.keep_checkpoints,
    )
