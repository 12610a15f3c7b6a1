"""What goes along with a run, by its settings: the log with its tracker, and the validation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch

from xmdpt_cli.data.loader import PairDataset
from xmdpt_cli.diffusion import Schedule
from xmdpt_cli.model import XMDPT
from xmdpt_cli.training.build_dataloader import feed
from xmdpt_cli.training.config import TrainConfig
from xmdpt_cli.training.distributed import Distributed
from xmdpt_cli.training.flops import peak_flops, step_flops
from xmdpt_cli.training.logger import Log
from xmdpt_cli.training.step import TrainStep, step_inputs
from xmdpt_cli.training.tracker import Tracker, open_tracker
from xmdpt_cli.training.validation import Decode, Watch

CPU = torch.device("cpu")


@dataclasses.dataclass(frozen=True)
class Utilisation:
    """What MFU is made of; None where no peak is known."""

    flops_per_pair: float | None = None
    peak: float | None = None  # of all devices together


def utilisation(
    config: TrainConfig,
    dataset: PairDataset,
    model: XMDPT,
    dist: Distributed,
    device: torch.device,
    autocast: bool,
) -> Utilisation:
    """FLOPs of a pair, counted, and of the devices, published; ask before ``model`` is sharded.

    Where the mask ratio is drawn its mean counts. The encoders of ``online`` do not count.
    """
    peak = peak_flops(device, autocast)
    if peak is None or not dist.is_main:
        return Utilisation()
    return Utilisation(pair_flops(config, dataset, model), peak * dist.world_size)


def pair_flops(config: TrainConfig, dataset: PairDataset, model: XMDPT) -> float:
    """FLOPs of a training step with this recipe, a pair."""
    ratio = config.mask_ratio + config.mask_span / 2
    plain = dataclasses.replace(config, online=False, mask_ratio=ratio, mask_span=0.0)
    batch = feed(plain, dataset, model, 1).batch(0)
    step = TrainStep(model, plain, Schedule(config.schedule, config.prediction))
    return float(step_flops(step, step_inputs(batch, plain, 0, 1.0, CPU)))


def open_log(
    config: TrainConfig,
    out: Path,
    done: int,
    dist: Distributed,
    device: torch.device,
    use: Utilisation,
    say: Callable[[str], None],
) -> Log:
    """The run's log; a collective, rank 0 alone has the tracker."""
    opened: list[Tracker | None] = []
    settings = dataclasses.asdict(config)
    dist.run_on_main(lambda: opened.append(open_tracker(config.track, out, settings)))
    return Log(
        out,
        done,
        config.log_every,
        dist,
        device=device,
        flops_per_image=use.flops_per_pair,
        peak=use.peak,
        tracker=opened[0] if opened else None,
        steps=config.steps,
        say=say,
    )


def open_watch(
    config: TrainConfig,
    out: Path,
    done: int,
    dist: Distributed,
    device: torch.device,
    dataset: PairDataset,
    autocast: bool,
    decode: Decode | None,
    say: Callable[[str], None],
) -> Watch | None:
    """What is validated on, read on rank 0; None on the others and if nothing is. A collective."""
    if not config.validate_every:
        return None
    opened: list[Watch] = []

    def begin() -> None:
        watch = Watch(
            out,
            dataset,
            Schedule(config.schedule, config.prediction).to(device),
            done=done,
            sampling={
                "steps": config.sampling_steps,
                "solver": config.sampling_solver,
                "guidance": config.guidance,
                "power": config.power,
            },
            tokens=config.conditioning == "tokens",
            device=device,
            autocast=autocast,
            seed=config.seed,
            pictures=config.validation_pairs,
            decode=decode,
            say=say,
        )
        opened.append(watch)

    dist.run_on_main(begin)
    return opened[0] if opened else None
