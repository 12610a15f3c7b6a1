"""Training from a prepared dataset: both losses, EMA, checkpoints, exact resume.

Everything random in a step follows from the seed and the step's number, so a run that was cut off
and goes on makes the same weights as one that was not.
"""

from __future__ import annotations

import dataclasses
import math
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from xmdpt_cli.data.loader import PairDataset, prefetch
from xmdpt_cli.diffusion import Losses
from xmdpt_cli.errors import XmdptError, is_out_of_memory
from xmdpt_cli.files import only_process
from xmdpt_cli.progress import Progress, Say, silent, silently
from xmdpt_cli.training import checkpoint
from xmdpt_cli.training.build_dataloader import Networks
from xmdpt_cli.training.config import TrainConfig
from xmdpt_cli.training.distributed import Distributed
from xmdpt_cli.training.find_batch_size import automatic_batch, largest_that_fits
from xmdpt_cli.training.fit import check_dataset, check_model, too_large
from xmdpt_cli.training.logger import Log, Timed
from xmdpt_cli.training.run_folder import as_begun, begin_run, export, known_batch
from xmdpt_cli.training.setup_logging import open_log, open_watch
from xmdpt_cli.training.step import StepLoader
from xmdpt_cli.training.tracker import check_tracker
from xmdpt_cli.training.trainer import Trainer
from xmdpt_cli.training.validation import Decode, Watch, due

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


def train(
    config: TrainConfig,
    data: str | Path,
    out: Path,
    *,
    device: str = "cpu",
    progress: Progress = silent,
    warn: Say = silently,
    say: Say = silently,
    networks: Networks | None = None,
    decode: Decode | None = None,
    force: bool = False,
) -> Trained:
    """Train, or go on training, into the run folder ``out`` (DESIGN: "What a run is").

    ``data`` is a folder, or a URL whose shards are streamed. Raises XmdptError if ``out`` holds
    another run, if the loss is no number, or if ``data`` is no prepared dataset. On an interrupt
    the state is saved first.

    ``warn`` is told of what a run goes on in spite of: a toy dataset for another recipe, a shard
    that breaks (it is skipped, see ``data.broken_shards``; ``Trained.skipped`` counts its pairs).
    ``say`` is told of a run that resumes.
    ``networks``: where the encoders of ``config.online`` are, if not where the dataset says.
    ``decode`` makes pictures of the validation's latents (``VAE.decode``). ``force`` goes on with
    changed settings, of those that may change (``run.FORCEABLE``).
    Under torchrun every process calls this, and all train one model; rank 0 alone writes.
    """
    check_tracker(config.track)
    dist = Distributed.init(device, config.sharding, large=config.size in LARGE)
    with dist.translate_errors(), ExitStack() as held:
        # a run that goes on may have to do without a shard, as before; a new one has to be whole
        dataset = PairDataset(data, "train", lenient=(out / "checkpoints").is_dir())
        for note in [*config.doubts(), *check_dataset(config, dataset.manifest, data)]:
            warn(note)
        config = dist.run_on_main(lambda: as_begun(config, out, say))
        if not config.batch_size:  # auto
            config = dist.run_on_main(lambda: _with_batch(config, out, dataset, dist))
        trainer = Trainer(config, dataset, device, dist)  # first: an impossible one leaves no run
        dist.run_on_main(lambda: _begin(held, out, config, dataset, force))
        found = dist.run_on_main(lambda: checkpoint.latest(out / "checkpoints"))
        if found is not None:
            dist.run_on_main(lambda: check_model(trainer.model, found / "model.safetensors"))
            models = (trainer.model, trainer.ema.model)
            state = checkpoint.load(found, *models, trainer.optimizers, dist)
            trainer.done = int(state["step"])
            trainer.skipped = int(state.get("skipped", 0)) if dist.is_main else 0  # of all ranks
            if dist.is_main and trainer.done < config.steps:
                say(f"resuming at step {trainer.done} of {config.steps}")
        first, began = trainer.done, time.perf_counter()
        follow = (config, out, trainer.done, dist, trainer.device)
        log = open_log(*follow, trainer.use, warn)
        try:
            watch = open_watch(*follow, dataset, trainer.autocast, decode, warn)
            loader = trainer.loader(networks, warn)
            _run(trainer, loader, out, log, watch, progress if dist.is_main else silent)
        except KeyboardInterrupt:
            if trainer.done > first:
                _save(out, trainer)
            raise
        finally:
            log.close()
        seconds = time.perf_counter() - began
        model = trainer.averaged()
        if model is not None:
            export(out / "model", model, config, dataset, trainer.done)
        skipped = dist.all_reduce_sum(trainer.skipped)  # and what is said to be done is there
    rate = (trainer.done - first) / seconds
    return Trained(out / "model", trainer.done, log.last, seconds, rate, skipped)


def _begin(
    held: ExitStack, out: Path, config: TrainConfig, dataset: PairDataset, force: bool
) -> None:
    held.enter_context(only_process(out))
    begin_run(out, config, dataset, force)


def _with_batch(
    config: TrainConfig, out: Path, dataset: PairDataset, dist: Distributed
) -> TrainConfig:
    """The recipe with the batch that fits this rank's device, or that the run began with."""
    parts = dist.world_size * config.accumulate
    size = known_batch(out) or automatic_batch(config, dataset, dist.device) * parts
    return dataclasses.replace(config, batch_size=size)


def _run(
    trainer: Trainer,
    loader: StepLoader,
    out: Path,
    log: Log,
    watch: Watch | None,
    progress: Progress,
) -> None:
    """Step until ``config.steps`` are done, validating and saving as often as configured."""
    config, dist = trainer.config, trainer.dist
    progress("train", trainer.done, config.steps)
    looking = due(config.validate_every, config.steps, trainer.done)
    if looking and not dist.run_on_main(lambda: log.has(trainer.done, "val_loss")):
        _look(trainer, log, watch)  # an interrupt came before it was made
    if trainer.done >= config.steps:
        return
    start = trainer.done * config.accumulate
    pin = trainer.device if trainer.device.type == "cuda" else None
    reading = closing(prefetch(loader, start, pin=pin))
    with reading as batches, dist.interruptible() as interrupted:
        timed = Timed(batches)
        while trainer.done < config.steps:
            losses = _step(trainer, timed)
            rate = trainer.learning_rate
            log.add(losses, trainer.done, config.batch_size, timed.taken(), rate)
            last = trainer.done == config.steps
            saving = trainer.done % config.checkpoint_every == 0 or last
            looking = due(config.validate_every, config.steps, trainer.done)
            # reading a loss waits for the device: only where it was read anyhow, or before a save
            poor = (saving or looking) and not bool(losses.total.isfinite())
            if not math.isfinite(log.last) or ((saving or looking) and dist.any_rank(poor)):
                kept = checkpoint.latest(out / "checkpoints")
                dist.fail(
                    XmdptError(
                        f"the loss is no number any more at step {trainer.done}",
                        (f"{kept} is good; " if kept else "nothing was saved before; ")
                        + "try a lower --learning-rate in a new --out",
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


def _step(trainer: Trainer, batches: Timed) -> Losses:
    """A step; where memory gives out, an error that says how large a batch would fit."""
    try:
        return trainer.step(batches)
    except Exception as err:
        if not is_out_of_memory(err):
            raise
    # the error is gone by now, and with it what its frames held
    config, world = trainer.config, trainer.dist.world_size
    largest = largest_that_fits(trainer, trainer.micro_batch)
    raise too_large(config.batch_size, largest, trainer.device, world, config.accumulate)


def _look(trainer: Trainer, log: Log, watch: Watch | None) -> None:
    """Validate with the averaged weights; a collective, rank 0 does it."""
    with log.paused():
        model = trainer.averaged()

        def look() -> None:
            assert watch is not None
            assert model is not None
            watch.look(model, trainer.done, log)

        trainer.dist.run_on_main(look)


def _save(out: Path, trainer: Trainer) -> None:
    checkpoint.save(
        out / "checkpoints",
        trainer.done,
        trainer.model,
        trainer.ema.model,
        trainer.optimizers,
        {"seed": trainer.config.seed, "skipped": trainer.dist.all_reduce_sum(trainer.skipped)},
        trainer.config.keep_checkpoints,
        trainer.config.keep_every,
        trainer.dist,
    )
