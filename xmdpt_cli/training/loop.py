"""Training from a prepared dataset: both losses, EMA, checkpoints, exact resume.

Everything random in a step follows from the seed and the step's number, so a run that was cut off
and goes on makes the same weights as one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xmdpt_cli.data.loader import PairDataset, prefetch
from xmdpt_cli.diffusion import Losses, Schedule
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.files import only_process
from xmdpt_cli.model import XMDPT
from xmdpt_cli.model.attention import Block
from xmdpt_cli.progress import Progress, silent
from xmdpt_cli.training import checkpoint
from xmdpt_cli.training.build import build_model
from xmdpt_cli.training.ema import Ema
from xmdpt_cli.training.feed import Networks, feed
from xmdpt_cli.training.fit import check_dataset
from xmdpt_cli.training.follow import open_log, open_watch, utilisation
from xmdpt_cli.training.log import Log, Timed
from xmdpt_cli.training.optimizer import make_optimizers
from xmdpt_cli.training.run import begin_run, export
from xmdpt_cli.training.sharded import whole
from xmdpt_cli.training.step import Inputs, StepBatch, StepLoader, TrainStep, inputs_of
from xmdpt_cli.training.team import ALONE, Team
from xmdpt_cli.training.track import check_tracker
from xmdpt_cli.training.train_config import TrainConfig
from xmdpt_cli.training.watch import Decode, Watch, due

LARGE = ("L", "XL")  # sizes that several processes share by FSDP2, if not told otherwise


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
        self,
        config: TrainConfig,
        dataset: PairDataset,
        device: str | torch.device = "cpu",
        team: Team = ALONE,
    ) -> None:
        self.config, self.dataset, self.team = config, dataset, team
        self.device = torch.device(device) if team.world == 1 else team.device
        self.micro_batch = micro_batch(config, team)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = build_model(config, dataset).to(self.device)
        self.ema = Ema(self.model, config.ema, config.ema_warmup)
        team.shard(self.ema.model, layers(self.ema.model))
        schedule = Schedule(config.schedule, config.prediction).to(self.device)
        self.scale = float(dataset.manifest["encoders"]["vae"]["scale"])
        module = TrainStep(self.model, config, schedule)
        self.autocast = module.autocast = config.precision == "bf16" or (
            config.precision == "auto"
            and self.device.type == "cuda"
            and torch.cuda.is_bf16_supported()
        )
        self.use = utilisation(config, dataset, self.model, team, self.device, module.autocast)
        self.wrapped = team.wrap(module, layers(self.model))
        self.optimizers = make_optimizers(self.model, config)  # of the parts, where it is sharded
        self.run: Callable[[Inputs], Losses] = self.wrapped
        if config.compile == "on" or (config.compile == "auto" and self.device.type == "cuda"):
            self.run = torch.compile(self.wrapped)
        self.done, self.settled = 0, False
        self.learning_rate = 0.0  # of the last step
        self.skipped = 0  # pairs that could not be read; others took their places

    def loader(
        self, networks: Networks | None = None, warn: Callable[[str], None] = silently
    ) -> StepLoader:
        """This rank's micro batches with their random numbers."""
        return feed(
            self.config,
            self.dataset,
            self.model,
            self.micro_batch,
            rank=self.team.rank,
            world=self.team.world,
            device=self.device,
            networks=networks,
            warn=warn,
        )

    def step(self, batches: Iterator[StepBatch]) -> Losses:
        """One optimizer step on the next ``accumulate`` batches; losses are detached, and this
        rank's; nothing waits for the device."""
        config, parts = self.config, []
        self.model.zero_grad(set_to_none=True)
        for part in range(config.accumulate):
            batch = next(batches)
            self.skipped += batch.skipped
            inputs = inputs_of(batch, config, self.done, self.scale, self.device)
            if not self.settled:
                self.team.settle(self.model, partial(self._total, inputs))
                self.settled = True
            last = part == config.accumulate - 1
            with nullcontext() if last else self.team.no_sync(self.wrapped):
                losses = self.run(inputs)
                (losses.total / config.accumulate).backward()
            parts.append(losses._replace(total=losses.total.detach()))
        self.learning_rate = config.learning_rate * learning_rate_factor(config, self.done)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate
            optimizer.step()
        self.done += 1
        self.ema.update(self.model, self.done)
        return joined(parts)

    def _total(self, inputs: Inputs) -> Tensor:
        return self.run(inputs).total

    def averaged(self) -> XMDPT | None:
        """The EMA model, whole, on rank 0; None on the others. A collective."""
        if self.team.sharding != "fsdp":
            return self.ema.model if self.team.first else None
        weights = whole(self.ema.model.state_dict(), self.team)
        if not self.team.first:
            return None
        model = build_model(self.config, self.dataset).eval().requires_grad_(False)
        model.load_state_dict(weights)
        return model.to(self.device)


def layers(model: XMDPT) -> list[nn.Module]:
    """What FSDP2 gathers at a time: the transformer blocks."""
    return [module for module in model.modules() if isinstance(module, Block)]


def micro_batch(config: TrainConfig, team: Team) -> int:
    """Pairs that one process takes at a time; ConfigError if the batch does not divide."""
    parts = team.world * config.accumulate
    if config.batch_size % parts:
        team.fail(
            ConfigError(
                f"a batch of {config.batch_size} cannot be cut into {team.world} processes x "
                f"{config.accumulate} parts (--accumulate)",
                f"take a --batch-size that {parts} divides, e.g. "
                f"{-(-config.batch_size // parts) * parts}",
            )
        )
    if team.sharding == "fsdp" and config.optimizer == "muon":
        team.fail(ConfigError("muon needs whole matrices", "--sharding ddp, or another optimizer"))
    return config.batch_size // parts


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
    decode: Decode | None = None,
) -> Trained:
    """Train, or go on training, into the run folder ``out`` (DESIGN: "What a run is").

    ``data`` is a folder, or a URL whose shards are streamed. Raises XmdptError if ``out`` holds
    another run, if the loss is no number, or if ``data`` is no prepared dataset. On an interrupt
    the state is saved first.

    ``warn`` is told of what a run goes on in spite of: a toy dataset for another recipe, a shard
    that breaks (it is skipped, see ``data.skipping``; ``Trained.skipped`` counts its pairs).
    ``networks``: where the encoders of ``config.online`` are, if not where the dataset says.
    ``decode`` makes pictures of the validation's latents (``VAE.decode``).
    Under torchrun every process calls this, and all train one model; rank 0 alone writes.
    """
    check_tracker(config.track)
    team = Team.start(device, config.sharding, large=config.size in LARGE)
    with team.together(), ExitStack() as held:
        # a run that goes on may have to do without a shard, as before; a new one has to be whole
        dataset = PairDataset(data, "train", lenient=(out / "checkpoints").is_dir())
        for note in check_dataset(config, dataset.manifest, data):
            warn(note)
        team.on_first(lambda: _begin(held, out, config, dataset))
        trainer = Trainer(config, dataset, device, team)
        found = team.on_first(lambda: checkpoint.latest(out / "checkpoints"))
        if found is not None:
            models = (trainer.model, trainer.ema.model)
            state = checkpoint.load(found, *models, trainer.optimizers, team)
            trainer.done, trainer.skipped = int(state["step"]), int(state.get("skipped", 0))
        first, began = trainer.done, time.perf_counter()
        follow = (config, out, trainer.done, team, trainer.device)
        log = open_log(*follow, trainer.use, warn)
        try:
            watch = open_watch(*follow, dataset, trainer.autocast, decode, warn)
            loader = trainer.loader(networks, warn)
            _run(trainer, loader, out, log, watch, progress if team.first else silent)
        except KeyboardInterrupt:
            if trainer.done > first:
                _save(out, trainer)
            raise
        finally:
            log.close()
        seconds = time.perf_counter() - began
        model = trainer.averaged()
        if model is not None:
            export(out / "model", model, config, dataset.manifest, trainer.done)
        team.barrier()  # what is said to be done is there
    rate = (trainer.done - first) / seconds
    return Trained(out / "model", trainer.done, log.last, seconds, rate, trainer.skipped)


def _begin(held: ExitStack, out: Path, config: TrainConfig, dataset: PairDataset) -> None:
    held.enter_context(only_process(out))
    begin_run(out, config, dataset)


def _run(
    trainer: Trainer,
    loader: StepLoader,
    out: Path,
    log: Log,
    watch: Watch | None,
    progress: Progress,
) -> None:
    """Step until ``config.steps`` are done, validating and saving as often as configured."""
    config, team = trainer.config, trainer.team
    progress("train", trainer.done, config.steps)
    looking = due(config.validate_every, config.steps, trainer.done)
    if looking and not team.on_first(lambda: log.has(trainer.done, "val_loss")):
        _look(trainer, log, watch)  # an interrupt came before it was made
    if trainer.done >= config.steps:
        return
    start, pin = trainer.done * config.accumulate, trainer.device.type == "cuda"
    reading = closing(prefetch(loader, start, pin=pin))
    with reading as batches, team.interruptible() as interrupted:
        timed = Timed(batches)
        while trainer.done < config.steps:
            losses = trainer.step(timed)
            rate = trainer.learning_rate
            log.add(losses, trainer.done, config.batch_size, timed.taken(), rate)
            last = trainer.done == config.steps
            saving = trainer.done % config.checkpoint_every == 0 or last
            looking = due(config.validate_every, config.steps, trainer.done)
            # reading a loss waits for the device: only where it was read anyhow, or before a save
            poor = (saving or looking) and not bool(losses.total.isfinite())
            if not math.isfinite(log.last) or ((saving or looking) and team.any(poor)):
                team.fail(
                    XmdptError(
                        f"the loss is no number any more at step {trainer.done}",
                        "the last good checkpoint is kept; try a lower --learning-rate in a new "
                        "--out",
                    )
                )
            if looking:
                _look(trainer, log, watch)
            if saving:
                with log.paused():
                    _save(out, trainer)
            progress("train", trainer.done, config.steps, **log.shown)
            if interrupted():
                raise KeyboardInterrupt


def _look(trainer: Trainer, log: Log, watch: Watch | None) -> None:
    """Validate with the averaged weights; a collective, rank 0 does it."""
    with log.paused():
        model = trainer.averaged()

        def look() -> None:
            assert watch is not None
            assert model is not None
            watch.look(model, trainer.done, log)

        trainer.team.on_first(look)


def _save(out: Path, trainer: Trainer) -> None:
    checkpoint.save(
        out / "checkpoints",
        trainer.done,
        trainer.model,
        trainer.ema.model,
        trainer.optimizers,
        {"seed": trainer.config.seed, "skipped": trainer.skipped},
        trainer.config.keep_checkpoints,
        trainer.config.keep_every,
        trainer.team,
    )
