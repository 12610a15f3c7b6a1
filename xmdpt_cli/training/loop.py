"""The training loop: from a prepared dataset to a model folder; of ``train`` and of ``distill``.

All random numbers of a step follow from the seed and the step's number, so a resumed run ends with
the same weights, bit for bit, as one that was never interrupted.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import TypedDict, Unpack

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.data.prefetch import prefetch
from xmdpt_cli.diffusion import Losses
from xmdpt_cli.errors import XmdptError, is_out_of_memory
from xmdpt_cli.files import only_process
from xmdpt_cli.progress import Progress, Say, silent, silently
from xmdpt_cli.training import checkpoint
from xmdpt_cli.training.build_dataloader import EncoderPaths
from xmdpt_cli.training.config import TrainConfig
from xmdpt_cli.training.distributed import Distributed
from xmdpt_cli.training.estimate import pair_flops
from xmdpt_cli.training.find_batch_size import batch_too_large, find_batch_size, largest_that_fits
from xmdpt_cli.training.flops import peak_flops
from xmdpt_cli.training.logger import MetricsLogger, TimedIterator
from xmdpt_cli.training.run_config import RunConfig
from xmdpt_cli.training.run_folder import (
    export_model,
    find_initial_weights,
    read_run,
    start_run,
)
from xmdpt_cli.training.step import logged_terms
from xmdpt_cli.training.step_noise import StepBatch, StepLoader
from xmdpt_cli.training.task import LARGE, Task, TrainTask
from xmdpt_cli.training.tracker import check_tracker, open_tracker
from xmdpt_cli.training.trainer import Trainer
from xmdpt_cli.training.validation import Decode, Validator, is_validation_step


@dataclass
class TrainResult:
    """What ``train`` returns."""

    model: Path  # a folder for `xmdpt sample --model` and XMDPT.from_pretrained (EMA weights)
    steps: int
    loss: float  # mean over the last logged steps
    seconds: float  # of this call
    steps_per_second: float
    skipped: int = 0  # pairs that could not be read, over the whole run


class FitOptions(TypedDict, total=False):
    """Keyword arguments that ``train`` and ``distill`` pass on to ``fit``."""

    device: str
    progress: Progress
    warn: Say
    say: Say
    encoders: EncoderPaths | None
    decode: Decode | None
    force: bool


def train(
    config: TrainConfig,
    data: str | Path,
    out: Path,
    *,
    init_from: str | Path | None = None,
    **options: Unpack[FitOptions],
) -> TrainResult:
    """Train, or resume training, in the run folder ``out``.

    ``data`` is a dataset's folder, or a URL whose shards are streamed. ``init_from``: a model
    folder, a run or a hub id, whose weights a new run starts from; None: random weights.
    ``options`` as in ``fit``.

    Under torchrun every rank calls this and rank 0 writes. On an interrupt the state is saved
    first. Raises XmdptError if ``out`` holds another run, if ``data`` is not a prepared dataset,
    and if the loss is not finite.
    """
    return fit(
        config,
        lambda: TrainTask(config, training_pairs(data, out), find_initial_weights(init_from, out)),
        out,
        large=config.size in LARGE,
        **options,
    )


def training_pairs(data: str | Path, out: Path) -> PairDataset:
    """The training pairs of a dataset. A resumed run may skip a broken shard; a new run needs all
    shards."""
    return PairDataset(data, "train", lenient=(out / "checkpoints").is_dir())


def fit(
    config: RunConfig,
    make_task: Callable[[], Task],
    out: Path,
    *,
    large: bool,
    device: str = "cpu",
    progress: Progress = silent,
    warn: Say = silently,
    say: Say = silently,
    encoders: EncoderPaths | None = None,
    decode: Decode | None = None,
    force: bool = False,
) -> TrainResult:
    """Train a task with the settings ``config`` in the run folder ``out``; see ``train``.

    ``make_task`` is called when the process group exists, so that its errors are those of all
    ranks. ``large``: with sharding "auto" several processes use FSDP2. ``encoders``: where those of
    ``config.online`` are, if not where the dataset says. ``decode`` turns validation latents into
    images (``VAE.decode``). ``force`` resumes with changed settings, where that is possible
    (``run_folder.FORCEABLE``). ``warn`` receives warnings, for example about a broken shard, whose
    pairs are skipped (``TrainResult.skipped``); ``say`` receives other messages.
    """
    check_tracker(config.track)
    dist = Distributed.init(device, config.sharding, large=large)
    with dist.translate_errors(), ExitStack() as stack:
        task = make_task()
        for note in task.notes():
            warn(note)
        if not config.batch_size:  # auto
            size = dist.run_on_main(lambda: _batch_size(task, out, dist))
            task = task.replace(batch_size=size)
        trainer = Trainer(task, device, dist)  # before anything is written: may fail
        dist.only_on_main(lambda: stack.enter_context(only_process(out)))
        dist.run_on_main(lambda: start_run(out, task, force))
        if trainer.resume(out / "checkpoints") and dist.is_main and trainer.done < config.steps:
            say(f"resuming at step {trainer.done} of {config.steps}")
        first, start = trainer.done, time.perf_counter()
        logger = stack.enter_context(closing(_make_logger(trainer, out, warn)))
        validator = _make_validator(trainer, out, decode, warn)
        loader = trainer.loader(encoders, warn)
        try:
            _run_steps(
                trainer, loader, out, logger, validator, progress if dist.is_main else silent
            )
        except KeyboardInterrupt:
            if trainer.done > first:
                trainer.save(out / "checkpoints")
            raise
        seconds = time.perf_counter() - start
        model = trainer.ema_model()
        if model is not None:
            export_model(out / "model", model, task, trainer.done)
        skipped = dist.all_reduce_sum(trainer.skipped)  # also waits until the model is written
    speed = (trainer.done - first) / seconds
    return TrainResult(out / "model", trainer.done, logger.last_loss, seconds, speed, skipped)


def _batch_size(task: Task, out: Path, dist: Distributed) -> int:
    """The batch size of the run in ``out``, or the largest that fits on this rank's device."""
    run = read_run(out)
    if run is not None:
        return run["config"]["batch_size"]
    return find_batch_size(task, dist.device) * dist.world_size * task.config.accumulate


def _make_logger(trainer: Trainer, out: Path, warn: Say) -> MetricsLogger:
    """The logger of the run; only rank 0 has a tracker. A collective."""
    config, dist = trainer.config, trainer.dist
    peak = peak_flops(trainer.device, trainer.autocast) if dist.is_main else None
    settings = dataclasses.asdict(config)
    return MetricsLogger(
        out,
        trainer.done,
        config.log_every,
        dist,
        device=trainer.device,
        flops_per_image=None if peak is None else pair_flops(trainer.task),
        peak=None if peak is None else peak * dist.world_size,
        tracker=dist.only_on_main(lambda: open_tracker(config.track, out, settings)),
        steps=config.steps,
        warn=warn,
    )


def _make_validator(
    trainer: Trainer, out: Path, decode: Decode | None, warn: Say
) -> Validator | None:
    """The validator on rank 0; None on other ranks or without ``validate_every``. A collective."""
    if not trainer.config.validate_every:
        return None
    return trainer.dist.only_on_main(
        lambda: Validator(
            out,
            trainer.task,
            done=trainer.done,
            device=trainer.device,
            autocast=trainer.autocast,
            decode=decode,
            warn=warn,
        )
    )


def _run_steps(
    trainer: Trainer,
    loader: StepLoader,
    out: Path,
    logger: MetricsLogger,
    validator: Validator | None,
    progress: Progress,
) -> None:
    """Step until ``config.steps`` are done; validate and save as often as configured."""
    config, dist = trainer.config, trainer.dist
    progress(trainer.task.command, min(trainer.done, config.steps), config.steps)
    validating = is_validation_step(config.validate_every, config.steps, trainer.done)
    if validating and not dist.run_on_main(lambda: logger.has(trainer.done, "val_loss")):
        _validate(trainer, logger, validator)  # the run was interrupted before it
    if trainer.done >= config.steps:
        return
    pin = trainer.device if trainer.device.type == "cuda" else None
    reader = closing(prefetch(loader, trainer.done * config.accumulate, pin=pin))
    with reader as batches, dist.interruptible() as interrupted:
        timed = TimedIterator(batches)
        while trainer.done < config.steps:
            losses = _step(trainer, timed)
            step, wait = trainer.done, timed.pop_seconds()
            logger.log_step(
                logged_terms(losses), step, config.batch_size, wait, trainer.learning_rate
            )
            saving = step % config.checkpoint_every == 0 or step == config.steps
            validating = is_validation_step(config.validate_every, config.steps, step)
            _check_finite(trainer, losses, logger, out, before_write=saving or validating)
            if validating:  # before saving: a checkpoint never lacks its validation
                _validate(trainer, logger, validator)
            if saving:
                with logger.paused():
                    trainer.save(out / "checkpoints")
            progress(trainer.task.command, step, config.steps, **logger.progress_values)
            if interrupted():
                raise KeyboardInterrupt


def _step(trainer: Trainer, batches: TimedIterator[StepBatch]) -> Losses:
    """One step; if memory runs out, an error that names the largest batch that fits."""
    try:
        return trainer.step(batches)
    except Exception as err:
        if not is_out_of_memory(err):
            raise
    # outside the except block the error, and the tensors its frames hold, are freed
    config, world_size = trainer.config, trainer.dist.world_size
    largest = largest_that_fits(trainer, trainer.micro_batch)
    raise batch_too_large(config.batch_size, largest, trainer.device, world_size, config.accumulate)


def _check_finite(
    trainer: Trainer, losses: Losses, logger: MetricsLogger, out: Path, before_write: bool
) -> None:
    """XmdptError on all ranks if loss or weights are not finite. A collective ``before_write``.

    Reading a loss waits for the device, so only the logged mean is checked, and this step's loss
    and the weights before they are saved or validated.
    """
    message = f"the loss is not finite at step {trainer.done}"
    bad = before_write and not bool(losses.total.isfinite())
    if before_write and not bad and not trainer.has_finite_weights():
        bad, message = True, f"the weights are not finite at step {trainer.done}"
    if math.isfinite(logger.last_loss) and not (before_write and trainer.dist.any_rank(bad)):
        return
    kept = checkpoint.latest(out / "checkpoints")
    trainer.dist.fail(
        XmdptError(
            message,
            (f"{kept} is good; " if kept else "nothing was saved before; ")
            + "try a lower --learning-rate in a new --out",
        )
    )


def _validate(trainer: Trainer, logger: MetricsLogger, validator: Validator | None) -> None:
    """Validate the EMA model on rank 0. A collective."""
    with logger.paused():
        model = trainer.ema_model()

        def validate() -> None:
            assert validator is not None
            assert model is not None
            validator.validate(model, trainer.done, logger)

        trainer.dist.run_on_main(validate)
