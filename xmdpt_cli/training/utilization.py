"""Inputs of model FLOPs utilisation (MFU): a run's FLOPs per pair, and its devices' peak."""

from __future__ import annotations

import dataclasses

import torch

from xmdpt_cli.data.loader import PairDataset
from xmdpt_cli.diffusion import Schedule
from xmdpt_cli.model import XMDPT
from xmdpt_cli.training.build_dataloader import build_dataloader
from xmdpt_cli.training.config import TrainConfig
from xmdpt_cli.training.distributed import Distributed
from xmdpt_cli.training.flops import peak_flops, step_flops
from xmdpt_cli.training.step import TrainStep, step_inputs

CPU = torch.device("cpu")


@dataclasses.dataclass(frozen=True)
class Utilization:
    """Both None where the device's peak is not known."""

    flops_per_pair: float | None = None
    peak: float | None = None  # FLOP/s of all devices together


def measure_utilization(
    config: TrainConfig,
    dataset: PairDataset,
    model: XMDPT,
    dist: Distributed,
    device: torch.device,
    autocast: bool,
) -> Utilization:
    """Count the FLOPs of a pair and look up the devices' peak; call before ``model`` is sharded."""
    peak = peak_flops(device, autocast)
    if peak is None or not dist.is_main:
        return Utilization()
    return Utilization(pair_flops(config, dataset, model), peak * dist.world_size)


def pair_flops(config: TrainConfig, dataset: PairDataset, model: XMDPT) -> float:
    """FLOPs of a training step per pair; the mean mask ratio counts, the encoders of ``online`` do
    not."""
    ratio = config.mask_ratio + config.mask_span / 2
    plain = dataclasses.replace(config, online=False, mask_ratio=ratio, mask_span=0.0)
    batch = build_dataloader(plain, dataset, model, 1).batch(0)
    step = TrainStep(model, plain, Schedule(config.schedule, config.prediction))
    return float(step_flops(step, step_inputs(batch, plain, 0, 1.0, CPU)))
