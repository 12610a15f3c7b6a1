"""Tasks of several ranks. ``torchrun distributed_tasks.py FOLDER`` runs ``end``."""

from __future__ import annotations

import atexit
import dataclasses
import json
import os
import sys
import weakref
from datetime import timedelta
from pathlib import Path

import torch
from small_teacher import SHORT
from torch import Tensor, nn

from xmdpt_cli.data.loader import Batch
from xmdpt_cli.distillation.distill import distill
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.training import checkpoint, loop
from xmdpt_cli.training.config import TrainConfig
from xmdpt_cli.training.distributed import Distributed
from xmdpt_cli.training.ema import Ema, local_shard
from xmdpt_cli.training.parallel import no_sync, parallelize, shard, warm_up
from xmdpt_cli.training.step_noise import StepBatch, StepLoader

BATCH, STEPS = 12, 6


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.shift = nn.Linear(7, 7), nn.Parameter(torch.zeros(1, 7))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.linear(x + self.shift).tanh()
        return out


class Net(nn.Module):
    """Sides that two do not divide, a weight of one row, blocks that run twice."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.blocks = nn.ModuleList([Block(), Block()])
            self.last = nn.Linear(7, 1)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            for block in self.blocks:
                x = block(x)
        loss: Tensor = self.last(x).square().mean()
        return loss


class Run:
    """What a loop does, small: the global batch of a step cut into ranks x micro batches."""

    def __init__(self, dist: Distributed, micro: int) -> None:
        self.dist, self.micro, self.net, self.done = dist, micro, Net(), 0
        self.ema = Ema(self.net, 0.9, warmup=True)
        shard(self.ema.model, dist, self.ema.model.blocks)
        self.wrapped = parallelize(self.net, dist, self.net.blocks)
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(self.net.parameters(), lr=0.01, fused=True)
        ]
        warm_up(self.wrapped, dist, lambda: self.wrapped(torch.ones(1, 7)))

    def step(self) -> float:
        x = torch.randn(BATCH, 7, generator=torch.Generator().manual_seed(self.done))
        rows = BATCH // (self.dist.world_size * self.micro)
        self.net.zero_grad(set_to_none=True)
        total = torch.zeros(())
        for micro in range(self.micro):
            mine = x[(micro * self.dist.world_size + self.dist.rank) * rows :][:rows]
            if micro < self.micro - 1:
                with no_sync(self.wrapped):
                    loss = self.wrapped(mine) / self.micro
                    loss.backward()
            else:
                loss = self.wrapped(mine) / self.micro
                loss.backward()
            total += loss.detach()
        self.optimizers[0].step()
        self.done += 1
        self.ema.update(self.net, self.done)
        return float(self.dist.all_reduce_mean(total))

    def save(self, folder: Path) -> Path:
        return checkpoint.save(
            folder, self.done, self.net, self.ema.model, self.optimizers, {}, 9, dist=self.dist
        )

    def load(self, path: Path) -> None:
        models = (self.net, self.ema.model)
        self.done = checkpoint.load(path, *models, self.optimizers, self.dist)["step"]


def train(folder: Path) -> None:
    """Train with DDP and FSDP2, resume from each other's checkpoint, write the results."""
    seen: dict[str, object] = {}
    for sharding in ("ddp", "fsdp"):
        dist = Distributed.init("cpu", sharding)
        for micro in (1, 2):
            run = Run(dist, micro)
            name = f"{sharding}-{micro}"
            seen[name] = [run.step() for _ in range(STEPS)]
            run.save(folder / name)
        if sharding == "fsdp":
            parameter = run.net.blocks[0].linear.weight
            seen["parts"] = [len(local_shard(parameter)), len(parameter)]
    for sharding, other in (("ddp", "fsdp"), ("fsdp", "ddp")):
        run = Run(Distributed.init("cpu", sharding), 1)
        run.load(folder / f"{other}-1" / f"step_{STEPS:07d}")
        run.save(folder / f"{sharding}-from-{other}")
    seen["any"] = [dist.any_rank(dist.rank == 1), dist.any_rank(False)]
    seen["sum"] = dist.all_reduce_sum(dist.rank + 5)
    seen["mean"] = dist.all_reduce_mean(torch.tensor([dist.rank, 5.0])).tolist()
    seen["done"] = dist.run_on_main(lambda: dist.rank)
    try:
        dist.run_on_main(refuse)
    except XmdptError as err:
        seen["refused"] = [err.message, err.hint]
    (folder / f"{dist.rank}.json").write_text(json.dumps(seen))


def refuse() -> None:
    raise XmdptError("no", "try yes")


def resume(folder: Path) -> None:
    """Three ranks: six steps, and three after resuming from the third."""
    for sharding in ("ddp", "fsdp"):
        dist = Distributed.init("cpu", sharding)
        run = Run(dist, 1)
        for _ in range(3):
            run.step()
        third = run.save(folder / sharding)
        for _ in range(3):
            run.step()
        run.save(folder / sharding)
        again = Run(dist, 1)
        again.load(third)
        for _ in range(3):
            again.step()
        again.save(folder / f"{sharding}-again")


def lose(folder: Path) -> None:
    """Train until another process is lost; write the error."""
    dist = Distributed.init("cpu", "ddp", timeout=timedelta(seconds=6))
    run = Run(dist, 1)
    run.step()
    (folder / f"{dist.rank}.ready").touch()
    try:
        with dist.translate_errors():
            while True:
                run.step()
    except XmdptError as err:
        (folder / "said.json").write_text(json.dumps([err.message, err.hint]))
        raise SystemExit(1) from None


def fit(folder: Path) -> None:
    """The real thing, once for each recipe in recipes.json; which pairs did this rank see?"""
    recipes = json.loads((folder / "recipes.json").read_text())
    read = StepLoader.batch
    for name, recipe in recipes.items():
        config = TrainConfig(**recipe)
        seen: dict[int, list[str]] = {}

        def batch(self: StepLoader, step: int, out: Batch | None = None) -> StepBatch:
            found = read(self, step, out)
            seen[step] = found.pairs  # noqa: B023
            return found

        StepLoader.batch = batch  # type: ignore[method-assign]
        loop.train(config, folder / "data", folder / name)
        steps = config.steps * config.accumulate  # more are read ahead
        pairs = [seen[step] for step in range(steps)]
        (folder / f"{name}-{os.environ['RANK']}.json").write_text(json.dumps(pairs))
    for sharding in ("ddp", "fsdp"):
        student = dataclasses.replace(SHORT, sharding=sharding, max_grad_norm=0.0)
        distill(student, folder / "teacher", folder / "data", folder / f"distill-{sharding}")


def end(folder: Path) -> None:
    """Write whether the process group still exists when the process exits."""
    atexit.register(
        lambda: (folder / os.environ["RANK"]).write_text("there" if group() else "gone")
    )
    dist = Distributed.init("cpu", "ddp")
    group = weakref.ref(torch.distributed.group.WORLD)
    run = Run(dist, 1)
    run.step()
    run.save(folder / "saved")
    run.cycle = run  # type: ignore[attr-defined]


if __name__ == "__main__":
    end(Path(sys.argv[1]))
