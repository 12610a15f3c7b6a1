"""What a VAE training will take, before it begins: time, memory, disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.metrics.lpips_metric import LpipsNetwork
from xmdpt_cli.training.estimate import Estimate
from xmdpt_cli.training.footprint import Cost, parameter_bytes, step_time
from xmdpt_cli.utils import records
from xmdpt_cli.vae_training.examples import draw
from xmdpt_cli.vae_training.folder import STATE
from xmdpt_cli.vae_training.plan import Plan
from xmdpt_cli.vae_training.trainer import State, VaeTrainer


def estimate_finetuning(
    plan: Plan, perceptual: LpipsNetwork | None, out: Path, world: int = 1
) -> Estimate:
    """``plan.vae`` is used up: a few steps run where one takes ``LONG`` seconds at most.

    LPIPS counts in measured steps only; validation does not count.
    """
    vae, config = plan.vae, plan.config
    trainer = VaeTrainer(vae, config, perceptual)
    trained, whole = parameter_bytes(trainer.parameters), parameter_bytes(vae.net.parameters())
    average = trained if config.ema else 0
    pairs = max(1, config.batch_size // world)
    for parameter in trainer.parameters:
        parameter.requires_grad_(True)
    side = plan.train.dataset.resolution

    def loss(net: nn.Module, count: int) -> Tensor:
        latents = torch.zeros(count, vae.channels, side // vae.factor, side // vae.factor)
        if config.all_weights or not plan.train.cached:
            with torch.set_grad_enabled(config.all_weights):
                latents = net.encode(torch.zeros(count, 3, side, side)).latent_dist.mean  # type: ignore[operator]
        decoded: Tensor = net.decode(latents).sample  # type: ignore[operator]
        return decoded.square().mean()

    cost = Cost(vae.net, loss)
    memory = {"weights": whole, "gradients": trained, "optimizer": 2 * trained}
    memory |= {"average": average} if average else {}
    memory["activations"] = cost.activations(pairs)

    def ready(count: int) -> Callable[[], object]:
        batch = draw(plan.train, vae, config.seed, 0, count, 0, 1)
        return lambda: trainer.step(batch)

    seconds, how = step_time(cost.flops, pairs, pairs, vae.device, trainer.autocast, ready)
    state = 3 * trained + average
    left = max(0, config.steps - _done(out))
    counts = {"training": trained // 4}
    return Estimate(left, seconds, how, memory, state, counts, 2 * state + whole)


def _done(out: Path) -> int:
    """Steps that the state in ``out`` is of; 0 without one."""
    try:
        with safe_open(out / STATE, "pt") as file:
            return int(records.parse(State, file.metadata()["state"], STATE)["done"])
    except (OSError, SafetensorError, KeyError, TypeError, XmdptError):
        return 0
