"""A training step, ours against the published way: ``python -m xmdpt_cli.bench.train --size S``.

Same weights, same inputs, same losses (checked before anything is timed), rounds interleaved in
one run. "published" computes as the published code does (see ``published``), with AdamW and EMA a
tensor at a time and the norms of weights and gradients read every step. ``--online`` adds the
published way of having features: DINOv2 and VAE on both pictures in every step.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from xmdpt_cli.bench.published import PublishedXMDPT
from xmdpt_cli.bench.timing import measure, randomise, report
from xmdpt_cli.diffusion import Schedule
from xmdpt_cli.diffusion.loss import loss_terms
from xmdpt_cli.model import XMDPT, Mask
from xmdpt_cli.training.ema import Ema
from xmdpt_cli.training.optimizer import make_optimizers
from xmdpt_cli.training.step import Inputs, TrainStep
from xmdpt_cli.training.train_config import TrainConfig

Step = Callable[[], float]
Encoder = Callable[[Tensor], Any]


def make_inputs(model: XMDPT, count: int, seed: int = 0) -> tuple[Inputs, Tensor]:
    """Random inputs of a step, and the uniforms its mask comes from."""
    rng = torch.Generator().manual_seed(seed)
    net, canet = model.tdnet, model.canet
    assert canet is not None

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng)

    uniform = torch.rand(count, net.grid**2, generator=rng)
    inputs = Inputs(
        target=normal(count, *model.latent_shape),
        source=normal(count, *model.latent_shape),
        noise=normal(count, *model.latent_shape),
        timesteps=torch.randint(0, 1000, (count,), generator=rng),
        keep=torch.rand(count, generator=rng) > 0.1,
        keep_masked=torch.rand(count, generator=rng) > 0.1,
        pose_tokens=normal(count, *canet.pose).bfloat16(),
        source_tokens=normal(count, *canet.source).bfloat16(),
        mask=Mask.draw(uniform, model.mask_ratio),
        pose_maps=None,
        target_tokens=None,
    )
    return inputs, uniform


def published_step(model: XMDPT, config: TrainConfig, inputs: Inputs, uniform: Tensor) -> Step:
    """The published step on a copy of ``model``; a call takes one and returns the loss."""
    net = PublishedXMDPT(model)
    average = copy.deepcopy(net)
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=config.learning_rate, weight_decay=0.0, foreach=False, fused=False
    )
    schedule = Schedule()

    def step() -> float:
        noisy = schedule.add_noise(inputs.target, inputs.noise, inputs.timesteps)
        total = torch.zeros(())
        for keep, noise in ((inputs.keep, None), (inputs.keep_masked, uniform)):
            out = net(
                noisy,
                inputs.timesteps,
                inputs.pose_tokens,
                inputs.source_tokens,
                inputs.source,
                keep,
                noise,
            )
            mse, vb = loss_terms(out, inputs.target, noisy, inputs.noise, inputs.timesteps)
            total = total + (mse + vb).mean()
        optimizer.zero_grad()
        total.backward()
        for parameter in net.parameters():  # the norms it logs
            assert parameter.grad is not None
            float(parameter.grad.square().sum())
            float(parameter.detach().square().sum())
        optimizer.step()
        with torch.no_grad():
            for ours, theirs in zip(average.parameters(), net.parameters(), strict=True):
                ours.mul_(config.ema).add_(theirs, alpha=1 - config.ema)
        return float(total.detach())

    return step


def our_step(model: XMDPT, config: TrainConfig, inputs: Inputs, compiled: bool) -> Step:
    """Our step on a copy of ``model``."""
    net = copy.deepcopy(model)
    module = TrainStep(net, config, Schedule())
    run = torch.compile(module, dynamic=False) if compiled else module
    (optimizer,) = make_optimizers(net, config)
    average, done = Ema(net, config.ema, False), [0]

    def step() -> float:
        net.zero_grad(set_to_none=True)
        losses = run(inputs)
        losses.total.backward()
        optimizer.step()
        done[0] += 1
        average.update(net, done[0])
        return float(losses.total.detach())

    return step


def published_encoders() -> list[tuple[Encoder, int]]:
    """What the published step encodes both pictures of every pair with, and their side in pixels.

    DINOv2-G of both pictures, DINOv2-B of both poses (half of all that is never used), and the
    VAE's encoder on both; networks of the real architectures with random weights.
    """
    from diffusers import AutoencoderKL
    from transformers import Dinov2Config, Dinov2Model

    # facebook/dinov2-giant, facebook/dinov2-base, stabilityai/sd-vae-ft-mse: their config.json
    giant = Dinov2Config(
        hidden_size=1536,
        num_hidden_layers=40,
        num_attention_heads=24,
        use_swiglu_ffn=True,
        image_size=518,
        patch_size=14,
    )
    base = Dinov2Config(image_size=518, patch_size=14)
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
    )
    dinos = [Dinov2Model(config).eval() for config in (giant, base)]
    return [*((dino, 224) for dino in dinos), (vae.encode, 256)]


def online_step(then: Step, encoders: Sequence[tuple[Encoder, int]], count: int) -> Step:
    """The published step as it is run: features of both pictures of ``count`` pairs, ``then`` it.

    The features are thrown away: ``then`` has its inputs, and only the time is looked at.
    """
    rng = torch.Generator().manual_seed(2)
    work = [(net, torch.rand(2 * count, 3, side, side, generator=rng)) for net, side in encoders]

    def step() -> float:
        with torch.no_grad():
            for net, pictures in work:
                net(pictures)
        return then()

    return step


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m xmdpt_cli.bench.train")
    parser.add_argument("--size", default="S")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--online", action="store_true", help="the published encoders as well")
    args = parser.parse_args(arguments)
    torch.manual_seed(0)
    config = TrainConfig(size=args.size, batch_size=args.batch_size, precision="fp32")
    model = XMDPT.from_size(args.size)
    randomise(model)
    inputs, uniform = make_inputs(model, args.batch_size)
    ways = {
        "published": published_step(model, config, inputs, uniform),
        "ours": our_step(model, config, inputs, compiled=False),
    }
    if not args.no_compile:
        ways["ours, compiled"] = our_step(model, config, inputs, compiled=True)
    losses = {name: way() for name, way in ways.items()}  # the first steps, compiling included
    for name, loss in losses.items():
        assert abs(loss - losses["published"]) < 1e-4 * abs(loss), (name, losses)
    if args.online:
        online = online_step(ways["published"], published_encoders(), args.batch_size)
        ways = {"published, online": online, **ways}
    print(
        f"size {args.size}, batches of {args.batch_size}, fp32, {torch.get_num_threads()} threads"
    )
    report(measure(ways, args.rounds), "published, online" if args.online else "published")


if __name__ == "__main__":
    main()
