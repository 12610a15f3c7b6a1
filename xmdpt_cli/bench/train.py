"""``xmdpt bench train``: the training step of the published code and of ``xmdpt train``.

Both have the same weights and inputs, and their losses are compared before anything is timed.
"published" computes as the published code does (see ``published``), with AdamW and EMA a tensor at
a time and the norms of weights and gradients read in every step. "published, online" also encodes
both images of each pair with DINOv2 and the VAE in every step.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from xmdpt_cli.bench.loader import make_dataset
from xmdpt_cli.bench.measure import measure_calls
from xmdpt_cli.bench.published import PublishedXMDPT
from xmdpt_cli.bench.random_networks import dinov2, random_xmdpt, sd_vae
from xmdpt_cli.bench.report import Report
from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.data.loader import TrainLoader
from xmdpt_cli.data.prefetch import prefetch
from xmdpt_cli.data.sampler import LoaderConfig
from xmdpt_cli.diffusion import Schedule
from xmdpt_cli.diffusion.loss import loss_terms
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.model import XMDPT, Mask
from xmdpt_cli.progress import Progress, silent
from xmdpt_cli.training.config import TrainConfig
from xmdpt_cli.training.ema import Ema
from xmdpt_cli.training.logger import TimedIterator
from xmdpt_cli.training.optimizer import make_optimizers
from xmdpt_cli.training.step import Inputs, TrainStep
from xmdpt_cli.training.trainer import compile_step
from xmdpt_cli.utils.counts import counted

CPU = torch.device("cpu")
DATASET_BYTES = 100_000_000  # of random numbers, which batches are read from

Step = Callable[[], float]  # takes one training step, returns the loss
Encoder = Callable[[Tensor], Any]


def make_inputs(model: XMDPT, count: int, device: torch.device = CPU, seed: int = 0) -> Inputs:
    """Random inputs of a step of ``count`` pairs on ``device``."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng)

    token_noise = torch.rand(count, model.tdnet.grid**2, generator=rng)
    inputs = Inputs(
        target=normal(count, *model.latent_shape),
        source=normal(count, *model.latent_shape),
        noise=normal(count, *model.latent_shape),
        masked_noise=normal(count, *model.latent_shape),
        timesteps=torch.randint(0, 1000, (count,), generator=rng),
        keep=torch.rand(count, generator=rng) > 0.1,
        keep_masked=torch.rand(count, generator=rng) > 0.1,
        pose_tokens=normal(count, *model.canet.pose_shape).bfloat16(),
        source_tokens=normal(count, *model.canet.source_shape).bfloat16(),
        mask=Mask.random(token_noise, model.mask_ratio),
        pose_maps=None,
        target_tokens=None,
    )
    moved: Inputs = tree_map_only(Tensor, lambda tensor: tensor.to(device), inputs)
    return moved


def published_step(
    model: XMDPT, config: TrainConfig, inputs: Inputs, autocast: bool = False
) -> Step:
    """The published step on a copy of ``model``."""
    net = PublishedXMDPT(copy.deepcopy(model))
    average = copy.deepcopy(net)
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=config.learning_rate, weight_decay=0.0, foreach=False, fused=False
    )
    schedule = Schedule()  # on the CPU, copied in every step as in the published code

    def loss(keep: Tensor, noise: Tensor, mask: Mask | None) -> Tensor:
        noisy = schedule.add_noise(inputs.target, noise, inputs.timesteps)
        conditions = inputs.pose_tokens, inputs.source_tokens, inputs.source
        with torch.autocast(noisy.device.type, torch.bfloat16, enabled=autocast):
            out = net(noisy, inputs.timesteps, *conditions, keep, mask).float()
        mse, vb = loss_terms(out, inputs.target, noise, inputs.timesteps)
        assert vb is not None
        return (mse + vb).mean()

    def step() -> float:
        assert inputs.masked_noise is not None
        total = loss(inputs.keep, inputs.noise, None)
        total = total + loss(inputs.keep_masked, inputs.masked_noise, inputs.mask)
        optimizer.zero_grad()
        total.backward()
        for parameter in net.parameters():  # the norms it logs
            assert parameter.grad is not None
            float(parameter.grad.square().sum())
            float(parameter.detach().square().sum())
        optimizer.step()
        with torch.no_grad():
            for mean, value in zip(average.parameters(), net.parameters(), strict=True):
                mean.mul_(config.ema).add_(value, alpha=1 - config.ema)
        return float(total.detach())

    return step


def xmdpt_step(
    model: XMDPT, config: TrainConfig, inputs: Inputs, compiled: bool, autocast: bool = False
) -> Step:
    """The step of ``xmdpt train`` on a copy of ``model``."""
    net = copy.deepcopy(model)
    device = inputs.target.device
    module = TrainStep(net, config, Schedule().to(device))
    module.autocast = autocast
    run = compile_step(module, config, device) if compiled else module
    (optimizer,) = make_optimizers(net, config)
    average, done = Ema(net, config.ema, False), 0

    def step() -> float:
        nonlocal done
        net.zero_grad(set_to_none=True)
        losses = run(inputs)
        losses.total.backward()
        optimizer.step()
        done += 1
        average.update(net, done)
        return float(losses.total.detach())

    return step


def published_encoders(device: torch.device, dtype: torch.dtype) -> list[tuple[Encoder, int]]:
    """The encoders of the published step, with the side of their input in pixels; random weights.

    DINOv2-G encodes both images of a pair, DINOv2-B both pose images (half of all that is never
    used), and the VAE both images.
    """
    giant, base = (dinov2(size, device, dtype) for size in ("giant", "base"))
    return [(giant, 224), (base, 224), (sd_vae(device, dtype).encode, 256)]


def online_step(
    step: Step,
    encoders: Sequence[tuple[Encoder, int]],
    count: int,
    device: torch.device = CPU,
    dtype: torch.dtype = torch.float32,
) -> Step:
    """Encode both images of ``count`` pairs, then ``step``, which does not read these features:
    only their time matters."""
    rng = torch.Generator().manual_seed(2)
    images = [
        torch.rand(2 * count, 3, side, side, generator=rng).to(device, dtype)
        for _, side in encoders
    ]

    def encode_and_step() -> float:
        with torch.no_grad():
            for (encode, _), batch in zip(encoders, images, strict=True):
                encode(batch)
        return step()

    return encode_and_step


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
) -> Report:
    """Pairs a second, and the share of the time that steps wait for batches from files.

    XmdptError if the first losses of the implementations differ.
    """
    calls: dict[str, Step] = {}
    waits: dict[str, float] = {}
    autocast = dtype == torch.bfloat16
    for size in sizes:
        model = random_xmdpt(size, pixels).to(device)
        config = TrainConfig(size=size, batch_size=batch, precision="fp32")
        inputs = make_inputs(model, batch, device)
        published = published_step(model, config, inputs, autocast)
        steps = {"published": published}
        steps["xmdpt"] = xmdpt_step(model, config, inputs, False, autocast)
        if compiled:
            steps["xmdpt, compiled"] = xmdpt_step(model, config, inputs, True, autocast)
        _check_losses({name: step() for name, step in steps.items()}, size, autocast)
        if online:
            encoders = published_encoders(device, dtype)
            encoding = online_step(published, encoders, batch, device, dtype)
            steps = {"published": published, "published, online": encoding, **steps}
        calls |= {f"X-MDPT-{size} / {name}": step for name, step in steps.items()}
        waits[f"X-MDPT-{size}"] = data_wait(list(steps.values())[-1], batch, rounds)
    settings = {"batch": batch, "pixels": pixels, "compiled": compiled, "online": online}
    title = f"a training step, seconds for {counted(batch, 'pair')}"
    report = measure_calls(
        "train", title, settings, device, dtype, calls, rounds, gradients=True, progress=progress
    )
    shares = ", ".join(f"{name} {share:.1%}" for name, share in waits.items())
    report.notes.append(f"time that steps wait for cached batches: {shares}")
    report.data_wait = waits
    return report


def _check_losses(losses: dict[str, float], size: str, autocast: bool) -> None:
    first = losses["published"]
    for name, loss in losses.items():
        if not abs(loss - first) <= (2e-2 if autocast else 1e-4) * abs(first):
            raise XmdptError(
                f"{size}, {name}: the loss is {loss:.6g}, that of the published step {first:.6g}",
                "this is a bug: nothing was timed",
            )


def data_wait(step: Step, batch: int, steps: int) -> float:
    """The share of time (0 to 1) that ``step`` waits for batches of cached 256 px features.

    A thread reads them ahead from a dataset of random numbers in the page cache: no disk is
    measured.
    """
    with tempfile.TemporaryDirectory(prefix="xmdpt-bench-") as folder:
        make_dataset(Path(folder), DATASET_BYTES)
        loader = TrainLoader(PairDataset(folder), LoaderConfig(batch, seed=0))
        with closing(prefetch(loader)) as batches:
            timed = TimedIterator(batches)
            next(timed)
            timed.pop_seconds()
            start = time.perf_counter()
            for _ in range(steps):
                next(timed)
                step()
            total = time.perf_counter() - start
    return timed.pop_seconds() / total
