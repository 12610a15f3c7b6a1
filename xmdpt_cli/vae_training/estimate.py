"""Estimates of the time, memory and disk that a VAE training needs, made before it starts."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from xmdpt_cli.metrics.lpips_metric import LpipsNetwork
from xmdpt_cli.training.estimate import Estimate, estimate
from xmdpt_cli.training.footprint import Cost, ReadyStep, parameter_bytes
from xmdpt_cli.vae_training.examples import sample_batch
from xmdpt_cli.vae_training.plan import Plan
from xmdpt_cli.vae_training.trainer import VaeTrainer


def estimate_finetuning(
    plan: Plan, perceptual: LpipsNetwork | None, out: Path, world: int = 1
) -> Estimate:
    """The estimate of ``xmdpt finetune-vae``; ``plan.vae`` must not be used afterwards.

    LPIPS counts in measured steps only; validation does not count.
    """
    vae, config = plan.vae, plan.config
    net = plan.decoder.net
    trainer = VaeTrainer(vae, config, perceptual, decoder=plan.decoder)
    for parameter in trainer.parameters:
        parameter.requires_grad_(True)
    trained, weights = parameter_bytes(trainer.parameters), parameter_bytes(net.parameters())
    frozen = 0 if plan.decoder is vae else parameter_bytes(vae.net.parameters())
    memory = {"weights": weights + frozen, "gradients": trained, "optimizer": 2 * trained}
    if config.ema:
        memory["average"] = trained
    side = plan.train.dataset.resolution

    def loss(nets: nn.Module, count: int) -> Tensor:
        full, trained = nets.get_submodule("vae"), nets.get_submodule("decoder")
        latents = torch.zeros(count, vae.channels, side // vae.factor, side // vae.factor)
        if config.all_weights or not plan.train.cached:
            with torch.set_grad_enabled(config.all_weights):
                latents = full.encode(torch.zeros(count, 3, side, side)).latent_dist.mean  # type: ignore[operator]
        decoded: Tensor = trained.decode(latents).sample  # type: ignore[operator]
        if config.tiny and config.full_share:
            with torch.no_grad():
                full.decode(latents)  # type: ignore[operator]
        return decoded.square().mean()

    def ready_step(count: int) -> ReadyStep:
        batch = sample_batch(plan.train, vae, config.seed, 0, count, 0, 1)
        # the update of a decoder takes little time beside its images: it is not measured apart
        return ReadyStep(lambda: trainer.step(batch), lambda: None)

    return estimate(
        Cost(nn.ModuleDict({"vae": vae.net, "decoder": net}), loss),
        ready_step,
        out=out,
        steps=config.steps,
        pairs=max(1, config.batch_size // world),
        accumulate=1,
        device=vae.device,
        bf16=trainer.autocast,
        memory=memory,
        checkpoint_bytes=(4 if config.ema else 3) * trained,
        kept=2,  # the newest is written before the oldest is removed
        model_bytes=weights,
        parameters={"training": trained // 4},
    )
