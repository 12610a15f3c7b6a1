"""The logger and the validator of a run, as its settings ask for them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from xmdpt_cli.diffusion import Schedule
from xmdpt_cli.progress import Say
from xmdpt_cli.training.logger import MetricsLogger
from xmdpt_cli.training.tracker import open_tracker
from xmdpt_cli.training.trainer import Trainer
from xmdpt_cli.training.validation import Decode, Validator


def setup_logging(trainer: Trainer, out: Path, warn: Say) -> MetricsLogger:
    """The run's logger; only rank 0 has a tracker. A collective."""
    config, dist = trainer.config, trainer.dist
    settings = dataclasses.asdict(config)
    return MetricsLogger(
        out,
        trainer.done,
        config.log_every,
        dist,
        device=trainer.device,
        flops_per_image=trainer.utilization.flops_per_pair,
        peak=trainer.utilization.peak,
        tracker=dist.only_on_main(lambda: open_tracker(config.track, out, settings)),
        steps=config.steps,
        warn=warn,
    )


def setup_validation(
    trainer: Trainer, out: Path, decode: Decode | None, warn: Say
) -> Validator | None:
    """The run's validator on rank 0; None on the other ranks, and without ``validate_every``. A
    collective."""
    config, device = trainer.config, trainer.device
    if not config.validate_every:
        return None
    return trainer.dist.only_on_main(
        lambda: Validator(
            out,
            trainer.dataset,
            Schedule(config.schedule, config.prediction).to(device),
            done=trainer.done,
            sampling={
                "steps": config.sampling_steps,
                "solver": config.sampling_solver,
                "guidance": config.guidance,
                "power": config.power,
            },
            tokens=config.conditioning == "tokens",
            device=device,
            autocast=trainer.autocast,
            seed=config.seed,
            images=config.validation_pairs,
            decode=decode,
            warn=warn,
        )
    )
