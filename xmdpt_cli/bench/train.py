"""A training step, ours against the published way: what ``xmdpt bench train`` measures.

Same weights, same inputs, same losses (checked before anything is timed), rounds interleaved in
one run. "published" computes as the published code does (see ``published``), with AdamW and EMA a
tensor at a time and the norms of weights and gradients read every step. With ``online`` it has
features as it has them: DINOv2 and VAE on both images in every step.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xmdpt_cli.bench.flops import flops
from xmdpt_cli.bench.frozen import dinov2, placed, sd_vae
from xmdpt_cli.bench.loader import make_dataset
from xmdpt_cli.bench.published import PublishedXMDPT
from xmdpt_cli.bench.rates import Rated, rate
from xmdpt_cli.bench.timing import precision, randomise
from xmdpt_cli.data.loader import LoaderConfig, PairDataset, TrainLoader
from xmdpt_cli.data.prefetch import prefetch
from xmdpt_cli.diffusion import Schedule
from xmdpt_cli.diffusion.loss import loss_terms
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.model import XMDPT, Mask
from xmdpt_cli.progress import Progress, silent
from xmdpt_cli.training.config import TrainConfig
from xmdpt_cli.training.ema import Ema
from xmdpt_cli.training.optimizer import make_optimizers
from xmdpt_cli.training.step import Inputs, TrainStep

CPU = torch.device("cpu")
DATASET_BYTES = 100_000_000  # of random numbers, which batches are read from

Step = Callable[[], float]
Encoder = Callable[[Tensor], Any]


def make_inputs(model: XMDPT, count: int, seed: int = 0) -> tuple[Inputs, Tensor]:
    """Random inputs of a step, and the uniforms its mask comes from."""
    rng = torch.Generator().manual_seed(seed)
    net, canet = model.tdnet, model.canet

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng)

    uniform = torch.rand(count, net.grid**2, generator=rng)
    inputs = Inputs(
        target=normal(count, *model.latent_shape),
        source=normal(count, *model.latent_shape),
        noise=normal(count, *model.latent_shape),
        masked_noise=normal(count, *model.latent_shape),
        timesteps=torch.randint(0, 1000, (count,), generator=rng),
        keep=torch.rand(count, generator=rng) > 0.1,
        keep_masked=torch.rand(count, generator=rng) > 0.1,
        pose_tokens=normal(count, *canet.pose_shape).bfloat16(),
        source_tokens=normal(count, *canet.source_shape).bfloat16(),
        mask=Mask.random(uniform, model.mask_ratio),
        pose_maps=None,
        target_tokens=None,
    )
    return inputs, uniform


def published_step(
    model: XMDPT, config: TrainConfig, inputs: Inputs, uniform: Tensor, autocast: bool = False
) -> Step:
    """The published step on a copy of ``model``; a call takes one and returns the loss."""
    device = inputs.target.device
    net = PublishedXMDPT(copy.deepcopy(model))
    average = copy.deepcopy(net)
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=config.learning_rate, weight_decay=0.0, foreach=False, fused=False
    )
    schedule = Schedule()

    def step() -> float:
        assert inputs.masked_noise is not None
        total = torch.zeros((), device=device)
        for keep, noise, drawn in (
            (inputs.keep, inputs.noise, None), (inputs.keep_masked, inputs.masked_noise, uniform)
        ):  # fmt: skip
            noisy = schedule.add_noise(inputs.target, noise, inputs.timesteps)
            with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                out = net(
                    noisy,
                    inputs.timesteps,
                    inputs.pose_tokens,
                    inputs.source_tokens,
                    inputs.source,
                    keep,
                    drawn,
                ).float()
            mse, vb = loss_terms(out, inputs.target, noise, inputs.timesteps)
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


def our_step(
    model: XMDPT, config: TrainConfig, inputs: Inputs, compiled: bool, autocast: bool = False
) -> Step:
    """Our step on a copy of ``model``."""
    net = copy.deepcopy(model)
    module = TrainStep(net, config, Schedule())
    module.autocast = autocast
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


def published_encoders(
    device: torch.device = CPU, dtype: torch.dtype = torch.float32
) -> list[tuple[Encoder, int]]:
    """What the published step encodes both images of every pair with, and their side in pixels.

    DINOv2-G of both images, DINOv2-B of both poses (half of all that is never used), and the
    VAE's encoder on both; networks of the real architectures with random weights.
    """
    giant, base = (dinov2(size, device, dtype) for size in ("giant", "base"))
    vae = placed(sd_vae(), device, dtype)
    return [(giant, 224), (base, 224), (vae.encode, 256)]


def online_step(
    then: Step,
    encoders: Sequence[tuple[Encoder, int]],
    count: int,
    device: torch.device = CPU,
    dtype: torch.dtype = torch.float32,
) -> Step:
    """The published step as it is run: features of both images of ``count`` pairs, ``then`` it.

    The features are thrown away: ``then`` has its inputs, and only the time is looked at.
    """
    rng = torch.Generator().manual_seed(2)
    work = [
        (net, torch.rand(2 * count, 3, side, side, generator=rng).to(device, dtype))
        for net, side in encoders
    ]

    def step() -> float:
        with torch.no_grad():
            for net, images in work:
                net(images)
        return then()

    return step


def measure_training(
    sizes: Sequence[str],
    device: torch.device,
    dtype: torch.dtype,
    batch: int,
    *,
    pixels: int = 256,
    compiled: bool = True,
    online: bool = False,
    rounds: int = 10,
    progress: Progress = silent,
) -> dict[str, Any]:
    """The report: pairs a second, and the share of time that steps wait for batches from files.

    XmdptError where the ways' first losses differ.
    """
    parts: dict[str, Rated] = {}
    waits: dict[str, float] = {}
    autocast = dtype == torch.bfloat16
    for size in sizes:
        torch.manual_seed(0)
        model = XMDPT.from_size(size, latent_size=pixels // 8)
        randomise(model)
        config = TrainConfig(size=size, batch_size=batch, precision="fp32")
        given, uniform = make_inputs(model, batch)
        model, uniform = model.to(device), uniform.to(device)
        inputs = moved(given, device)
        published = published_step(model, config, inputs, uniform, autocast)
        ways = {"published": published}
        ways["ours"] = our_step(model, config, inputs, False, autocast)
        if compiled:
            ways["ours, compiled"] = our_step(model, config, inputs, True, autocast)
        _agree({name: way() for name, way in ways.items()}, size, autocast)
        if online:  # takes the published one's next step, with the encoders before it
            encoders = published_encoders(device, dtype)
            encoding = online_step(published, encoders, batch, device, dtype)
            ways = {"published": published, "published, online": encoding, **ways}
        for name, way in ways.items():
            work = float(flops(way, gradients=True))
            parts[f"X-MDPT-{size} / {name}"] = Rated(way, batch, work, dtype)
        waits[f"X-MDPT-{size}"] = data_wait(list(ways.values())[-1], batch, rounds)
    settings = {
        "batch": batch,
        "pixels": pixels,
        "precision": precision(dtype),
        "compiled": compiled,
        "online": online,
    }
    report = rate("train", settings, device, parts, rounds, progress)
    return {**report, "data_wait": waits}


def _agree(losses: dict[str, float], size: str, autocast: bool) -> None:
    first = losses["published"]
    for name, loss in losses.items():
        if not abs(loss - first) <= (2e-2 if autocast else 1e-4) * abs(first):
            raise XmdptError(
                f"{size}, {name}: the loss is {loss:.6g}, the published way's {first:.6g}",
                "this is a bug: nothing was timed",
            )


def moved(inputs: Inputs, device: torch.device) -> Inputs:
    """All of a step's tensors on ``device``."""

    def to(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(device)
        return type(value)(*map(to, value)) if isinstance(value, tuple) else value

    return Inputs(*map(to, inputs))


def data_wait(step: Step, batch: int, steps: int) -> float:
    """The share of time (0..1) that ``step`` waits for batches of cached 256 px features, which a
    thread reads ahead from a dataset of random numbers. Its pages are warm: no disk is measured."""
    with tempfile.TemporaryDirectory(prefix="xmdpt-bench-") as folder:
        make_dataset(Path(folder), DATASET_BYTES)
        batches = prefetch(TrainLoader(PairDataset(folder), LoaderConfig(batch, seed=0)))
        next(batches)
        waited, began = 0.0, time.perf_counter()
        for _ in range(steps):
            asked = time.perf_counter()
            next(batches)
            waited += time.perf_counter() - asked
            step()
        whole = time.perf_counter() - began
        batches.close()
    return waited / whole
